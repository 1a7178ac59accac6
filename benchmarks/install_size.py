"""How much disk an installation takes: each set of extras in a new environment of its own.

    python benchmarks/install_size.py [--extras cpu --extras openvino --extras train,export,cpu] [--out FILE.json]

Counts the files of `site-packages`, compiled bytecode included, without what an empty environment has. Needs the index
that pip installs from.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Annotated

import typer
from result_file import require_place, write_result

from reason_runtime.entry import run_script
from reason_runtime.errors import ReasonError

ROOT = Path(__file__).parent.parent


def main(
    extras: Annotated[list[str], typer.Option(help="Comma-separated; repeatable.")] = [  # noqa: B006
        "cpu",
        "openvino",
        "train,export,cpu",
    ],
    out: Annotated[Path | None, typer.Option(help="JSON result.", show_default="stdout")] = None,
) -> None:
    """Install and count."""
    require_place(out)
    result = {
        "command": " ".join(["python benchmarks/install_size.py", *(f"--extras {each}" for each in extras)]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "rows": [measured(each) for each in extras],
    }
    write_result(out, result)


def measured(extras: str) -> dict[str, object]:
    """Megabytes (1e6 bytes) of one installation, its largest packages first."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "Scripts" if sys.platform == "win32" else "bin", "python")
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        before = _megabytes(Path(site))
        install = [python, "-m", "pip", "install", "--quiet", f"{ROOT}[{extras}]"]
        if subprocess.run(install, check=False).returncode:
            raise ReasonError(f"{extras}: pip could not install these extras; what it says is above")
        sizes = {each.name: _own_megabytes(each) for each in distributions(path=[site])}
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:4]
        return {"extras": extras, "mb": round(_megabytes(Path(site)) - before), "largest_mb": dict(largest)}


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _own_megabytes(package: Distribution) -> int:
    paths = [Path(str(file.locate())) for file in package.files or ()]
    return round(sum(path.stat().st_size for path in paths if path.is_file()) / 1e6)


if __name__ == "__main__":
    run_script(main)
