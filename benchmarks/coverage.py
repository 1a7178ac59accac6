"""How often the promise of a threshold holds: calibrate on random parts of good images, count rejects among the rest.

    python benchmarks/coverage.py RUN --data DIR [--splits 2000] [--out FILE.json]

Takes every good image that the run did not train on (held-out training images and good test images), splits them at
random into a calibration part and a rest, and asks how often the rest's reject rate stays within the calibration's
95 % upper bound. A finite rest makes its reject rate scatter around the true one, so the exact probability that a
correct bound covers it is below 95 % and is computed too (beta-binomial), for comparison.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy import stats

from reason_runtime.entry import run_script
from reason_train.calibrate import unseen
from reason_train.calibration import threshold_for
from reason_train.datasets import load_dataset
from reason_train.image_store import ImageStore
from reason_train.trained import input_format, judge, load_run


def main(
    run: Annotated[Path, typer.Argument(help="Finished run.")],
    data: Annotated[Path, typer.Option(help="Its data set.")],
    splits: Annotated[int, typer.Option(help="Random splits.")] = 2000,
    false_reject_rate: Annotated[float, typer.Option(help="Wanted rate.")] = 0.05,
    out: Annotated[Path | None, typer.Option(help="JSON result.", show_default="stdout")] = None,
) -> None:
    """Count how often the bound holds."""
    trained, model = load_run(run)
    dataset = load_dataset(data)
    paths = [*unseen(trained, dataset).paths, *(sample.path for sample in dataset.test if not sample.anomalous)]
    store = ImageStore(paths, input_format=input_format(trained.config.method))
    scores = judge(model, store, device=torch.device("cpu"), keep_maps=False).scores
    half = len(scores) // 2
    random = np.random.default_rng(0)
    held = 0
    rates, bounds = [], []
    for _ in range(splits):
        order = random.permutation(len(scores))
        threshold = threshold_for(scores[order[:half]], false_reject_rate=false_reject_rate, source="split")
        rate = float((scores[order[half:]] >= threshold.value).mean())
        held += rate <= threshold.false_reject_upper_bound
        rates.append(rate)
        bounds.append(threshold.false_reject_upper_bound)
    rest = len(scores) - half
    # with no reject in the calibration part, the rest's count is beta-binomial(rest, 1, half)
    allowed = int(np.floor(np.median(bounds) * rest))
    result = {
        "data": dataset.name,
        "good_images": len(scores),
        "calibrated_on": half,
        "splits": splits,
        "bound_median": float(np.median(bounds)),
        "reject_rate_mean": float(np.mean(rates)),
        "bound_held": held / splits,
        "expected_held": float(stats.betabinom.cdf(allowed, rest, 1, half)),
        "command": f"python benchmarks/coverage.py RUN --data {data.name} --splits {splits}",
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="") if out is None else out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
