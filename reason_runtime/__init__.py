"""Inspect images with an exported bundle; needs no PyTorch.

```python
from reason_runtime import load

detector = load("bundle")
result = detector(image_uint8)  # (H, W, 3) RGB
result.decision, result.score, result.anomaly_map
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reason_runtime.detector import Detector, Result, load

__all__ = ["Detector", "Result", "load"]


def __getattr__(name: str) -> object:
    """Import the detector on first use, so that commands start at once."""
    if name in __all__:
        from reason_runtime import detector

        return getattr(detector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
