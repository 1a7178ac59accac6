"""From an address to a sink.

| address | options | what |
|---|---|---|
| `jsonl:FILE` (`jsonl:-` for standard output) | `max_mib=64`, `keep=10`, `fsync=never` | answers and events |
| `pictures:DIR` | `max_mib=1024` | overlays of rejects, oldest removed first |
| `frames:DIR` | `max_mib=1024`, `near=0.9`, `good=0.01` | frames for the next training, oldest removed first |
| `mqtt://HOST:1883/TOPIC` | `user`, `password_file`, `tls=no`, `client_id` | extra `mqtt` |
| `opcua://0.0.0.0:4840` | `camera` | a server; extra `opcua` |
| `modbus://0.0.0.0:502` | `unit=1`, `camera` | a server; extra `modbus` |
| `prometheus://0.0.0.0:9100` | | `/metrics`; extra `metrics` |
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reason_runtime.elsewhere import require_elsewhere, require_outside
from reason_runtime.errors import ConfigurationError
from reason_runtime.line.address import Address, host_and_port, parse_address
from reason_runtime.line.metrics import Metrics
from reason_runtime.line.models import Models
from reason_runtime.line.sinks.jsonl import JsonlSink, StdoutSink
from reason_runtime.line.sinks.sink import Sink

_KINDS = ("jsonl", "pictures", "frames", "mqtt", "opcua", "modbus", "prometheus")
_ON_DISK = ("jsonl", "pictures", "frames")
_STDOUT = "-"
_LAST_UNIT = 255  # one byte; Modbus on TCP/IP has 255 for a device that is spoken to directly


def open_sink(
    text: str,
    *,
    models: Models,
    metrics: Metrics,
    read: Sequence[Path] = (),
    bundles: Sequence[Path] = (),
    journal: Path | None = None,
) -> Sink:
    """The sink at an address, not yet opened.

    Args:
        text: The address.
        models: Of the station.
        metrics: Of the station.
        read: Folders whose images are judged, into which no sink may put pictures.
        bundles: Of the station, into which no sink may write.
        journal: Of the station, in which no sink may write.

    Raises:
        ConfigurationError: The address is wrong, or one of these.
    """
    address = parse_address(text, kinds=_KINDS)
    if address.kind == "":
        raise ConfigurationError(f"{text}: is no sink; expected {', '.join(f'{kind}:' for kind in _KINDS)}")
    if address.kind in _ON_DISK and address.place != _STDOUT:
        require_outside(Path(address.place), bundles=bundles)
    if address.kind == "jsonl" and journal is not None and os.path.realpath(address.place) == os.path.realpath(journal):
        raise ConfigurationError(f"{text}: is the journal, which keeps open parts alone; give results their own file")
    sink = _sink(address, models, metrics, read)
    address.finish()
    return sink


def _sink(address: Address, models: Models, metrics: Metrics, read: Sequence[Path]) -> Sink:
    if address.kind == "jsonl":
        return _jsonl(address)
    if address.kind == "pictures":
        from reason_runtime.line.sinks.pictures import PicturesSink

        return PicturesSink(_folder(address, read), max_bytes=address.mebibytes("max_mib", 1024), models=models)
    if address.kind == "frames":
        from reason_runtime.line.sinks.frames import FramesSink

        return FramesSink(
            _folder(address, read),
            max_bytes=address.mebibytes("max_mib", 1024),
            near=address.amount("near", 0.9),
            good=_share(address, "good", 0.01),
        )
    if address.kind == "mqtt":
        from reason_runtime.line.sinks.mqtt import open_mqtt

        return open_mqtt(address)
    if address.kind == "opcua":
        from reason_runtime.line.sinks.opcua import OpcUaSink

        host, port = host_and_port(address, port=4840)
        return OpcUaSink(host, port, camera=_camera(address, models))
    if address.kind == "modbus":
        from reason_runtime.line.sinks.modbus import ModbusSink

        host, port = host_and_port(address, port=502)
        return ModbusSink(host, port, unit=_unit(address), camera=_camera(address, models))
    from reason_runtime.line.sinks.prometheus import PrometheusSink

    host, port = host_and_port(address, port=9100)
    return PrometheusSink(host, port, metrics=metrics)


def _folder(address: Address, read: Sequence[Path]) -> Path:
    if not address.place:
        raise ConfigurationError(f"{address.text}: expected {address.kind}:DIR")
    folder = Path(address.place)
    for source in read:
        require_elsewhere(folder, source=source)
    return folder


def _camera(address: Address, models: Models) -> str | None:
    """The one camera that a PLC is told of; None for all."""
    name = address.word("camera", "")
    if name and name not in (cameras := models.now):
        raise ConfigurationError(f"{address.text}: camera={name}, expected one of {', '.join(cameras)}")
    return name or None


def _unit(address: Address) -> int:
    unit = address.count("unit", 1)
    if unit > _LAST_UNIT:
        raise ConfigurationError(f"{address.text}: unit={unit}, expected 0, which answers to all, to {_LAST_UNIT}")
    return unit


def _share(address: Address, name: str, default: float) -> float:
    value = address.amount(name, default)
    if value > 1:
        raise ConfigurationError(f"{address.text}: {name}={value:g}, expected a share, 1 or less")
    return value


def _jsonl(address: Address) -> Sink:
    max_bytes = address.mebibytes("max_mib", 64)
    keep = address.count("keep", 10)
    fsync = address.word("fsync", "never", among=("never", "always"))
    if address.place == _STDOUT:
        return StdoutSink()
    if not address.place:
        raise ConfigurationError(f"{address.text}: expected jsonl:FILE, or jsonl:- for standard output")
    return JsonlSink(
        Path(address.place),
        max_bytes=max_bytes,
        keep=keep,
        fsync="always" if fsync == "always" else "never",
    )
