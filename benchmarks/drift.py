"""What the check of drift calls a drift, by simulation: `reason_runtime.line.drift` with scores whose law is known.

python -m benchmarks.drift        # writes benchmarks/results/drift.json, in half a minute

For each law and number of held-out images, bundles are drawn (a held-out set each) and set against lines that judge a
million parts of the same process, the median compared after every part. A sliding median of scores is the law's
quantile at the sliding median of uniform numbers, so that a few lines of those serve all laws.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import median_filter

from benchmarks.result_file import write_result
from reason_runtime.line.drift import drift_limits
from reason_runtime.manifest import ScoreStatistics

LAWS = {
    "normal": stats.norm(),
    "Gumbel (skewness 1.1)": stats.gumbel_r(),
    "log-normal 0.5 (skewness 1.8)": stats.lognorm(0.5),
    "exponential (skewness 2)": stats.expon(),
}
HELD_OUT = (8, 16, 32, 64, 128, 300)
PARTS = 1_000_000
WINDOW = 200
LINES, BUNDLES, FOUND = 20, 50_000, 300
DEFECTS = (0.02, 0.05, 0.1)
RESULT = Path(__file__).parent / "results" / "drift.json"

Numbers = NDArray[np.float64]


def main() -> None:
    """Simulate and write the result."""
    random = np.random.default_rng(0)
    low, high = medians(random, lines=LINES, parts=PARTS, window=WINDOW)
    rows = [
        {"law": name, "held_out": images, **measure(law, images, low, high, random=random)}
        for name, law in LAWS.items()
        for images in HELD_OUT
    ]
    found = {
        "command": "python -m benchmarks.drift",
        "window": WINDOW,
        "parts": PARTS,
        "lines": LINES,
        "bundles": BUNDLES,
        "found_in": FOUND,
        "defects": DEFECTS,
        "rows": rows,
    }
    write_result(RESULT, found)


def medians(random: np.random.Generator, *, lines: int, parts: int, window: int) -> tuple[Numbers, Numbers]:
    """The lowest and the highest sliding median of each line of uniform numbers."""
    runs = [median_filter(random.random(parts), size=window)[window:-window] for _ in range(lines)]
    return np.array([run.min() for run in runs]), np.array([run.max() for run in runs])


def bundles(
    law: stats.rv_continuous, images: int, *, count: int, random: np.random.Generator
) -> tuple[Numbers, Numbers]:
    """Centre and reach of as many bundles' limits."""
    scores = law.rvs((count, images), random_state=random)
    centre, std = scores.mean(axis=1), scores.std(axis=1)
    unit = drift_limits(ScoreStatistics(images=images, mean=0.0, std=1.0, minimum=0.0, maximum=0.0), parts=WINDOW)
    assert unit is not None
    return centre, std * unit.reach


def measure(
    law: stats.rv_continuous, images: int, low: Numbers, high: Numbers, *, random: np.random.Generator
) -> dict[str, object]:
    """False alarms and what is found; shifts in standard deviations of good scores."""
    centre, reach = bundles(law, images, count=BUNDLES, random=random)
    std = float(law.std())
    late = law.ppf(np.median(random.random((BUNDLES, WINDOW)), axis=1))
    up, down = (centre + reach - late) / std, (late - centre + reach) / std
    jump = float(np.quantile(up, 0.95))
    return {
        "false_alarms": false_alarms(law, centre, reach, low, high, defects=0.0),
        "false_alarms_with_defects": [false_alarms(law, centre, reach, low, high, defects=share) for share in DEFECTS],
        "found_up": jump,
        "found_down": float(np.quantile(down, 0.95)),
        "parts_of_twice_that": parts_until(law, centre, reach, shift=2 * jump * std, random=random),
    }


def false_alarms(
    law: stats.rv_continuous, centre: Numbers, reach: Numbers, low: Numbers, high: Numbers, *, defects: float
) -> float:
    """Share of pairs of a bundle and a line that raises the fault once or more; defects score above all good parts."""
    lowest, highest = law.ppf(low / (1 - defects)), law.ppf(high / (1 - defects))
    raised = [(first < centre - reach) | (last > centre + reach) for first, last in zip(lowest, highest, strict=True)]
    return float(np.mean(raised))


def parts_until(
    law: stats.rv_continuous, centre: Numbers, reach: Numbers, *, shift: float, random: np.random.Generator
) -> int | None:
    """Parts after an upward jump within which 95 of 100 bundles raise the fault."""
    taken = []
    for place in range(FOUND):
        scores = law.rvs(3 * WINDOW, random_state=random)
        scores[WINDOW:] += shift
        sliding = np.median(np.lib.stride_tricks.sliding_window_view(scores, WINDOW), axis=1)
        beyond = np.flatnonzero(sliding > centre[place] + reach[place])
        taken.append(int(beyond[0]) if len(beyond) else 3 * WINDOW)
    return int(np.quantile(taken, 0.95, method="higher"))


if __name__ == "__main__":
    main()
