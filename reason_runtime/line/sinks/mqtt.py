"""Answers, events and heartbeats to an MQTT broker, at least once.

| topic | QoS | retained | content |
|---|---|---|---|
| `TOPIC/result` | 1 | no | one answer, JSON |
| `TOPIC/event` | 1 | no | one event, JSON |
| `TOPIC/beat` | 0 | yes | the latest heartbeat, JSON |
| `TOPIC/status` | 1 | yes | `online` at every connection; the broker makes it `offline` when one is lost (last will) |
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reason_runtime.atomic import reason
from reason_runtime.errors import ConfigurationError, SinkError
from reason_runtime.line.address import Address, host_and_port
from reason_runtime.line.extra import missing
from reason_runtime.line.messages import Beat, Message

if TYPE_CHECKING:
    import paho.mqtt.client as mqtt

_CONNECT_S = 5.0
_ACKNOWLEDGE_S = 5.0


class MqttSink:
    """See `Sink`.

    Args:
        host: Of the broker.
        port: Of the broker.
        topic: Begins every topic.
        client_id: Unique at the broker.
        login: User and password; None for none.
        tls: Encrypted, with the system's certificates.
    """

    keeps = True
    drives_line = False
    wants_pictures = False
    wants = None

    def __init__(
        self, host: str, port: int, *, topic: str, client_id: str, login: tuple[str, str | None] | None, tls: bool
    ) -> None:
        self.name = f"mqtt {host}:{port}/{topic}"
        self._host = host
        self._port = port
        self._topic = topic
        self._client_id = client_id
        self._login = login
        self._tls = tls
        self._client: mqtt.Client | None = None
        self._connected = threading.Event()
        self._ending = threading.Lock()

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            import paho.mqtt.client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise missing("mqtt", error) from error
        connected = threading.Event()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self._client_id)
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        if self._login is not None:
            client.username_pw_set(*self._login)
        if self._tls:
            client.tls_set()
        client.connect_timeout = _CONNECT_S
        # as they are given it: one that holds the client keeps it, and its sockets, until garbage is looked for
        client.on_connect = lambda client, _data, _flags, code, _properties: (
            None if code.is_failure else self._accepted(client, connected)
        )
        client.on_disconnect = lambda *_: connected.clear()
        try:
            client.connect(self._host, self._port, keepalive=10)
        except OSError as error:
            raise SinkError(f"{self.name}: cannot be reached ({reason(error)})") from error
        self._client, self._connected = client, connected
        client.loop_start()
        if not connected.wait(_CONNECT_S):
            self.close()
            raise SinkError(f"{self.name}: the broker did not accept us within {_CONNECT_S:g} s")

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`; returns when the broker has acknowledged."""
        client = self._client
        if client is None or not self._connected.is_set():
            raise SinkError(f"{self.name}: the connection is lost")
        sent = []
        for message in messages:
            line = message.line()
            content = json.dumps(line)
            if isinstance(message, Beat):
                client.publish(f"{self._topic}/beat", content, qos=0, retain=True)
            else:
                sent.append(client.publish(f"{self._topic}/{line['kind']}", content, qos=1))
        for information in sent:
            try:
                information.wait_for_publish(_ACKNOWLEDGE_S)
            except (RuntimeError, ValueError) as error:
                raise SinkError(f"{self.name}: cannot publish ({error})") from error
            if not information.is_published():
                raise SinkError(f"{self.name}: no acknowledgement within {_ACKNOWLEDGE_S:g} s")

    def close(self) -> None:
        """See `Sink.close`."""
        with self._ending:
            client, self._client = self._client, None
        if client is None:
            return
        if self._connected.is_set():
            try:
                client.publish(f"{self._topic}/status", "offline", qos=1, retain=True).wait_for_publish(1)
            except (RuntimeError, ValueError):  # lost at this very moment: the last will says it
                self._connected.clear()
        client.disconnect()
        client.loop_stop()

    def _accepted(self, client: mqtt.Client, connected: threading.Event) -> None:
        """Of each connection, also one that the library mends by itself: the broker has said `offline` meanwhile."""
        with self._ending:  # nothing is `online` after the `offline` of the end
            if self._client is client:
                client.publish(f"{self._topic}/status", "online", qos=1, retain=True)
                connected.set()


def open_mqtt(address: Address) -> MqttSink:
    """The sink at `mqtt://HOST:PORT/TOPIC`.

    Raises:
        ConfigurationError: No host, a topic that none can publish to, or a login that is not whole.
    """
    host, port = host_and_port(address, port=1883)
    topic = address.place.removeprefix("//").partition("/")[2].strip("/") or "reason"
    if set(topic) & set("+#"):
        raise ConfigurationError(f"{address.text}: topic {topic}, expected one without + and #, which only readers use")
    return MqttSink(
        host,
        port,
        topic=topic,
        client_id=address.word("client_id", f"reason-{secrets.token_hex(4)}"),
        login=_login(address),
        tls=address.word("tls", "no", among=("yes", "no")) == "yes",
    )


def _login(address: Address) -> tuple[str, str | None] | None:
    user = address.word("user", "")
    password_file = address.word("password_file", "")
    if not password_file:
        return (user, None) if user else None
    if not user:
        raise ConfigurationError(f"{address.text}: password_file without a user; add user=NAME")
    try:
        return user, Path(password_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{password_file}: cannot be read ({reason(error)})") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{password_file}: is no text in UTF-8; save the password as UTF-8") from error
