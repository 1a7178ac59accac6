"""Metrics for Prometheus at `http://HOST:PORT/metrics`.

| metric | labels |
|---|---|
| `reason_frames_total` | camera |
| `reason_frames_incomplete_total` | camera |
| `reason_decisions_total` | camera, decision |
| `reason_unknown_total` (drops: reason="dropped"; deadline misses: reason="deadline") | camera, reason |
| `reason_sink_missed_total` | sink |
| `reason_stage_seconds` (histogram: prepare, infer, judge, `wait for` each; total: grab to answer) | stage |
| `reason_score_ratio` (histogram of score / threshold) | camera |
| `reason_drift` (median of late scores: 0 is the mean of held-out good images, beyond -1..1 is a fault) | camera |
| `reason_queue_depth` | queue |
| `reason_healthy` | |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from reason_runtime.atomic import reason
from reason_runtime.errors import SinkError
from reason_runtime.line.extra import missing
from reason_runtime.line.messages import Beat, Message
from reason_runtime.line.metrics import Histogram, Metrics

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.metrics_core import Metric


class PrometheusSink:
    """See `Sink`; also the collector that the library asks at every scrape.

    Args:
        host: Address to listen on.
        port: To listen on.
        metrics: To show.
    """

    keeps = False
    drives_line = False
    wants_pictures = False
    wants = None

    def __init__(self, host: str, port: int, *, metrics: Metrics) -> None:
        self.name = f"prometheus {host}:{port}"
        self._host = host
        self._port = port
        self._metrics = metrics
        self._healthy = False
        self._server: tuple[WSGIServer, Thread] | None = None

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise missing("metrics", error) from error
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server = start_http_server(self._port, addr=self._host, registry=registry)
        except OSError as error:
            raise SinkError(f"{self.name}: cannot listen ({reason(error)})") from error

    def deliver(self, messages: Sequence[Message]) -> None:
        """See `Sink.deliver`."""
        for message in messages:
            if isinstance(message, Beat):
                self._healthy = message.healthy

    def close(self) -> None:
        """See `Sink.close`."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join(2)
            self._server = None

    def collect(self) -> Iterator[Metric]:
        """Everything at this moment."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        now = self._metrics.snapshot()
        for name, text, labels, counts in (
            ("reason_frames", "Frames taken in", ["camera"], _single(now.frames)),
            ("reason_frames_incomplete", "Frames without pixels", ["camera"], _single(now.grabbed_bad)),
            ("reason_decisions", "Answers", ["camera", "decision"], now.decisions),
            ("reason_unknown", "UNKNOWN answers by reason", ["camera", "reason"], now.causes),
            ("reason_sink_missed", "Messages that a sink never got", ["sink"], _single(now.missed)),
        ):
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, count in counts.items():
                counter.add_metric(list(values), count)
            yield counter
        for name, text, label, histograms in (
            ("reason_stage_seconds", "Time in each stage", "stage", now.stages),
            ("reason_score_ratio", "Score as a multiple of the threshold", "camera", now.scores),
        ):
            family = HistogramMetricFamily(name, text, labels=[label])
            for value, histogram in histograms.items():
                _add(family, value, histogram)
            yield family
        drift = GaugeMetricFamily("reason_drift", "Median of late scores; beyond -1..1 is a fault", labels=["camera"])
        for camera, place in now.drifts.items():
            drift.add_metric([camera], place)
        yield drift
        depth = GaugeMetricFamily("reason_queue_depth", "Items that wait", labels=["queue"])
        for queue, count in now.queues.items():
            depth.add_metric([queue], count)
        yield depth
        yield GaugeMetricFamily("reason_healthy", "1 while the heartbeat counts", value=float(self._healthy))


def _single(counts: dict[str, int]) -> dict[tuple[str, ...], int]:
    return {(name,): count for name, count in counts.items()}


def _add(family: HistogramMetricFamily, label: str, histogram: Histogram) -> None:
    reached = 0
    buckets = []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        reached += count
        buckets.append((bound, float(reached)))
    family.add_metric([label], buckets=buckets, sum_value=histogram.total)
