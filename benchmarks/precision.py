"""What each backend and precision loses on labelled images: the parity gate of all of them in one result file.

    reason-export onnx RUN --out BUNDLE --fp16
    reason-export quantize BUNDLE --calibration DIR/train/good
    python benchmarks/precision.py BUNDLE --data DIR --out benchmarks/results/precision_screw.json
    python benchmarks/precision.py BUNDLE --data DIR --device cuda --out benchmarks/results/precision_screw_gpu.json

On a GPU, engines are those that `reason-export engine` built. What this machine cannot run is said in the file, with
the reason. Nothing is timed here.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer
from result_file import require_place, write_result

from reason_export.accuracy import LabelledSet
from reason_export.check import check_bundle
from reason_runtime.bundle import Bundle, open_bundle
from reason_runtime.choices import Backend, Device, Precision
from reason_runtime.entry import run_script
from reason_runtime.errors import BackendError, BundleError

RUNS: dict[Device, tuple[tuple[Backend, Precision], ...]] = {
    "cpu": (
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("onnxruntime", "fp16"),
        ("openvino", "bf16"),
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
    ),
    "cuda": tuple(
        (backend, precision)
        for precision in ("fp32", "fp16", "int8")
        for backend in ("onnxruntime", "tensorrt_rtx", "tensorrt")
    ),
}


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="With its fp16 and int8 files.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Category folder in MVTec AD's layout.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Result file.")],
    device: Annotated[Device, typer.Option(help="Where everything runs.")] = "cpu",
) -> None:
    """Check every backend and precision, print a line for each, write all of it."""
    require_place(out)
    opened = open_bundle(bundle)
    manifest, labelled = opened.manifest, LabelledSet(opened, data)
    options = f"--data {data.name}{'' if device == 'cpu' else f' --device {device}'}"
    found = {
        "command": f"python benchmarks/precision.py BUNDLE {options} --out benchmarks/results/{out.name}",
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "teacher": manifest.method.teacher,
        "input_px": [manifest.input.height_px, manifest.input.width_px],
        "seed": manifest.training.seed,
        "quantisation": None if manifest.quantisation is None else dataclasses.asdict(manifest.quantisation),
        "checks": [_check(opened, labelled, backend, precision, device) for backend, precision in RUNS[device]],
    }
    write_result(out, found)


def _check(
    bundle: Bundle, labelled: LabelledSet, backend: Backend, precision: Precision, device: Device
) -> dict[str, object]:
    try:
        check = check_bundle(bundle, backend=backend, precision=precision, device=device, labelled=labelled)
    except (BackendError, BundleError) as error:
        print(f"{backend} {precision}: not run, {error}")
        return {"backend": backend, "precision": precision, "not_run": str(error).replace(f"{bundle.path}", "BUNDLE")}
    accuracy = check.accuracy
    assert accuracy is not None  # labelled images were given
    print(
        f"{backend} {precision}: {'passed' if check.passed else '; '.join(check.broken)}; image AUROC lost "
        f"{accuracy.image_auroc.lost:.5f}, AUPRO lost {accuracy.aupro.lost if accuracy.aupro else float('nan'):.5f}",
        flush=True,
    )
    data = labelled.folder
    words = [text.replace(str(data), data.name) for text in check.broken]
    named = dataclasses.replace(check, broken=words, accuracy=dataclasses.replace(accuracy, data=data.name))
    facts = named.to_json()
    return {name: value for name, value in facts.items() if name != "created"}


if __name__ == "__main__":
    run_script(main)
