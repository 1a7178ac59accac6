"""The options of `reason-train`; settings left out come from the preset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reason_train.config import DeviceName, Layout, Method, Preset, SuppressionTarget, TeacherName

_PRESET = "the preset's"

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="Data set: a category folder, or a root with --category.")
]
Category = Annotated[str | None, typer.Option(help="Category inside a root of several.")]
CategoryOrAll = Annotated[str | None, typer.Option(help="Category inside a root of several, or `all` of them.")]
Dataset = Annotated[
    Layout | None,
    typer.Option(help="Layout of the data set.", show_default="recognised by its folders"),
]
Device = Annotated[DeviceName, typer.Option(help="Where to compute; cuda is never replaced by cpu.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `reason-train fit` wrote.")]
RunFolders = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that `reason-train fit` wrote; of several runs for `all`.")
]
OutFolder = Annotated[Path, typer.Option("--out", metavar="RUN", help="Run folder to make.")]
TeacherWeights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="State dict for the teacher.", show_default="the published ImageNet weights"),
]
TrainedOn = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Good images that it was trained on, which then neither set its threshold nor judge it."
    ),
]
FitTeacher = Annotated[
    TeacherName | None,
    typer.Option(
        help="Frozen ImageNet network.", show_default="efficientnet_lite0; wide_resnet50_2 for --preset paper"
    ),
]
TeacherOption = Annotated[TeacherName, typer.Option(help="Frozen ImageNet network.")]
PresetOption = Annotated[
    Preset | None,
    typer.Option(help="Settings to start from.", show_default="edge for EfficientNet-Lite, paper for ResNets"),
]
MethodOption = Annotated[
    Method | None, typer.Option(help="reason, or rd4ad: no suppression, no noise.", show_default=_PRESET)
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.", show_default=_PRESET)]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps, in place of epochs.", show_default=_PRESET)]
BatchSize = Annotated[int | None, typer.Option(min=2, help="Images a step.", show_default=_PRESET)]
LearningRate = Annotated[float | None, typer.Option(help="Of bottleneck and student.", show_default=_PRESET)]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the square input, px, a multiple of 32.", show_default="256")
]
CropFrom = Annotated[
    int | None, typer.Option(help="Resize to this side, px, then crop the centre.", show_default="no crop")
]
CropOption = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="Part of every picture that is looked at, px, cut out before the resize.",
        show_default="all",
    ),
]
BlackLevel = Annotated[int | None, typer.Option(help="Value of 16-bit images that becomes 0.", show_default="0")]
WhiteLevel = Annotated[
    int | None,
    typer.Option(help="Value of 16-bit images that becomes 255; 4095 for a 12-bit camera.", show_default="65535"),
]
Tile = Annotated[
    int | None,
    typer.Option(metavar="PX", help="Train on tiles of this side, for webs.", show_default="whole pictures, resized"),
]
Students = Annotated[
    int | None,
    typer.Option(min=1, help="Students that rebuild together: two find more, one is faster.", show_default=_PRESET),
]
SuppressionLayers = Annotated[
    bool | None,
    typer.Option("--suppression-layers/--no-suppression-layers", help="Put them into `reason`.", show_default=_PRESET),
]
Views = Annotated[
    int | None,
    typer.Option(min=0, help="New, slightly changed views of each training image a round.", show_default=_PRESET),
]
Target = Annotated[
    SuppressionTarget | None, typer.Option(help="What suppressed features must equal.", show_default=_PRESET)
]
SuppressionWeight = Annotated[float | None, typer.Option(help="lambda of the loss.", show_default=_PRESET)]
NoiseStd = Annotated[float | None, typer.Option(help="Deviation of the latent noise.", show_default=_PRESET)]
HeldOut = Annotated[float | None, typer.Option(help="Share of good images kept for calibration.", show_default=_PRESET)]
Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--no-bf16", help="Train networks in bf16.", show_default="where it is fast")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of everything random.", show_default=_PRESET)]
RoiOption = Annotated[
    str | None,
    typer.Option(
        metavar="LEFT,TOP,WIDTH,HEIGHT", help="Where defects count, as shares of the image.", show_default="all"
    ),
]
IgnoreMask = Annotated[
    Path | None, typer.Option(metavar="IMAGE", help="White where defects do not count.", show_default="nowhere")
]
PaperProtocol = Annotated[
    bool,
    typer.Option(
        "--paper-protocol",
        help="Choose the epoch by the TEST set, as published; for comparison only, says so everywhere.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in RUN; of `all`, each that is.")]
CacheMib = Annotated[
    int,
    typer.Option(
        min=0, help="Bound on each of decoded training images, decoded held-out images and kept features, MiB."
    ),
]
CheckpointSeconds = Annotated[float, typer.Option(min=0, help="Least time between two checkpoints, s.")]
FalseRejectRate = Annotated[float, typer.Option(help="Wanted share of good parts that are rejected, 0..1.")]
RequireBound = Annotated[
    bool, typer.Option("--require-bound", help="Change nothing and exit 1 where the images cannot promise the rate.")
]
Report = Annotated[Path | None, typer.Option(metavar="DIR", help="Write an HTML page with curves and pictures here.")]
