"""The parity gate on 64-bit Arm: Debian for arm64 in a folder, Arm's own wheels, run by QEMU on this machine.

    python -m benchmarks.arm64 BUNDLE --root DIR --out benchmarks/results/arm64.json

As root, with debootstrap and qemu-user-static. DIR gets Debian 12 and the wheels of `constraints.txt` once, about 1 GB,
and is used again. Emulated kernels compute what a processor with the same instruction sets does: what differs there
is known, how fast they are is not. The processor is a Neoverse N1, whose instruction sets are those of Jetson Orin's
Cortex-A78AE: half precision and dot products of 8-bit values. Takes a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.result_file import require_place, write_result
from reason_runtime.entry import run_script
from reason_runtime.environment import usable_cores
from reason_runtime.errors import ReasonError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent.parent
PROCESSOR, PART = "neoverse-n1", "0xd0c"
FEATURES = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
"""What Linux says on it, which QEMU 7 does not."""
ENTER = """
mount -t proc proc "$0/proc" && mount --bind "$0/cpuinfo" "$0/proc/cpuinfo" && mount -t sysfs sys "$0/sys" &&
exec chroot "$0" "$@"
"""
"""In a mount namespace of its own, which takes them along. Without them OpenVINO has one thread and slow kernels."""
PACKAGES = ("reason_runtime", "reason_export", "reason_train")
EXTRAS = ("cpu", "openvino", "export")
DEBIAN, PYTHON, GLIBC_MINOR = "bookworm", "3.11", 36
CHECK = "from reason_export.commands import main; main()"


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="With its fp16 and int8 files.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where Debian for arm64 is, or will be.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Result file.")],
    mirror: Annotated[str, typer.Option(help="Of Debian.")] = "http://deb.debian.org/debian",
) -> None:
    """Build what is missing, then check every artefact that can run there."""
    require_place(out)
    _require_tools()
    if not (root / "site").is_dir():
        _build(root, mirror=mirror)
    _copy(bundle, root)
    found = {
        "command": f"python -m benchmarks.arm64 BUNDLE --root DIR --out benchmarks/results/{out.name}",
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "emulator": _output(["qemu-aarch64-static", "--version"]).splitlines()[0],
        "emulated": PROCESSOR,
        "host": platform.machine(),
        **_checked(root),
    }
    write_result(out, found)
    for check in found["checks"]:
        print(f"{check['backend']} {check['precision']}: {'passed' if check['passed'] else '; '.join(check['broken'])}")


def _require_tools() -> None:
    if os.geteuid() != 0:
        raise ReasonError("expected root, which alone may enter another system's folder")
    for tool in ("debootstrap", "qemu-aarch64-static"):
        if shutil.which(tool) is None:
            raise ReasonError(f"{tool} is missing; apt install debootstrap qemu-user-static")
    if not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        raise ReasonError(
            "the system does not hand programs for Arm to QEMU; mount -t binfmt_misc binfmt_misc "
            "/proc/sys/fs/binfmt_misc, then cat /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register"
        )


def _build(root: Path, *, mirror: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    include = "--include=python3,libgomp1,ca-certificates"
    _run(["debootstrap", "--arch=arm64", "--variant=minbase", include, DEBIAN, root, mirror])
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    tags = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC_MINOR + 1)]
    for_arm = ["--only-binary=:all:", f"--python-version={PYTHON}", "--platform=manylinux2014_aarch64", *tags]
    draft = root / "site.part"
    shutil.rmtree(draft, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", draft]
    _run([*pip, "--constraint", HERE / "constraints.txt", *for_arm, *wanted])
    draft.rename(root / "site")


def _copy(bundle: Path, root: Path) -> None:
    for name in PACKAGES:
        shutil.rmtree(root / "project" / name, ignore_errors=True)
        shutil.copytree(HERE / name, root / "project" / name)
    shutil.rmtree(root / "bundle", ignore_errors=True)
    shutil.copytree(bundle, root / "bundle", ignore=shutil.ignore_patterns("checks", "engines"))


def _checked(root: Path) -> dict:
    facts = (
        f"Features : {FEATURES}\nCPU implementer : 0x41\nCPU architecture: 8\nCPU variant : 0x0\nCPU part : {PART}\n"
    )
    cores = [f"processor : {number}\n{facts}" for number in range(usable_cores())]
    (root / "cpuinfo").write_text("\n".join(cores), encoding="ascii")
    variables = [f"QEMU_CPU={PROCESSOR}", "PYTHONPATH=/site:/project", "HOME=/root"]
    inside = ["env", *variables, "python3", "-c", CHECK, "check", "/bundle", "--all", "--json"]
    return json.loads(_output(["unshare", "--mount", "sh", "-c", ENTER, root, *inside], may_fail=True))


def _run(command: list[object]) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ReasonError(f"{command[0]} failed ({error})") from error


def _output(command: list[object], *, may_fail: bool = False) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode and not (may_fail and done.stdout):
        raise ReasonError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    run_script(main)
