"""A Modbus TCP server that a PLC polls. Nothing in it can be written from outside.

Discrete inputs (function 2): 0 Ready, 1 Busy, 2 ResultValid, 3 Pass, 4 Fault.

Input registers (function 4), big-endian words; read them in one request, which is consistent:

| register | content |
|---|---|
| 0 | the five bits above: bit 0 Ready ... bit 4 Fault |
| 1 | ResultCode: 0 none, 1 OK, 2 NG, 3 UNKNOWN |
| 2, 3 | ResultCount, high word first: a new result is one that changes it; a jump says how many parts were missed |
| 4, 5 | Heartbeat, high word first: stands still when anything is wrong |
| 6, 7 | Score, IEEE float32, high word first; NaN where there is none |
| 8 - 39 | PartId, ASCII, two characters a register, the end of an id longer than 64 |
| 40, 41 | Threshold that the score was compared with, as Score |
| 42 - 47 | Bundle that judged, the first 12 digits of its content hash, as PartId; empty where none did |
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reason_runtime.errors import SinkError
from reason_runtime.line.extra import missing
from reason_runtime.line.messages import Message
from reason_runtime.line.sinks.loop_thread import LoopThread
from reason_runtime.line.sinks.plc import PlcState, of_camera

if TYPE_CHECKING:
    from pymodbus.server import ModbusTcpServer

REGISTERS = 48
BITS = 16
_PART_ID_BYTES = 64
_BUNDLE_BYTES = 12
_START_S = 10.0
_WRITE_S = 5.0


class ModbusSink:
    """See `Sink`.

    Args:
        host: Address to listen on.
        port: To listen on; 502 needs rights.
        unit: Device number that answers; 0 answers to all.
        camera: Whose results it shows; None: of all cameras.
    """

    keeps = False
    drives_line = True
    wants_pictures = False

    def __init__(self, host: str, port: int, *, unit: int, camera: str | None) -> None:
        self.name = f"modbus {host}:{port}"
        self.wants = of_camera(camera)
        self._address = (host, port)
        self._unit = unit
        self._loop: LoopThread | None = None
        self._server: ModbusTcpServer | None = None
        self._state = PlcState()

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            import pymodbus
        except ImportError as error:
            raise missing("modbus", error) from error
        logging.getLogger(pymodbus.__name__).setLevel(logging.CRITICAL)
        self._loop = LoopThread(self.name)
        try:
            self._server = self._loop.call(self._start(), timeout_s=_START_S)
        except (OSError, TimeoutError, RuntimeError) as error:
            self.close()
            raise SinkError(f"{self.name}: the server cannot start ({error})") from error

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        if self._loop is None or self._server is None:
            raise SinkError(f"{self.name}: is not open")
        for message in messages:
            if self._state.take(message):
                self._loop.call(self._write(self._server), timeout_s=_WRITE_S)

    def close(self) -> None:
        """See `Sink.close`."""
        loop, self._loop = self._loop, None
        server, self._server = self._server, None
        if loop is None:
            return
        self._state.stopped()
        try:
            if server is not None:
                loop.call(_shut_down(server), timeout_s=_WRITE_S)
        except TimeoutError as error:
            logging.getLogger(__name__).warning("%s: did not end cleanly (%s)", self.name, error)
        finally:
            loop.stop()

    async def _start(self) -> ModbusTcpServer:
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        def bits(values: list[bool]) -> list[SimData]:
            return [SimData(0, values=values + [False] * (BITS - len(values)), datatype=DataType.BITS)]

        registers = [SimData(0, values=plc_registers(self._state), datatype=DataType.REGISTERS)]
        holding = [SimData(0, values=[0], datatype=DataType.REGISTERS)]
        device = SimDevice(self._unit, simdata=(bits([]), bits(plc_bits(self._state)), holding, registers))
        server = ModbusTcpServer(device, address=self._address)
        await server.serve_forever(background=True)
        return server

    async def _write(self, server: ModbusTcpServer) -> None:
        flags = plc_bits(self._state)
        await server.async_setValues(self._unit, 2, 0, flags)
        await server.async_setValues(self._unit, 4, 0, plc_registers(self._state))


async def _shut_down(server: ModbusTcpServer) -> None:
    await server.shutdown()  # type: ignore[no-untyped-call]  # the library's


def plc_bits(state: PlcState) -> list[bool]:
    """The discrete inputs, from 0."""
    return [state.ready, state.busy, state.result_valid, state.passed, state.fault]


def plc_registers(state: PlcState) -> list[int]:
    """The input registers, from 0."""
    flags = sum(bit << place for place, bit in enumerate(plc_bits(state)))
    packed = struct.pack(
        f">HHIIf{_PART_ID_BYTES}sf{_BUNDLE_BYTES}s",
        flags,
        state.result_code,
        state.result_count & 0xFFFFFFFF,
        state.heartbeat & 0xFFFFFFFF,
        state.score,
        state.part_id.encode("ascii", "replace")[-_PART_ID_BYTES:],
        state.threshold,
        state.bundle.encode("ascii", "replace")[:_BUNDLE_BYTES],
    )
    return list(struct.unpack(f">{REGISTERS}H", packed))
