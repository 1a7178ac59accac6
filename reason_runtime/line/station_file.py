"""A station from its TOML file; whatever is not known there is an error with its path.

```toml
bundle = "/srv/line/bundles/current"
backend = "openvino"
deadline_ms = 200
journal = "/var/lib/reason/journal"
sinks = ["jsonl:/var/lib/reason/results.jsonl", "modbus://0.0.0.0:502"]

[[camera]]
name = "top"
source = "aravis:192.168.1.20?pixel_format=Mono8"
stall_s = 5

[[camera]]
name = "side"
source = "aravis:192.168.1.21?pixel_format=Mono8"
bundle = "/srv/line/bundles/side"    # this camera's own

[web]            # only for bundles trained with --tile
overlap_px = 32
lanes = 4
```
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reason_runtime.atomic import reason
from reason_runtime.choices import BACKEND_CHOICES, DEVICES, MOST_IN_A_RUN, PRECISIONS, PROVIDERS
from reason_runtime.errors import ConfigurationError
from reason_runtime.line.station import CameraPlan, ModelPlan, Station
from reason_runtime.line.table import Table
from reason_runtime.line.web.judge import WebSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_station(path: Path) -> Station:
    """The station that a file describes.

    Raises:
        ConfigurationError: It cannot be read, is not TOML, or holds a key or a value that is not known; with the path.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without the mark that Notepad writes
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({reason(error)})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not TOML ({error})") from error
    table = Table(values, where=f"{path}: ")
    bundle = table.optional_text("bundle")
    model = ModelPlan(
        bundle=Path(bundle or ""),  # where there is none, each camera must have its own
        backend=table.choice("backend", "onnxruntime", BACKEND_CHOICES),
        precision=table.optional_choice("precision", PRECISIONS),
        device=table.optional_choice("device", DEVICES),
        provider=table.optional_choice("provider", PROVIDERS),
        threads=table.optional_integer("threads", low=1),
        cuda_graph=table.boolean("cuda_graph", False),
        threshold=table.optional_number("threshold"),
    )
    if bundle is None and model.threshold is not None:
        raise ConfigurationError(f"{path}: threshold: is of no bundle; give it with the bundle of each camera")
    station = Station(
        cameras=tuple(_camera(item, model, needs_bundle=bundle is None) for item in table.tables("camera")),
        sinks=tuple(table.texts("sinks")),
        deadline_ms=table.optional_number("deadline_ms"),
        queue_frames=table.integer("queue_frames", 4, low=1),
        back_pressure=table.optional_choice("back_pressure", ("block", "drop-oldest")),
        batch=table.optional_integer("batch", low=1, high=MOST_IN_A_RUN),
        batch_wait_ms=table.number("batch_wait_ms", 0.0),
        hang_s=table.number("hang_s", 10.0),
        heartbeat_s=table.number("heartbeat_s", 0.5),
        journal=None if (journal := table.optional_text("journal")) is None else Path(journal),
        journal_sync=table.boolean("journal_sync", False),
        drift_parts=table.integer("drift_parts", 200),
        dashboard=table.optional_text("dashboard"),
        web=None if (web := table.table("web")) is None else _web(web),
    )
    table.finish()
    return station


def _camera(table: Table, station: ModelPlan, *, needs_bundle: bool) -> CameraPlan:
    own = table.text("bundle") if needs_bundle else table.optional_text("bundle")
    threshold = table.optional_number("threshold")
    model = replace(station, precision=table.optional_choice("precision", PRECISIONS) or station.precision)
    if own is not None and Path(own) != station.bundle:  # the station's threshold is of another bundle's scores
        model = replace(model, bundle=Path(own), threshold=None)
    if threshold is not None:
        model = replace(model, threshold=threshold)
    plan = CameraPlan(
        name=table.text("name"),
        source=table.text("source"),
        model=model,
        stall_s=table.optional_number("stall_s"),
    )
    table.finish()
    return plan


def _web(table: Table) -> WebSettings:
    settings = WebSettings(
        overlap_px=table.integer("overlap_px", 32),
        lanes=table.integer("lanes", 1, low=1),
        line_mm=table.optional_number("line_mm"),
        pixel_mm=table.optional_number("pixel_mm"),
    )
    table.finish()
    return settings
