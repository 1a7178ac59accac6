"""Whether good test images are rejected as seldom as the held-out ones promise.

    python benchmarks/coverage.py RUN... --data DIR [--false-reject-rate 0.05] [--out FILE.json]

A threshold's bound is exact for images that are as independent and as alike as the held-out ones
(`tests/train/test_calibration.py`). Whether later parts are is a question to real images: each run's threshold is
drawn from the good images of `train/` that it did not train on, and good test images are counted against it. `chance`
is that of so many rejects or more, were all of them alike: beta-binomial. `higher` is the share of pairs in which the
test image scores higher, 0.5 were they alike, with the two-sided p-value of Mann and Whitney. Random splits of images
thrown together would tell nothing: their counts follow from the ranks alone, whatever the images are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from result_file import require_place, write_result
from scipy import stats

from reason_runtime.entry import run_script
from reason_train.calibrate import calibration_images, unseen
from reason_train.calibration import threshold_for
from reason_train.datasets import load_dataset, require_test
from reason_train.run import library_versions
from reason_train.trained import judge, load_run


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs.")],
    data: Annotated[Path, typer.Option(help="Their data set, with good test images.")],
    false_reject_rate: Annotated[float, typer.Option(help="Wanted rate.")] = 0.05,
    out: Annotated[Path | None, typer.Option(help="JSON result.", show_default="stdout")] = None,
) -> None:
    """Count good test images that thresholds of held-out ones reject."""
    require_place(out)
    dataset = load_dataset(data)
    good = [sample.path for sample in require_test(dataset) if not sample.anomalous]
    found = []
    for folder in runs:
        run, model = load_run(folder)
        held_out, test = (
            judge(model, calibration_images(run, paths), device=torch.device("cpu"), keep_maps=False).scores
            for paths in (unseen(run, dataset).paths, good)
        )
        students = run.config.method.students
        found.append({"students": students, **_compared(held_out, test, rate=false_reject_rate)})
    result = {
        "data": dataset.name,
        "false_reject_rate": false_reject_rate,
        "runs": found,
        "libraries": library_versions(),
        "command": f"python benchmarks/coverage.py RUN... --data {data.name} --false-reject-rate {false_reject_rate:g}",
    }
    write_result(out, result)


def _compared(held_out: NDArray[np.float32], test: NDArray[np.float32], *, rate: float) -> dict[str, float]:
    threshold = threshold_for(held_out, false_reject_rate=rate, source="held-out good images")
    rejected = int((test >= threshold.value).sum())
    ranks = stats.mannwhitneyu(test, held_out)
    return {
        "held_out": len(held_out),
        "held_out_rejected": threshold.rejected,
        "bound": threshold.false_reject_upper_bound,
        "test": len(test),
        "test_rejected": rejected,
        "chance": float(
            stats.betabinom.sf(rejected - 1, len(test), threshold.rejected + 1, len(held_out) - threshold.rejected)
        ),
        "higher": float(ranks.statistic / (len(test) * len(held_out))),
        "p_value": float(ranks.pvalue),
    }


if __name__ == "__main__":
    run_script(main)
