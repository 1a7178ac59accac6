"""What a station is: cameras with their models, sinks, and how they work together; from options or a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reason_runtime.choices import BackendChoice, BackPressure, Device, Precision, Provider
from reason_runtime.line.web.judge import WebSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Which model runs where; see `reason_runtime.detector.load`."""

    bundle: Path
    backend: BackendChoice = "onnxruntime"
    precision: Precision | None = None
    device: Device | None = None
    provider: Provider | None = None
    threads: int | None = None
    cuda_graph: bool = False
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraPlan:
    """One camera.

    Attributes:
        name: Unique; begins every part id.
        source: Its address, see `reason_runtime.line.sources.open`.
        model: What judges it; loaded once for all cameras that have the same.
        stall_s: Seconds without a frame that are a fault; None for a triggered camera.
    """

    name: str
    source: str
    model: ModelPlan
    stall_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Everything that `reason-run inspect` needs to know.

    Attributes:
        cameras: One or more.
        sinks: Addresses, see `reason_runtime.line.sinks.open`; none: lines on standard output.
        deadline_ms: After the grab; None: 1000 for live cameras, none for files.
        queue_frames: A camera's frames that may wait.
        back_pressure: None: `drop-oldest` for live cameras, `block` for files.
        batch: Frames through the model at once, at most; None: 2 with OpenVINO, else 1.
        batch_wait_ms: How long the first of a batch may wait for others.
        hang_s: A call that takes longer hangs.
        heartbeat_s: From beat to beat.
        journal: File that answers for parts in flight after a kill; None keeps none.
        journal_sync: Write every record through to the disk.
        dashboard: HOST:PORT of the web page; None for none.
        drift_parts: Scores a camera that the check of drift looks back on; 0 for no check.
        web: How tiles of a web are judged; None judges whole parts.
    """

    cameras: tuple[CameraPlan, ...]
    sinks: tuple[str, ...] = ()
    deadline_ms: float | None = None
    queue_frames: int = 4
    back_pressure: BackPressure | None = None
    batch: int | None = None
    batch_wait_ms: float = 0.0
    hang_s: float = 10.0
    heartbeat_s: float = 0.5
    journal: Path | None = None
    journal_sync: bool = False
    dashboard: str | None = None
    drift_parts: int = 200
    web: WebSettings | None = field(default=None)
