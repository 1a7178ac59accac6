"""Nothing on a line is reported to anybody: what inference libraries report is off before they are loaded."""

from __future__ import annotations

import os
import sys


def switch_off_telemetry() -> None:
    """Keep ONNX Runtime and OpenVINO from giving the user an id in a file, and from sending events.

    ONNX Runtime's wheel for Linux does so as soon as it is imported (seen with 1.32); a value of its variable that is
    already set stays. OpenVINO's reports its import by the package `openvino-telemetry`, and does without that where it
    cannot be imported (seen with 2026.4); one that this process has imported already stays.

    Source: ONNX Runtime's pull request 27379; `openvino/tools/ovc/telemetry_utils.py` in OpenVINO's wheel.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it then fails
