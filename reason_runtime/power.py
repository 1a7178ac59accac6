"""Power of the board, where a sensor tells: NVIDIA GPUs by their driver, Jetson by its INA3221 monitors."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

_INTERVAL_S = 0.2
_RAILS = Path("/sys/bus/i2c/drivers/ina3221")
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")


class PowerMeter:
    """Samples the sensor in the background while it is entered.

    Args:
        on_gpu: Whether the work runs on a GPU; what an NVIDIA board draws beside work on the CPU says nothing about it.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._samples_w: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="power", daemon=True)

    def __enter__(self) -> PowerMeter:
        if power_w(on_gpu=self._on_gpu) is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def mean_w(self) -> float | str:
        """Watts on average, or the words `not measured` where there is no sensor."""
        return sum(self._samples_w) / len(self._samples_w) if self._samples_w else "not measured"

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            found = power_w(on_gpu=self._on_gpu)
            if found is not None:
                self._samples_w.append(found)


def power_w(*, on_gpu: bool) -> float | None:
    """Watts at this moment, of a Jetson's whole board or of an NVIDIA GPU; None without a sensor that can be read."""
    if _RAILS.is_dir():
        return _jetson_w()
    return _nvidia_w() if on_gpu else None


def _jetson_w() -> float | None:
    for label in sorted(_RAILS.glob("*/hwmon/hwmon*/in*_label")):
        if label.read_text(encoding="ascii").strip() in _WHOLE_BOARD:
            number = label.name[2 : -len("_label")]
            try:
                millivolts = int((label.parent / f"in{number}_input").read_text(encoding="ascii"))
                milliamperes = int((label.parent / f"curr{number}_input").read_text(encoding="ascii"))
            except (OSError, ValueError):
                return None
            return millivolts * milliamperes / 1e6
    return None


def _nvidia_w() -> float | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    try:
        return float(done.stdout.splitlines()[0])
    except (IndexError, ValueError):  # no driver, or a board that does not tell
        return None
