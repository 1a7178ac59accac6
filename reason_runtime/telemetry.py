"""Nothing that happens on a line is reported to anybody: ONNX Runtime's telemetry is off before it is loaded."""

from __future__ import annotations

import os


def switch_off_telemetry() -> None:
    """Keep ONNX Runtime from making a device id and a database of events in the user's cache, and from sending them.

    Its wheel for Linux does so as soon as it is imported (seen with 1.32). A value that is already set stays.

    Source: ONNX Runtime's pull request 27379.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
