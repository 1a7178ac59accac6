"""An OPC UA server that a PLC or SCADA reads: object `Inspection` in namespace `urn:reason-edge:inspection`.

| variable | type |
|---|---|
| Ready, Busy, ResultValid, Pass, Fault | Boolean |
| ResultCode (0 none, 1 OK, 2 NG, 3 UNKNOWN), ResultCount, Heartbeat | UInt32 |
| PartId, Bundle (first 12 digits of the content hash), Faults | String |
| Score, Threshold (NaN where there is none) | Double |

With each result `ResultValid` goes false, then the values change, `Pass` and `ResultCode` last, then `ResultValid` goes
true. Clients cannot write, whoever they say they are. There is no encryption: for a machine network of its own.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from reason_runtime.errors import SinkError
from reason_runtime.line.extra import missing
from reason_runtime.line.messages import Answer, Message
from reason_runtime.line.sinks.loop_thread import LoopThread
from reason_runtime.line.sinks.plc import PlcState, of_camera

if TYPE_CHECKING:
    from asyncua.common.node import Node
    from asyncua.server.server import Server
    from asyncua.ua import VariantType

NAMESPACE = "urn:reason-edge:inspection"
_START_S = 20.0
_WRITE_S = 5.0


class OpcUaSink:
    """See `Sink`.

    Args:
        host: Address to listen on.
        port: To listen on.
        camera: Whose results it shows; None: of all cameras.
    """

    keeps = False
    drives_line = True
    wants_pictures = False

    def __init__(self, host: str, port: int, *, camera: str | None) -> None:
        self.name = f"opcua {host}:{port}"
        self.wants = of_camera(camera)
        self._address = (host, port)
        self._endpoint = f"opc.tcp://{f'[{host}]' if ':' in host else host}:{port}/"
        self._loop: LoopThread | None = None
        self._server: Server | None = None
        self._nodes: dict[str, Node] = {}
        self._state = PlcState()

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            from asyncua.server.server import Server
            from asyncua.ua.uaerrors import UaError
        except ImportError as error:
            raise missing("opcua", error) from error
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what fails is raised; it would tell it again, in full
        try:
            _require_free(*self._address)
            self._loop = LoopThread(self.name)
            self._server = Server()
            self._loop.call(self._start(self._server), timeout_s=_START_S)
        except (OSError, TimeoutError, UaError) as error:
            self.close()
            raise SinkError(f"{self.name}: the server cannot start ({error})") from error

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        if self._loop is None:
            raise SinkError(f"{self.name}: is not open")
        for message in messages:
            if self._state.take(message):
                self._loop.call(self._write(is_result=isinstance(message, Answer)), timeout_s=_WRITE_S)

    def close(self) -> None:
        """See `Sink.close`."""
        loop, self._loop = self._loop, None
        server, self._server = self._server, None
        self._state.stopped()  # opened again, it must not show the last result as one that came since
        if loop is None:
            return
        if server is not None:
            if self._nodes:
                self._end(loop, self._write(is_result=False))
            self._end(loop, server.stop())
        self._nodes = {}
        loop.stop()

    def _end(self, loop: LoopThread, step: Coroutine[object, object, None]) -> None:
        try:
            loop.call(step, timeout_s=_WRITE_S)
        except Exception as error:  # the library's own failures while it ends have no common ancestor
            logging.getLogger(__name__).warning("%s: did not end cleanly (%s)", self.name, error)

    async def _start(self, server: Server) -> None:
        from asyncua import ua

        await server.init()
        server.allow_remote_admin(False)  # the library's default: whoever says that it is `admin` may write all
        server.set_endpoint(self._endpoint)
        server.set_server_name("reason-edge")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        space = await server.register_namespace(NAMESPACE)
        station = await server.nodes.objects.add_object(space, "Inspection")
        for name, (value, kind) in self._values().items():
            place = ua.NodeId(ua.String(f"Inspection.{name}"), ua.Int16(space))
            self._nodes[name] = await station.add_variable(place, ua.QualifiedName(name, space), value, kind)
        await server.start()

    async def _write(self, *, is_result: bool) -> None:
        if is_result:
            await self._set("ResultValid", False)
        values = self._values()
        last = ("Pass", "ResultCode", "ResultCount", "ResultValid") if is_result else ()
        for name in [*(key for key in values if key not in last), *last]:
            await self._set(name, values[name][0])

    async def _set(self, name: str, value: object) -> None:
        from asyncua import ua

        kind = self._values()[name][1]
        await self._nodes[name].write_value(ua.DataValue(ua.Variant(value, kind)))

    def _values(self) -> dict[str, tuple[object, VariantType]]:
        from asyncua import ua

        state, kinds = self._state, ua.VariantType
        return {
            "Ready": (state.ready, kinds.Boolean),
            "Busy": (state.busy, kinds.Boolean),
            "ResultValid": (state.result_valid, kinds.Boolean),
            "Pass": (state.passed, kinds.Boolean),
            "Fault": (state.fault, kinds.Boolean),
            "ResultCode": (state.result_code, kinds.UInt32),
            "ResultCount": (state.result_count & 0xFFFFFFFF, kinds.UInt32),
            "Heartbeat": (state.heartbeat & 0xFFFFFFFF, kinds.UInt32),
            "PartId": (state.part_id, kinds.String),
            "Faults": (state.faults, kinds.String),
            "Score": (state.score, kinds.Double),
            "Threshold": (state.threshold, kinds.Double),
            "Bundle": (state.bundle, kinds.String),
        }


def _require_free(host: str, port: int) -> None:
    """Find out that a port is taken before the library builds a server, which is seconds of work at every try.

    Raises:
        OSError: It is; what else is wrong with the address, the library says.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
