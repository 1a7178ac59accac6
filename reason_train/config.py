"""What a training run is made of: the method's settings and the training's, with their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from reason_runtime.errors import ConfigurationError

TeacherName = Literal[
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18", "resnet50", "wide_resnet50_2"
]
Method = Literal["reason", "rd4ad"]
SuppressionTarget = Literal["teacher", "student"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]
NoisePlace = Literal["stem", "features"]
Preset = Literal["edge", "paper"]
Layout = Literal["mvtec", "oct2017", "aebad-s", "aebad-v", "visa", "folder"]
DeviceName = Literal["auto", "cpu", "cuda"]

TEACHER_NAMES: tuple[TeacherName, ...] = get_args(TeacherName)
PAPER_TEACHER: TeacherName = "wide_resnet50_2"
EDGE_TEACHER: TeacherName = "efficientnet_lite0"
PAPER_PROTOCOL_NOTE = (
    "paper protocol: the epoch was chosen by its figures on the TEST set, as the published code does; "
    "figures on that set are optimistic"
)
"""What every output of such a run says."""


def is_lite(teacher: TeacherName) -> bool:
    """Whether a teacher is a small one, with the small bottleneck and student of `lite.py`."""
    return teacher.startswith("efficientnet_lite")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ConfigurationError(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """Architecture, loss and map: all that decides what the trained model computes."""

    teacher: TeacherName
    """Frozen ImageNet network."""
    method: Method = "reason"
    """`reason` has latent noise and, by `suppression_layers`, suppression; `rd4ad` has neither (RD4AD, CVPR 2022)."""
    students: int = 1
    """Students, each with its bottleneck, that rebuild the same features; what they rebuild is added up."""
    suppression_layers: bool = True
    """Whether `reason` has its suppression layers (ASL), as published."""
    image_size_px: int = 256
    """Side of the square graph input. Source: the reference."""
    crop_from_px: int | None = None
    """Side the image is resized to before a centre crop of `image_size_px`; none: no crop. AeBAD: 256, then 224."""
    crop_px: tuple[int, int, int, int] | None = None
    """Part of every picture that is looked at, cut out before the resize: left, top, width, height; none: all of it."""
    black_level: int = 0
    """Value of images of 16 bits a channel that becomes 0; images of 8 bits are taken as they are."""
    white_level: int = 65535
    """Value of images of 16 bits a channel that becomes 255; 4095 for a 12-bit camera that writes 16-bit files."""
    suppression_target: SuppressionTarget = "teacher"
    """What suppressed features must equal: clean teacher features (as described) or the student's (as released)."""
    suppression_weight: float = 0.01
    """lambda of L_supp. Source: the paper, 0.01 on MVTec AD, 0.2 on OCT2017."""
    block_weight: float = 0.2
    """alpha of L_block. Source: the paper."""
    noise_std: float = 0.015
    """Standard deviation of the latent noise. Source: the paper."""
    noise_at: NoisePlace = "stem"
    """Where latent noise is added: the stem's output, as published, or the tapped features themselves."""
    whitening: float | Literal["measured"] | None = None
    """Power of the inverse correlation matrix that features are multiplied with, 0 = scaling only; none: raw.

    `measured`: before training, from its images, see `reason_train.whitening.measured_power`.
    """
    easy_share: float = 0.0
    """Share of positions whose gradient is scaled by `easy_gradient`; 0 = the paper's loss."""
    easy_below: float | None = None
    """Of these, only where the distance is below this share of how much the images vary; none: all."""
    easy_gradient: float = 1.0
    """Factor on the gradient of easy positions."""
    map_balance: float = 0.0
    """Power of its typical maximum on training images that each scale's map is divided by: 0 not at all, 1 equal."""
    map_sigma_px: float = 4.0
    """Of the Gaussian blur, px of the map. Source: the reference."""

    score_exponent: float | None = None
    """p of the generalised mean (mean of m^p)^(1/p) over the map that is the score; none: the maximum, as published."""

    roi: tuple[float, float, float, float] | None = None
    """Rectangle outside of which the map is 0: left, top, width, height as shares of the image; none: all of it."""
    ignore_mask_sha256: str | None = None
    """Of the image that says where the map is 0; none: nowhere."""

    @property
    def has_suppression(self) -> bool:
        """Whether there are suppression layers."""
        return self.method == "reason" and self.suppression_layers

    @property
    def has_stem_noise(self) -> bool:
        """Whether noise goes through the teacher's stages, as published; else the teacher sees clean images only."""
        return self.method == "reason" and self.noise_at == "stem"

    @property
    def has_region(self) -> bool:
        """Whether part of the map does not count."""
        return self.roi is not None or self.ignore_mask_sha256 is not None

    def __post_init__(self) -> None:
        _require(self.teacher in TEACHER_NAMES, f"teacher {self.teacher!r} is not one of {', '.join(TEACHER_NAMES)}")
        _require(self.method in get_args(Method), f"method {self.method!r} is not one of reason, rd4ad")
        _require(
            64 <= self.image_size_px <= 1024 and self.image_size_px % 32 == 0,
            f"image size {self.image_size_px} px is not a multiple of 32 between 64 and 1024",
        )
        _require(
            self.crop_from_px is None or self.crop_from_px >= self.image_size_px,
            f"crop from {self.crop_from_px} px is smaller than the image size {self.image_size_px} px",
        )
        _require(
            self.crop_px is None or self.crop_from_px is None,
            f"--crop cuts a part out before the resize and crop from {self.crop_from_px} px after it; choose one",
        )
        _require(
            0 <= self.black_level < self.white_level <= 65535,
            f"black level {self.black_level} and white level {self.white_level} are not 0 <= black < white <= 65535",
        )
        _require(1 <= self.students <= 8, f"{self.students} students are not between 1 and 8")
        _require(0 <= self.easy_share < 1, f"easy share {self.easy_share} is not in [0, 1)")
        _require(
            0 <= self.suppression_weight <= 1e6, f"suppression weight {self.suppression_weight} is negative or huge"
        )
        _require(
            self.score_exponent is None or 1 <= self.score_exponent <= 100,
            f"score exponent {self.score_exponent} is not between 1 and 100",
        )
        _require(0 <= self.map_balance <= 1, f"map balance {self.map_balance} is not in [0, 1]")
        _require(self.noise_std > 0, f"noise deviation {self.noise_std} is not positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Optimiser, schedule and data split."""

    epochs: int | None = None
    """Passes over the training images; exactly one of `epochs` and `steps` is set."""
    steps: int | None = None
    """Optimiser steps."""
    least_steps: int | None = None
    """`epochs` is raised to at least so many steps; small sets need the updates."""
    most_steps: int | None = None
    """`epochs` is cut to at most so many steps."""
    tile_px: int | None = None
    """Side of the tiles that pictures are cut into at native resolution; none: whole pictures, resized."""
    views: int = 0
    """New, slightly changed views of every training image in each round; 0: the images alone, as published."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    batch_size: int = 16
    """Images a step. Source: the paper."""
    optimizer: Optimizer = "adam"
    """Source: the paper uses Adam."""
    learning_rate: float = 0.005
    """Of bottleneck and student. Source: the paper."""
    suppression_learning_rate: float = 0.001
    """Of the suppression layers. Source: the paper."""
    beta1: float = 0.5
    """Source: the paper."""
    beta2: float = 0.999
    """Source: the paper."""
    schedule: Schedule = "constant"
    """`cosine` falls to zero at the last step."""
    bf16: bool = False
    """Whether networks run in bf16 autocast (the loss is always float32)."""
    seed: int = 111
    """Of initialisation, order and noise. Source: the paper's 111."""
    held_out_share: float = 0.2
    """Share of the good training images kept out of training for calibration."""

    def __post_init__(self) -> None:
        _require((self.epochs is None) != (self.steps is None), "exactly one of epochs and steps must be given")
        _require((self.epochs or self.steps or 0) > 0, "epochs and steps must be positive")
        _require(self.batch_size >= 2, f"batch size {self.batch_size} is below 2: half of a batch gets the noise")
        _require(0 <= self.views <= 100, f"{self.views} views an image are not between 0 and 100")
        _require(self.learning_rate > 0, f"learning rate {self.learning_rate} is not positive")
        _require(self.learning_rate <= 1e30, f"learning rate {self.learning_rate} is beyond float32")
        _require(0 <= self.seed < 2**64, f"seed {self.seed} is not between 0 and {2**64 - 1}")
        _require(0 <= self.held_out_share <= 0.5, f"held-out share {self.held_out_share} is not in [0, 0.5]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run's whole configuration, as it is written into run and bundle."""

    preset: Preset
    """Where the settings started from."""
    method: MethodConfig
    training: TrainingConfig
    departures: tuple[str, ...] = ()
    """How this run differs from the published method, in words; empty for `--preset paper` with its own teacher."""
    paper_protocol: bool = False
    """Whether the epoch is chosen by its figures on the TEST set, as published; else none is looked at."""

    @property
    def protocol_note(self) -> str | None:
        """What every output of the run must say of how its epoch was chosen; None where there is nothing to say."""
        return PAPER_PROTOCOL_NOTE if self.paper_protocol else None
