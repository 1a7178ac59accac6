"""Everything `evaluate` says about one test set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from reason_runtime.errors import DataError
from reason_train.aupro import Masks, aupro, aupro_per_image, partly_defective, pro_curve
from reason_train.datasets.samples import Sample
from reason_train.metrics import BestF1, auroc, average_precision, best_f1
from reason_train.ranking import Rates, Values, masks_that_count, of_counted, rank, roc_curve


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """Figures of a part of the test set; None where the part lacks good or defective images or pixels, or masks.

    Attributes:
        good: How many good images it is judged with.
        defective: How many defective images.
        image_auroc: 0..1.
        pixel_auroc: 0..1, over all pixels of these images.
        aupro: 0..1, over all regions of these images, up to a false-positive rate of 0.3.
    """

    good: int
    defective: int
    image_auroc: float | None
    pixel_auroc: float | None
    aupro: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelResult:
    """Figures that need masks.

    Attributes:
        auroc: Pixel AUROC over all test pixels, 0..1.
        aupro: Standard AUPRO over the whole test set, up to a false-positive rate of 0.3, 0..1.
        aupro_per_image: The reference's convention, 0..1; see `reason_train.aupro`. None where every defective image is
            defective all over.
        average_precision: Over all test pixels, 0..1.
        best_f1: Over all test pixels.
        unmarked: Defective images without a defective pixel: their defects vanished when the masks were resized, lie
            where defects do not count, or were never drawn. No figure of pixels knows of them.
        roc: Corners of the curve whose area `auroc` is, to be drawn.
        pro: Corners of the per-region overlap curve, to be drawn.
    """

    auroc: float
    aupro: float
    aupro_per_image: float | None
    average_precision: float
    best_f1: BestF1
    unmarked: int
    roc: tuple[Rates, Rates] = field(compare=False, repr=False)
    pro: tuple[Rates, Rates] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of a whole test set.

    Attributes:
        good: How many good test images there are.
        defective: How many defective test images.
        image_auroc: 0..1.
        average_precision: Of the image scores, 0..1.
        best_f1: Of the image scores, with its threshold.
        pixel: Figures that need masks; None without.
        per_defect: Each defect type against all good images.
        per_group: Each domain or video on its own; empty for data sets without groups.
        group_mean: Unweighted mean over the groups; a figure that a group lacks is None. None without groups.
    """

    good: int
    defective: int
    image_auroc: float
    average_precision: float
    best_f1: BestF1
    pixel: PixelResult | None = None
    per_defect: dict[str, PartResult] = field(default_factory=dict)
    per_group: dict[str, PartResult] = field(default_factory=dict)
    group_mean: PartResult | None = None

    def to_json(self) -> dict[str, object]:
        """What `evaluate --json` prints; `f1_max` is that of the image scores, pixel figures are null without masks."""
        pixel = self.pixel
        return {
            "good": self.good,
            "defective": self.defective,
            "image_auroc": self.image_auroc,
            "pixel_auroc": pixel.auroc if pixel else None,
            "aupro": pixel.aupro if pixel else None,
            "aupro_per_image": pixel.aupro_per_image if pixel else None,
            "f1_max": self.best_f1.f1,
            "f1_max_threshold": self.best_f1.threshold,
            "f1_max_accuracy": self.best_f1.accuracy,
            "average_precision": self.average_precision,
            "pixel_f1_max": pixel.best_f1.f1 if pixel else None,
            "pixel_f1_max_threshold": pixel.best_f1.threshold if pixel else None,
            "pixel_average_precision": pixel.average_precision if pixel else None,
            "defective_unmarked": pixel.unmarked if pixel else None,
            "per_defect": {name: asdict(part) for name, part in self.per_defect.items()},
            "per_group": {name: asdict(part) for name, part in self.per_group.items()},
            "group_mean": asdict(self.group_mean) if self.group_mean else None,
        }


def evaluate_scores(
    samples: Sequence[Sample],
    scores: Values,
    *,
    maps: Values | None,
    masks: Masks | None,
    counted: NDArray[np.bool_] | None = None,
) -> Evaluation:
    """Judge the scores and maps of a test set.

    Args:
        samples: N test images, good and defective.
        scores: (N,) raw image scores.
        maps: (N, S, S) raw anomaly maps; None for image level only.
        masks: (N, S, S) from `read_masks`; None for image level only.
        counted: (S, S), True where defects count: figures of pixels are of these alone, since the map is 0 elsewhere
            whatever the model finds. None: everywhere.

    Returns:
        Without figures of pixels, where no defect is marked, or nothing else is, where defects count.

    Raises:
        ValueError: The lengths or shapes differ.
        DataError: A score or a map is not finite (the image is named), the test images are all of one kind, or the
            masks are all empty.
    """
    _check(samples, scores, maps=maps, masks=masks)
    if masks is not None and counted is not None:
        masks = masks_that_count(masks, counted)
    anomalous = np.array([sample.anomalous for sample in samples], dtype=np.bool_)
    defective = int(anomalous.sum())
    if defective in (0, len(samples)):
        raise DataError(
            f"the test images are {len(samples) - defective} good and {defective} defective; an evaluation needs both"
        )
    ranking = rank(scores, anomalous)
    part = partial(_part, scores=scores, anomalous=anomalous, maps=maps, masks=masks, counted=counted)
    defects = np.array([sample.defect for sample in samples])
    groups = np.array([sample.group or "" for sample in samples])
    per_group = {str(name): part(groups == name) for name in np.unique(groups[groups != ""])}
    return Evaluation(
        good=len(samples) - defective,
        defective=defective,
        image_auroc=auroc(ranking),
        average_precision=average_precision(ranking),
        best_f1=best_f1(ranking),
        pixel=None
        if maps is None or masks is None
        else _pixel_result(maps, masks, counted=counted, unmarked=int((anomalous & ~masks.any(axis=(1, 2))).sum())),
        per_defect={str(name): part(~anomalous | (defects == name)) for name in np.unique(defects[anomalous])},
        per_group=per_group,
        group_mean=_mean(list(per_group.values())) if per_group else None,
    )


def _check(samples: Sequence[Sample], scores: Values, *, maps: Values | None, masks: Masks | None) -> None:
    if scores.shape != (len(samples),):
        raise ValueError(f"scores of shape {scores.shape} for {len(samples)} samples; expected one each")
    for name, values in (("score", scores), ("anomaly map", maps)):
        if values is None:
            continue
        if len(values) != len(samples):
            raise ValueError(f"{len(values)} anomaly maps for {len(samples)} samples; expected one each")
        for sample, value in zip(samples, values, strict=True):
            if not np.isfinite(value).all():
                raise DataError(f"{sample.path}: its {name} is not finite; the model or the run that gave it is broken")
    if maps is not None and masks is not None:
        if maps.shape != masks.shape:
            raise ValueError(f"maps of shape {maps.shape} and masks of shape {masks.shape}; expected equal shapes")
        if not masks.any():
            first = next((sample for sample in samples if sample.anomalous), samples[0])
            size = f"{masks.shape[1]} x {masks.shape[2]} pixels"
            raise DataError(f"{first.path}: its mask and all others are empty at {size}; remove or mend them")


def _pixel_result(maps: Values, masks: Masks, *, counted: NDArray[np.bool_] | None, unmarked: int) -> PixelResult:
    ranking = rank(of_counted(maps, counted), of_counted(masks, counted))
    partly = partly_defective(masks, counted=counted).any()
    return PixelResult(
        auroc=auroc(ranking),
        aupro=aupro(ranking, masks),
        aupro_per_image=aupro_per_image(maps, masks, counted=counted) if partly else None,
        average_precision=average_precision(ranking),
        best_f1=best_f1(ranking),
        unmarked=unmarked,
        roc=roc_curve(ranking),
        pro=pro_curve(ranking, masks),
    )


def _part(
    chosen: NDArray[np.bool_],
    *,
    scores: Values,
    anomalous: NDArray[np.bool_],
    maps: Values | None,
    masks: Masks | None,
    counted: NDArray[np.bool_] | None,
) -> PartResult:
    labels = anomalous[chosen]
    defective = int(labels.sum())
    pixel_auroc = overlap = None
    if maps is not None and masks is not None:
        marked = of_counted(masks[chosen], counted)
        if marked.any() and not marked.all():
            ranking = rank(of_counted(maps[chosen], counted), marked)
            pixel_auroc = auroc(ranking)
            overlap = aupro(ranking, masks[chosen])
    return PartResult(
        good=labels.size - defective,
        defective=defective,
        image_auroc=auroc(rank(scores[chosen], labels)) if 0 < defective < labels.size else None,
        pixel_auroc=pixel_auroc,
        aupro=overlap,
    )


def _mean(parts: Sequence[PartResult]) -> PartResult:
    def mean(figures: list[float | None]) -> float | None:
        known = [figure for figure in figures if figure is not None]
        return sum(known) / len(known) if len(known) == len(figures) else None

    return PartResult(
        good=sum(part.good for part in parts),
        defective=sum(part.defective for part in parts),
        image_auroc=mean([part.image_auroc for part in parts]),
        pixel_auroc=mean([part.pixel_auroc for part in parts]),
        aupro=mean([part.aupro for part in parts]),
    )
