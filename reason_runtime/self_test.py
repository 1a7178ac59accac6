"""Before a line starts: the loaded model gives what the trained model gave, and a picture is resized as at export.

A check of the bundle tells more, but somebody has to run it, and it ends with the version of the library that it was
made with. This runs at every start.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reason_runtime.bundle import Bundle
from reason_runtime.choices import Precision, run_name
from reason_runtime.errors import ParityError
from reason_runtime.golden import Golden
from reason_runtime.image import InputFormat, input_of
from reason_runtime.session import Session

MOST_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 0.1, "int8": 0.3}
"""Between a score and the trained model's, as a share of the largest; as `check` demands."""
MOST_LEVELS = 2
"""Grey levels by which a pixel may differ from Pillow's. A resize rounds twice, and some take the other axis first. The
first rounding moves a pixel by half a level at most, and weights that sum to 1 keep that: before the second the two lie
one level apart at most, of which that makes two where both are halves (1 of 250,000 pixels of noise, 80 x 80 to 64)."""
_SINGLE = 3
"""Golden images that go through the model one by one, of good parts and of painted defects in turns."""


def require_golden_answers(session: Session, bundle: Bundle, *, most_in_a_run: int) -> None:
    """Run golden images, one by one and in every larger number up to `most_in_a_run`, and the bundle's picture.

    Fewer images than a check has, by the same limits: what passed a check here passes. It warms the model up, too.

    Raises:
        ParityError: A score differs by more than its precision may, a map is not finite, or the picture is resized
            otherwise.
        BackendError: The inference library failed.
        BundleError: The golden arrays are broken.
    """
    golden = bundle.golden()
    images, scores = _in_turns(golden)
    smallest_unit, first, worst = np.abs(golden.score).max(), 0, 0.0
    for count in (*[1] * _SINGLE, *range(2, most_in_a_run + 1)):
        run = np.arange(first, first + count) % len(scores)
        first += count
        outputs = session.run(images[run])
        gap = np.abs(outputs.score - scores[run]) / np.maximum(np.abs(scores[run]), smallest_unit)
        is_finite = np.isfinite(gap).all() and np.isfinite(outputs.anomaly_map).all()
        worst = max(worst, float(gap.max()) if is_finite else np.inf)
    told = resized_otherwise(levels_apart(golden, form=bundle.manifest.input))
    limit = MOST_DIFFERENCE[session.precision]
    if worst > limit:
        told.append(
            f"scores of golden images differ by up to {worst:.1e} of the largest from the trained model's, at most "
            f"{limit:g} is allowed"
        )
    if told:
        name = run_name(session.backend, session.provider, session.precision)
        raise ParityError(
            f"{bundle.path}: {name} is not what was exported: {'; '.join(told)}; `reason-export check` says "
            "more; mend the cause, or choose another backend or precision"
        )


def levels_apart(golden: Golden, *, form: InputFormat) -> int | None:
    """Most grey levels between what the picture becomes here and what it became at export; None without a picture."""
    known = golden.preparation
    if known is None:
        return None
    here = input_of(known.picture, input_format=form)
    return int(np.abs(here.astype(np.int16) - known.prepared).max())


def resized_otherwise(levels: int | None) -> list[str]:
    """The gate of `levels_apart`, in words where it does not hold."""
    if levels is None or levels <= MOST_LEVELS:
        return []
    return [
        f"a picture is resized otherwise here than at export: a pixel differs by {levels} grey levels, at most "
        f"{MOST_LEVELS} is rounding; install another version of Pillow"
    ]


def _in_turns(golden: Golden) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Images and scores of good parts and of painted defects: one of each, as long as there are both."""
    kinds = [golden] if golden.painted is None else [golden, golden.painted]
    order = sorted((index, kind) for kind, known in enumerate(kinds) for index in range(len(known.score)))
    images = np.stack([kinds[kind].images[index] for index, kind in order])
    return images, np.array([kinds[kind].score[index] for index, kind in order], np.float64)
