"""The published code's choice of the epoch: whichever has the best figures on the TEST set. Only for comparison.

Every second epoch, and on OCT2017 every one, the test set is judged; the epoch with the highest mean of image AUROC,
pixel AUROC and AUPRO per image is the one that is reported, on sets without masks and on OCT2017 that with the highest
image AUROC. Such figures are optimistic: the test set chose the model that it then judges.

Source: REASON, IEEE TCSVT 2025, the released training scripts.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reason_runtime.atomic import write_text
from reason_runtime.errors import ConfigurationError, RunError
from reason_train.checkpoint import State, trained_tensors
from reason_train.config import PAPER_PROTOCOL_NOTE, Config
from reason_train.datasets import DataSet, read_masks, require_test
from reason_train.evaluation import evaluate_scores
from reason_train.image_store import ImageStore
from reason_train.model import ReasonModel
from reason_train.run import PAPER_PROTOCOL
from reason_train.trained import input_format, judge

BEST = "best."
"""Before the names of the best epoch's tensors in a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochFigures:
    """What one epoch gave on the test set; pixel figures are None without masks."""

    epoch: int
    image_auroc: float
    pixel_auroc: float | None
    aupro_per_image: float | None

    @property
    def merit(self) -> float:
        """What the epochs are compared by: the mean of the three, or image AUROC alone where there are no masks."""
        figures = (self.image_auroc, self.pixel_auroc, self.aupro_per_image)
        known = [figure for figure in figures if figure is not None]
        return sum(known) / len(known)


class EpochChoice:
    """Judges epochs on the test set and keeps the tensors of the best one; of equal ones the first.

    Raises:
        ConfigurationError: The run is too short to be judged even once.
        DataError: The test set lacks good or defective images, or its masks do not fit.
    """

    def __init__(self, dataset: DataSet, config: Config, *, device: torch.device) -> None:
        method, epochs = config.method, config.training.epochs or 0
        self._every_epochs = 1 if dataset.layout == "oct2017" else 2
        if epochs < self._every_epochs:
            raise ConfigurationError(
                f"--paper-protocol judges every {self._every_epochs} epochs, this run has {epochs}; give more --epochs"
            )
        self._samples, self._device = require_test(dataset), device
        self._masks = read_masks(self._samples, size_px=method.image_size_px, resize_px=method.crop_from_px)
        self._store = ImageStore([sample.path for sample in self._samples], input_format=input_format(method))
        self.epochs: list[EpochFigures] = []
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> EpochFigures:
        """The epoch that is reported."""
        return max(self.epochs, key=lambda figures: figures.merit)

    def is_due(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the test set is judged after so many steps."""
        return step % (steps_per_epoch * self._every_epochs) == 0

    def judge(self, model: ReasonModel, *, epoch: int) -> None:
        """Judge a model as it stands after an epoch, 1 being the first; leaves it in training mode.

        Raises:
            RunError: A score is not finite.
            ImageError: A test image cannot be read.
        """
        judgement = judge(model, self._store, device=self._device, keep_maps=self._masks is not None)
        evaluation = evaluate_scores(
            self._samples, judgement.scores, maps=judgement.maps, masks=self._masks, counted=model.head.counts
        )
        pixel = evaluation.pixel
        figures = EpochFigures(
            epoch=epoch,
            image_auroc=evaluation.image_auroc,
            pixel_auroc=pixel.auroc if pixel else None,
            aupro_per_image=pixel.aupro_per_image if pixel else None,
        )
        self.epochs.append(figures)
        if self.best is figures:
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in trained_tensors(model).items()}
        model.train()

    def state(self) -> State:
        """What a checkpoint must hold of the choice so far."""
        return State(
            tensors={BEST + name: tensor for name, tensor in self._best.items()},
            facts={"epochs": json.dumps([dataclasses.asdict(figures) for figures in self.epochs])},
        )

    def restore(self, checkpoint: State) -> None:
        """Go on from a checkpoint."""
        self.epochs = [EpochFigures(**figures) for figures in json.loads(checkpoint.facts.get("epochs", "[]"))]
        tensors = checkpoint.tensors.items()
        self._best = {name.removeprefix(BEST): tensor for name, tensor in tensors if name.startswith(BEST)}

    def finish(self, model: ReasonModel, run: Path) -> None:
        """Put the best epoch into the model and say in the run how it was chosen."""
        model.load_state_dict(self._best, strict=False)  # all but the teacher, which does not change
        criterion = "image AUROC" if self._masks is None else "mean of image AUROC, pixel AUROC and AUPRO per image"
        facts = {
            "note": PAPER_PROTOCOL_NOTE,
            "criterion": criterion,
            "chosen_epoch": self.best.epoch,
            "epochs": [dataclasses.asdict(figures) for figures in self.epochs],
        }
        write_text(run / PAPER_PROTOCOL, json.dumps(facts, indent=2) + "\n")


def described_protocol(folder: Path, config: Config) -> str | None:
    """How a finished run with the paper's protocol came to its epoch, and which that is; None for every other run.

    Raises:
        RunError: The file that says so is missing or not as this version writes it.
    """
    if not config.paper_protocol:
        return None
    path = folder / PAPER_PROTOCOL
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"{PAPER_PROTOCOL_NOTE} (epoch {chosen['chosen_epoch']} of {config.training.epochs}, {chosen['criterion']})"
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: does not say which epoch was chosen ({error}); train again") from error
