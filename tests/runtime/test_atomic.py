from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reason_runtime.atomic import make_folder, replacing, write_bytes, write_text
from reason_runtime.errors import ReasonError

# The system's own limit on the size of a file fails a write half-way, as a full disk does.
LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from reason_runtime.errors import ReasonError
from tests.runtime.full_disk import {action}
try:
    {action}(Path(sys.argv[1]))
except ReasonError as error:
    print(error)
else:
    sys.exit("nothing was refused")
"""


def refused_for_lack_of_room(action: str, folder: Path) -> str:
    """Run an action of `full_disk` in a process that cannot write files of more than 20 kB; what it was told."""
    script = LIMITED.format(action=action)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_is_made_with_those_above_it_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path, why in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        with pytest.raises(ReasonError, match=rf"{path}: cannot be made \({why}\); expected a folder"):
            make_folder(path)


def test_the_new_content_replaces_the_old_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "old")
    write_bytes(tmp_path / "file.txt", "neu: ä".encode())
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "neu: ä"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_failure_in_the_block_keeps_the_old_file_and_removes_the_new(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "old")

    def fail() -> None:
        with replacing(tmp_path / "file.txt") as beside:
            beside.write_text("half")
            raise KeyError("unrelated")

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "file.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_the_path_to_write_to_is_hidden_beside_the_target_and_ends_like_it(tmp_path: Path) -> None:
    with replacing(tmp_path / "picture.png") as beside:
        assert (beside.parent, beside.suffix, beside.name[0]) == (tmp_path, ".png", ".")
        beside.touch()


def test_a_missing_folder_is_one_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(ReasonError, match=r"nowhere/file\.txt: could not be written \(No such file or directory\)"):
        write_text(tmp_path / "nowhere" / "file.txt", "x")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "old")
    told = refused_for_lack_of_room("write_large_file", tmp_path)
    assert "file.txt: could not be written (File too large)" in told
    assert (tmp_path / "file.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
