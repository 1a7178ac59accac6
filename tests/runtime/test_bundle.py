from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import reason_runtime.bundle
from reason_runtime.alone import alone_in
from reason_runtime.bundle import Bundle, open_bundle, update_bundle, write_bundle
from reason_runtime.choices import Backend
from reason_runtime.detector import DecisionLimit, Detector, load
from reason_runtime.errors import BackendError, BundleError, ConfigurationError, ParityError, ReasonError
from reason_runtime.image import square_format
from reason_runtime.manifest import FileEntry
from reason_runtime.session import open_session
from tests.runtime.bundles import SIZE_PX, expected_map, golden_bytes, grey_model, make_bundle, make_manifest
from tests.runtime.test_atomic import refused_for_lack_of_room


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    written = make_bundle(tmp_path / "bundle")
    opened = open_bundle(tmp_path / "bundle")
    assert opened == written
    assert names(opened.path) == ["golden.npz", "manifest.json", "model.onnx"]
    assert opened.model_path("fp32").read_bytes() == grey_model()
    assert opened.model_path("bf16") == opened.model_path("fp32")


def test_golden_arrays_are_those_that_were_written(tmp_path: Path) -> None:
    golden = make_bundle(tmp_path / "bundle").golden()
    np.testing.assert_array_equal(golden.anomaly_map, expected_map(golden.images))
    np.testing.assert_array_equal(golden.score, golden.anomaly_map.max(axis=(1, 2)))
    assert golden.synthetic.all()


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz", "model_int8.onnx"])
def test_a_changed_byte_in_any_file_is_refused_with_the_files_name(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    update_bundle(bundle, manifest=bundle.manifest, files={"model_int8.onnx": grey_model()})
    path = bundle.path / name
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BundleError, match=name):
            open_bundle(bundle.path)
    path.write_bytes(content)
    open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_file_that_is_cut_off_or_missing_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    path = make_bundle(tmp_path / "bundle").path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"{name}: has .* bytes, expected"):
        open_bundle(path.parent)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: is missing"):
        open_bundle(path.parent)


@pytest.mark.parametrize("surplus", ["model_fp16.onnx", "model.onnx.data", "notes.txt", "weights"])
def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path, surplus: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.path / surplus).touch()
    with pytest.raises(BundleError, match=f"{surplus}: is not listed"):
        open_bundle(bundle.path)


def test_device_folders_and_hidden_files_are_left_alone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.path / "engines").mkdir()
    (bundle.path / "checks").mkdir()
    (bundle.path / ".DS_Store").touch()
    assert open_bundle(bundle.path) == bundle


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "file"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bundle"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    with pytest.raises(BundleError, match=r"bundle: is not a bundle \(no manifest\.json in it\)"):
        open_bundle(path)


def test_a_moved_and_renamed_bundle_is_still_good(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    shutil.move(bundle.path, tmp_path / "other")
    assert open_bundle(tmp_path / "other").manifest == bundle.manifest


@pytest.mark.parametrize(("precision", "remedy"), [("int8", "reason-export quantize"), ("fp16", "export again")])
def test_a_missing_precision_is_refused_with_the_remedy(tmp_path: Path, precision: str, remedy: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match=f"has no model_{precision}.onnx for {precision}; .*{remedy}"):
        bundle.model_path(precision)  # type: ignore[arg-type]


def test_a_bundle_is_replaced_only_when_asked_and_anything_else_never(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    renamed = replace(bundle.manifest, name="second")
    with pytest.raises(BundleError, match="a bundle is there already"):
        write_bundle(bundle.path, manifest=renamed, files=files)
    (bundle.path / "engines").mkdir()
    assert write_bundle(bundle.path, manifest=renamed, files=files, overwrite=True).manifest.name == "second"
    assert names(bundle.path) == ["golden.npz", "manifest.json", "model.onnx"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.txt").touch()
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "photos", manifest=renamed, files=files, overwrite=True)
    assert names(tmp_path) == ["bundle", "photos"]


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "real")
    (tmp_path / "current").symlink_to("real")
    files = {name: (first.path / name).read_bytes() for name in first.manifest.files}
    changed = replace(first.manifest, thresholds={})
    assert write_bundle(tmp_path / "current", manifest=changed, files=files, overwrite=True).manifest.thresholds == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "real"]
    assert open_bundle(tmp_path / "current").manifest == open_bundle(tmp_path / "real").manifest
    assert (tmp_path / "current").is_symlink()


BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


def picture_of(value: int) -> NDArray[np.uint8]:
    return np.full((SIZE_PX, SIZE_PX, 3), value, np.uint8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bundle_whose_link_is_moved_judges_on_as_it_was(tmp_path: Path, backend: Backend) -> None:
    make_bundle(tmp_path / "first")
    make_bundle(tmp_path / "second", scale=1 / 1024)
    (tmp_path / "current").symlink_to("first")
    opened = open_bundle(tmp_path / "current")
    (tmp_path / "moved").symlink_to("second")
    (tmp_path / "moved").replace(tmp_path / "current")
    detector = Detector(bundle=opened, session=open_session(opened, backend=backend), limit=DecisionLimit())
    for count in (1, 2, 3, 4, 5):  # the first sizes have a compiled model each
        assert [result.score for result in detector.batch([picture_of(128 + 64)] * count)] == [0.5] * count
    assert load(tmp_path / "current", backend=backend)(picture_of(128 + 64)).score == 64 / 1024


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_that_was_replaced_since_the_bundle_was_opened_is_refused(tmp_path: Path, backend: Backend) -> None:
    opened = make_bundle(tmp_path / "bundle")
    loaded = load(opened.path, backend=backend)
    files = {"model.onnx": grey_model(scale=1 / 1024), "golden.npz": golden_bytes(square_format(SIZE_PX))}
    write_bundle(opened.path, manifest=make_manifest(), files=files, overwrite=True)
    with pytest.raises(BundleError, match=r"model\.onnx: was changed since the bundle was opened"):
        open_session(opened, backend=backend)
    assert loaded(picture_of(128 + 64)).score == 0.5
    if backend == "openvino":  # a model for a batch of two does not exist yet
        with pytest.raises(BackendError, match=r"batch of 2 .*was changed since the bundle was opened"):
            loaded.batch([picture_of(0)] * 2)


@pytest.mark.parametrize("name", ["golden.npz", "trained_on.txt", "chosen_by.txt", "threshold_from.txt"])
def test_a_file_that_was_changed_since_the_bundle_was_opened_is_refused(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    lists = {"trained_on.txt": b"ab\n", "chosen_by.txt": b"ef\n", "threshold_from.txt": b"cd\n"}
    bundle = update_bundle(bundle, manifest=bundle.manifest, files=lists)
    read = {
        "golden.npz": bundle.golden,
        "trained_on.txt": bundle.trained_on,
        "chosen_by.txt": bundle.chosen_by,
        "threshold_from.txt": bundle.threshold_from,
    }
    before = read[name]()
    assert name == "golden.npz" or before == {lists[name].decode().strip()}
    (bundle.path / name).write_bytes((bundle.path / name).read_bytes()[::-1])
    with pytest.raises(BundleError, match=f"{name}: was changed since the bundle was opened"):
        read[name]()


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_that_share_a_detector_each_get_their_own_results(tmp_path: Path, backend: Backend) -> None:
    detector = load(make_bundle(tmp_path / "bundle").path, backend=backend, threads=1)
    levels = range(128, 128 + 64)

    def scores(thread: int) -> list[float]:
        detector.batch([picture_of(128)] * (1 + thread))
        return [detector(picture_of(level)).score for level in levels]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scores, range(4))) == [[(level - 128) / 128 for level in levels]] * 4


def test_a_new_bundle_is_on_the_disk_before_the_old_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_bundle(tmp_path / "bundle")
    files = {name: (first.path / name).read_bytes() for name in first.manifest.files}
    happened: list[str] = []
    fsync, rmtree = os.fsync, shutil.rmtree

    def flushed(descriptor: int) -> None:
        happened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def removed(path: Path, *, ignore_errors: bool) -> None:
        happened.append(f"remove {path.name}" if path.exists() else "")
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(shutil, "rmtree", removed)
    write_bundle(first.path, manifest=first.manifest, files=files, overwrite=True)
    (at,) = (i for i, what in enumerate(happened) if what.startswith("remove .bundle"))
    assert {"model.onnx", "golden.npz", tmp_path.name} <= set(happened[:at])


def test_a_link_that_leads_to_itself_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read \(Too many levels of symbolic links\)"):
        open_bundle(tmp_path / "a")
    with pytest.raises(BundleError, match="a: exists and is not a bundle"):
        write_bundle(tmp_path / "a", manifest=make_manifest(), files={})


# Opens a bundle, and is killed right before the n-th time from then on that a path gets another name.
KILLED = """
import os, sys
from dataclasses import replace
from reason_runtime.bundle import open_bundle, update_bundle, write_bundle
old = open_bundle(sys.argv[1])
left = int(sys.argv[2])
def killed(event, arguments):
    global left
    if event == "os.rename":
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(killed)
"""
# What it does meanwhile: another name, and in an update a model and a list, too.
REPLACING = """
files = {name: (old.path / name).read_bytes() for name in old.manifest.files}
write_bundle(old.path, manifest=replace(old.manifest, name="second"), files=files, overwrite=True)
"""
UPDATING = """
files = {"model_int8.onnx": b"q" * 9, "threshold_from.txt": b"cd" * 40}
update_bundle(old, manifest=replace(old.manifest, name="second"), files=files)
"""


def killed(action: str, bundle: Path, *, renames: int) -> int:
    """The status of a process that was killed after so many renames, or that had done before."""
    return subprocess.run([sys.executable, "-c", KILLED + action, str(bundle), str(renames)]).returncode


def test_a_kill_while_a_bundle_is_replaced_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    old = make_bundle(tmp_path / "bundle")
    ends = {}
    for renames in range(5):
        status = killed(REPLACING, old.path, renames=renames)
        ends[status] = open_bundle(old.path).manifest.name
    assert ends == {-9: old.manifest.name, 0: "second"}


def test_where_names_cannot_be_exchanged_the_old_bundle_is_set_aside_and_put_back_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_bundle(tmp_path / "bundle")
    files = {name: (old.path / name).read_bytes() for name in old.manifest.files}
    renamed = os.replace

    def refused_once(source: Path, target: Path) -> None:
        if target == old.path and not source.name.endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        renamed(source, target)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a C library without renameat2
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused_once)
        with pytest.raises(ReasonError, match=r"bundle: could not be written \(Input/output error\)"):
            write_bundle(old.path, manifest=replace(old.manifest, name="second"), files=files, overwrite=True)
    assert (open_bundle(old.path), names(tmp_path)) == (old, ["bundle"])
    write_bundle(old.path, manifest=replace(old.manifest, name="second"), files=files, overwrite=True)
    assert (open_bundle(old.path).manifest.name, names(tmp_path)) == ("second", ["bundle"])


def test_a_kill_while_a_bundle_is_updated_leaves_it_as_it_was_or_updated(tmp_path: Path) -> None:
    ends = []
    for renames in range(5):
        first = make_bundle(tmp_path / f"bundle{renames}")
        old = update_bundle(first, manifest=first.manifest, files={"threshold_from.txt": b"ab"})
        (old.path / "checks").mkdir()
        (old.path / "checks" / "onnxruntime_fp32.json").write_text("{}")
        status = killed(UPDATING, old.path, renames=renames)
        found = open_bundle(old.path)
        ends.append((status, found.manifest.name))
        seen = [name for name in names(old.path) if not name.startswith(".update.")]
        added = ["model_int8.onnx"] if found != old else []
        assert seen == ["checks", "golden.npz", "manifest.json", "model.onnx", *added, "threshold_from.txt"]
        assert names(old.path / "checks") == ["onnxruntime_fp32.json"]
        update_bundle(found, manifest=found.manifest)  # takes what a kill left out of the way
        assert not [name for name in names(old.path) if name.startswith(".")]
    before, after = old.manifest.name, "second"
    assert ends == [(-9, before), (-9, after), (-9, after), (-9, after), (0, after)]


@pytest.mark.parametrize("refused", [".update", "model_int8.onnx", "manifest.json"])
def test_an_update_that_the_system_refuses_says_truly_what_became_of_the_bundle(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_bundle(tmp_path / "bundle")
    renamed = os.replace

    def broken(source: Path, target: Path) -> None:
        if target == old.path / refused:
            raise OSError(errno.EIO, "Input/output error")
        renamed(source, target)

    told = "what was there before is kept" if refused == ".update" else "an update of it .* cannot be finished here"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        patch.setattr(reason_runtime.bundle, "_CHANGES_S", 0.0)
        with pytest.raises(ReasonError, match=rf"bundle: .*{told}"):
            update_bundle(old, manifest=replace(old.manifest, name="second"), files={"model_int8.onnx": grey_model()})
    found = open_bundle(old.path)
    assert (found == old) == (refused == ".update")
    assert not [name for name in names(old.path) if name.startswith(".")]


# Updates a bundle again and again, each time with a list of another length, until it is killed.
RESTLESS = """
import sys
from reason_runtime.bundle import open_bundle, update_bundle
from reason_runtime.errors import ReasonError
number = 0
while True:
    number += 1
    bundle = open_bundle(sys.argv[1])
    try:
        update_bundle(bundle, manifest=bundle.manifest, files={"threshold_from.txt": b"ab" * (1 + number % 50)})
    except ReasonError as error:
        assert "another program" in str(error), error
"""


# NFS locks files that are open for writing, and nothing else.
AS_ON_NFS = """
import errno, fcntl, os
def flock(descriptor, how, locked=fcntl.flock):
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.EBADF, "Bad file descriptor")
    return locked(descriptor, how)
fcntl.flock = flock
"""


def test_a_bundle_that_is_being_updated_is_opened_whole(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").path
    with subprocess.Popen([sys.executable, "-c", RESTLESS, str(path)]) as writer:
        try:
            seen = set()
            until_s = time.monotonic() + 30
            while len(seen) < 20 and time.monotonic() < until_s:
                seen.add(open_bundle(path).manifest.content_sha256)
            assert writer.poll() is None
        finally:
            writer.kill()
    assert len(seen) == 20
    open_bundle(path)


def test_a_bundle_that_is_updated_there_and_back_while_it_is_opened_is_opened_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is then the same again, and yet a file was another one when it was looked at."""
    first = make_bundle(tmp_path / "bundle")
    old = update_bundle(first, manifest=first.manifest, files={"threshold_from.txt": b"ab"})
    verified, done = reason_runtime.bundle._verify, []

    def verified_meanwhile(path: Path, entry: FileEntry) -> None:
        first_time = path.name == "threshold_from.txt" and not done
        if first_time:
            done.append(path)
            other = update_bundle(old, manifest=old.manifest, files={"threshold_from.txt": b"abab"})
        try:
            verified(path, entry)
        finally:
            if first_time:
                update_bundle(other, manifest=other.manifest, files={"threshold_from.txt": b"ab"})

    monkeypatch.setattr(reason_runtime.bundle, "_verify", verified_meanwhile)
    assert (open_bundle(old.path), len(done)) == (old, 1)


def test_where_folders_have_no_locks_two_that_update_a_bundle_leave_it_whole(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bundle").path
    writers = [subprocess.Popen([sys.executable, "-c", AS_ON_NFS + RESTLESS, str(path)]) for _ in range(2)]
    try:
        seen = set()
        until_s = time.monotonic() + 30
        while len(seen) < 20 and time.monotonic() < until_s:
            seen.add(open_bundle(path).manifest.content_sha256)
        assert [writer.poll() for writer in writers] == [None, None]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    open_bundle(path)


def test_what_lies_in_an_updates_folder_and_is_no_part_of_a_bundle_is_named(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle")
    (made.path / ".update").mkdir()
    (made.path / ".update" / ".DS_Store").touch()
    assert open_bundle(made.path) == made
    with pytest.raises(BundleError, match=r"\.update: holds what is no part of a bundle; remove it and try again"):
        update_bundle(made, manifest=made.manifest)


def test_an_updated_bundle_is_the_same_folder_as_before(tmp_path: Path) -> None:
    """It may be mounted into a container, or be where somebody's shell is."""
    old = make_bundle(tmp_path / "bundle")
    before = old.path.stat().st_ino
    update_bundle(old, manifest=replace(old.manifest, name="second"), files={"model_int8.onnx": grey_model()})
    assert old.path.stat().st_ino == before
    assert names(tmp_path) == ["bundle"]


def test_a_bundle_that_appears_while_another_is_written_is_not_replaced(tmp_path: Path) -> None:
    path, found = tmp_path / "bundle", []

    def meanwhile(_: Bundle) -> None:
        found.append(make_bundle(path))

    other = make_bundle(tmp_path / "other")
    files = {name: (other.path / name).read_bytes() for name in other.manifest.files}
    with pytest.raises(BundleError, match="bundle: a bundle is there already"):
        write_bundle(path, manifest=replace(other.manifest, name="second"), files=files, accept=meanwhile)
    assert [open_bundle(path)] == found
    assert names(tmp_path) == ["bundle", "other"]


@pytest.mark.parametrize("place", [".", "..", "real/.."])
def test_a_place_without_a_name_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_bundle(tmp_path / "real")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(BundleError, match="a bundle is a folder of its own; give it a name"):
        write_bundle(place, manifest=made.manifest, files={})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_bundle_that_is_not_accepted_leaves_what_was_there(tmp_path: Path, overwrite: bool) -> None:
    old = make_bundle(tmp_path / "old")
    files = {name: (old.path / name).read_bytes() for name in old.manifest.files}

    def refuse(draft: Bundle) -> None:
        assert draft.manifest.name == "second"
        raise ParityError("refused")

    path = old.path if overwrite else tmp_path / "new"
    with pytest.raises(ParityError, match="refused"):
        write_bundle(
            path, manifest=replace(old.manifest, name="second"), files=files, overwrite=overwrite, accept=refuse
        )
    assert names(tmp_path) == ["old"]
    assert open_bundle(old.path) == old


def test_a_bundle_needs_its_required_files_and_takes_no_others(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot be written without golden\.npz"):
        write_bundle(tmp_path / "bundle", manifest=make_manifest(), files={"model.onnx": b""})
    with pytest.raises(BundleError, match=r"model\.pt: is no file of a bundle"):
        write_bundle(tmp_path / "bundle", manifest=make_manifest(), files={"model.pt": b""})
    with pytest.raises(BundleError, match="is no file of a bundle"):
        write_bundle(tmp_path / "bundle", manifest=make_manifest(), files={"../model.onnx": b""})
    assert names(tmp_path) == []


def test_a_folder_with_a_manifest_of_another_program_or_with_more_than_a_bundle_is_never_replaced(
    tmp_path: Path,
) -> None:
    made = make_bundle(tmp_path / "real")
    files = {name: (made.path / name).read_bytes() for name in made.manifest.files}
    page = tmp_path / "page"
    page.mkdir()
    (page / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(BundleError, match="page: exists and is not a bundle"):
        write_bundle(page, manifest=made.manifest, files=files, overwrite=True)
    (made.path / "notes.txt").write_text("precious")
    with pytest.raises(BundleError, match="notes.txt: is no part of a bundle, and would be lost with it"):
        write_bundle(made.path, manifest=made.manifest, files=files, overwrite=True)
    assert (made.path / "notes.txt").read_text() == "precious"


def test_an_update_of_a_bundle_that_was_replaced_meanwhile_leaves_the_new_one(tmp_path: Path) -> None:
    opened = make_bundle(tmp_path / "bundle")
    files = {"model.onnx": grey_model(scale=1 / 64), "golden.npz": golden_bytes(opened.manifest.input)}
    other = write_bundle(opened.path, manifest=opened.manifest, files=files, overwrite=True)
    with pytest.raises(BundleError, match="was changed by another program meanwhile and stays so"):
        update_bundle(opened, manifest=opened.manifest, files={"model_int8.onnx": grey_model()})
    assert open_bundle(opened.path).manifest == other.manifest
    assert sorted(path.name for path in opened.path.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]


def test_a_bundle_is_updated_by_one_program_at_a_time(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle")
    with (
        alone_in(made.path, otherwise="held"),
        pytest.raises(ConfigurationError, match="bundle: is being changed by another program; try again"),
    ):
        update_bundle(made, manifest=made.manifest)
    assert names(made.path) == ["golden.npz", "manifest.json", "model.onnx"]


def test_an_update_adds_files_and_thresholds_and_keeps_the_rest(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", threshold=None)
    with_limit = make_manifest(threshold=0.75).thresholds["fp32"]
    changed = update_bundle(
        bundle,
        manifest=replace(bundle.manifest, thresholds={"int8": with_limit}),
        files={"model_int8.onnx": grey_model()},
    )
    assert changed.model_path("int8").read_bytes() == grey_model()
    assert open_bundle(bundle.path).manifest.thresholds == {"int8": with_limit}
    assert changed.manifest.files["model.onnx"] == bundle.manifest.files["model.onnx"]


@pytest.mark.parametrize("action", ["overwrite_bundle", "add_large_model"])
def test_a_full_disk_leaves_the_bundle_as_it_was(tmp_path: Path, action: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    told = refused_for_lack_of_room(action, tmp_path)
    assert "could not be written (File too large)" in told
    assert open_bundle(bundle.path) == bundle
    assert names(tmp_path) == ["bundle"]
    assert len(list(bundle.path.iterdir())) == 3


def test_golden_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    form = make_manifest().input
    with np.load(io.BytesIO(golden_bytes(form))) as arrays:
        found = dict(arrays)
    painted = {f"painted_{name}": found[name] for name in ("images", "anomaly_map", "score")}
    for name, wrong in (
        ("images", found["images"][:, 1:]),
        ("score", found["score"].astype(np.float64)),
        ("painted_images", found["images"][:, 1:]),
        ("painted_anomaly_map", found["anomaly_map"][1:]),
    ):
        stream = io.BytesIO()
        np.savez(stream, **(found | painted | {name: wrong}))
        path = tmp_path / name
        bundle = write_bundle(
            path, manifest=make_manifest(), files={"model.onnx": grey_model(), "golden.npz": stream.getvalue()}
        )
        with pytest.raises(BundleError, match=rf"golden\.npz: {name} is .*, expected"):
            bundle.golden()


@pytest.mark.parametrize("name", ["score", "synthetic", "painted_score"])
def test_golden_arrays_that_are_missing_are_named(name: str, tmp_path: Path) -> None:
    with np.load(io.BytesIO(golden_bytes(make_manifest().input))) as arrays:
        found = dict(arrays)
    found |= {f"painted_{each}": found[each] for each in ("images", "anomaly_map", "score")}
    del found[name]
    stream = io.BytesIO()
    np.savez(stream, **found)
    files = {"model.onnx": grey_model(), "golden.npz": stream.getvalue()}
    bundle = write_bundle(tmp_path / "bundle", manifest=make_manifest(), files=files)
    with pytest.raises(BundleError, match=rf"golden\.npz: {name} is nothing, expected "):
        bundle.golden()


def test_golden_arrays_are_never_unpickled(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, images=np.array([{"a": 1}], dtype=object))
    files = {"model.onnx": grey_model(), "golden.npz": stream.getvalue()}
    bundle = write_bundle(tmp_path / "bundle", manifest=make_manifest(), files=files)
    with pytest.raises(BundleError, match=r"golden\.npz: is not a NumPy archive .*pickle"):
        bundle.golden()
