"""anomalib's models as OpenVINO files, with random weights: what their speed depends on is their shape.

    PEERS/bin/python benchmarks/peers/export.py --out PEERS/models

Runs in the second environment (see README.md beside this file): it imports anomalib and nothing of this project.
PatchCore's memory bank holds as many random patches as `--patches` says, since its speed depends on them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from anomalib.models import AnomalibModule, EfficientAd, Patchcore, ReverseDistillation

SIDE_PX = 256
PATCHES = 24_000
"""A tenth, anomalib's default share, of the patches (1024 each) of 240 images: the mean category of MVTec AD."""
LAYERS = ["layer1", "layer2", "layer3"]


def reverse_distillation(backbone: str) -> AnomalibModule:
    """RD4AD, as anomalib has it."""
    return ReverseDistillation(backbone=backbone, layers=LAYERS, pre_trained=False)


def patchcore(patches: int) -> AnomalibModule:
    """PatchCore on Wide ResNet-50-2, with a filled memory bank."""
    model = Patchcore(backbone="wide_resnet50_2", pre_trained=False)
    model.model.eval()
    with torch.no_grad():
        width = model.model.generate_embedding(
            {
                name: model.model.feature_pooler(value)
                for name, value in model.model.feature_extractor(torch.rand(1, 3, SIDE_PX, SIDE_PX)).items()
            }
        ).shape[1]
    model.model.memory_bank = torch.randn(patches, width)
    return model


def efficient_ad() -> AnomalibModule:
    """EfficientAD-S; its statistics are those of a fresh model."""
    return EfficientAd(model_size="small")


def main() -> None:
    """Export what can be exported; say what cannot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patches", type=int, default=PATCHES)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], AnomalibModule]] = {
        "rd4ad_resnet18": lambda: reverse_distillation("resnet18"),
        "rd4ad_wide_resnet50_2": lambda: reverse_distillation("wide_resnet50_2"),
        "efficientad_s": efficient_ad,
        "patchcore_wide_resnet50_2": lambda: patchcore(arguments.patches),
    }
    for name, make in makers.items():
        if arguments.only and name not in arguments.only:
            continue
        torch.manual_seed(0)
        model = make().eval()
        path = model.to_openvino(export_root=arguments.out, model_file_name=name, input_size=(SIDE_PX, SIDE_PX))
        facts = {
            "name": name,
            "file": Path(path).relative_to(arguments.out).as_posix(),
            "anomalib": metadata.version("anomalib"),
            "patches": arguments.patches if name.startswith("patchcore") else None,
        }
        (arguments.out / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {path}", flush=True)


if __name__ == "__main__":
    main()
