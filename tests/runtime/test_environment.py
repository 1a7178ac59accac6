from __future__ import annotations

import platform
from pathlib import Path

from reason_runtime.environment import processor

X86 = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu sse2 {sets}

processor\t: 1
model name\t: AMD EPYC
flags\t\t: fpu sse2 {sets}
"""


def test_processors_of_one_name_differ_by_what_kernels_are_chosen_by(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text(X86.format(sets="avx2"))
    new.write_text(X86.format(sets="avx512_vnni avx2 avx512f"))
    assert processor(old) == "AMD EPYC avx2"
    assert processor(new) == "AMD EPYC avx2 avx512f avx512_vnni"


def test_an_arm_processor_has_no_name_and_is_told_by_architecture_and_sets(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n")
    assert processor(path) == f"{platform.machine()} asimddp i8mm"


def test_where_the_system_does_not_tell_the_architecture_is_all(tmp_path: Path) -> None:
    assert processor(tmp_path / "missing") == platform.machine()
