"""The bundle: the folder that travels from export to the device, verified every time it is opened.

The portable part is `manifest.json`, `model.onnx`, `golden.npz` and, if made, `model_fp16.onnx`, `model_int8.onnx`,
`model_int8_unsigned.onnx`, `trained_on.txt`, `chosen_by.txt` and `threshold_from.txt`.
A bundle MUST hold the first three, and every portable file MUST be listed in the manifest with its size and SHA-256.
Beside it lie the folders `engines/` and `checks/`, born on a device and never part of the manifest. Any other visible
file or folder is refused; hidden ones (file managers leave them) are ignored, but for `.update`: files that an update
was about to put in place when it was cut off, which opening the bundle does then. Nothing in a bundle is a pickle.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from reason_runtime.alone import alone_in
from reason_runtime.atomic import exchange, flush, reason, write_text
from reason_runtime.choices import Precision, Provider
from reason_runtime.digest import file_sha256
from reason_runtime.errors import BundleError, ReasonError
from reason_runtime.golden import Golden, read_golden
from reason_runtime.manifest import FileEntry, Manifest, content_hash, from_json, to_json

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
MODELS: dict[Precision, str] = {
    "fp32": "model.onnx",
    "bf16": "model.onnx",  # a hint at run time, not a file
    "fp16": "model_fp16.onnx",
    "int8": "model_int8.onnx",
}
UNSIGNED = "model_int8_unsigned.onnx"
"""int8 for ONNX Runtime on CPUs, whose activations have no sign; the other file's are as TensorRT demands them."""
TRAINED_ON = "trained_on.txt"
"""SHA-256 of every image file that was trained on, one a line; none of an imported checkpoint."""
CHOSEN_BY = "chosen_by.txt"
"""SHA-256 of the test images that chose the epoch, one a line; of runs with the paper's protocol alone."""
THRESHOLD_FROM = "threshold_from.txt"
"""SHA-256 of the image files that drew a threshold of the manifest, one a line."""
REQUIRED = (MODELS["fp32"], GOLDEN)
PORTABLE = (*dict.fromkeys(MODELS.values()), UNSIGNED, GOLDEN, TRAINED_ON, CHOSEN_BY, THRESHOLD_FROM)
DEVICE_FOLDERS = ("engines", "checks")
_UPDATE = ".update"
_CHANGES_S, _CHANGE_S = 2.0, 0.05
_HOW_TO_MAKE: dict[Precision, str] = {
    "fp16": "export again with --fp16",
    "int8": "run `reason-export quantize BUNDLE --calibration DIR`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose every portable byte was checked when it was opened, and is again when it is used.

    Attributes:
        path: The folder, links followed: it is this one also when a link to it is moved.
        manifest: What it says about itself.
    """

    path: Path
    manifest: Manifest

    def model_path(self, precision: Precision, *, provider: Provider | None = None) -> Path:
        """The ONNX file for a precision; bf16 is a run-time hint on the fp32 file.

        Args:
            precision: Of the layers before the map head.
            provider: Of ONNX Runtime: that of the CPU has an int8 file of its own.

        Raises:
            BundleError: The bundle has no file for it; says how to make one.
        """
        name = MODELS[precision]
        if precision == "int8" and provider == "cpu" and UNSIGNED in self.manifest.files:
            name = UNSIGNED
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: has no {name} for {precision}; {_HOW_TO_MAKE[precision]}")
        return self.path / name

    def require_unchanged(self, name: str) -> None:
        """Refuse a portable file that is no longer as it was when the bundle was opened.

        Asked once a library has read the file: what runs is what was verified.

        Raises:
            BundleError: The file is missing, cannot be read, or was changed since.
        """
        self._require(name, sha256=_entry(self.path / name).sha256)

    def content(self, name: str) -> bytes:
        """A portable file as it was when the bundle was opened.

        Raises:
            BundleError: The file is missing, cannot be read, or was changed since.
        """
        content = _read_bytes(self.path / name, missing=f"{self.path / name}: is missing; copy the bundle again")
        self._require(name, sha256=hashlib.sha256(content).hexdigest())
        return content

    def _require(self, name: str, *, sha256: str) -> None:
        if sha256 != self.manifest.files[name].sha256:
            raise BundleError(f"{self.path / name}: was changed since the bundle was opened; open it again")

    def golden(self) -> Golden:
        """The inputs and outputs that every backend is compared with.

        Raises:
            BundleError: The file was changed since, arrays are missing, or their shapes or types do not fit the
                manifest.
        """
        return read_golden(io.BytesIO(self.content(GOLDEN)), self.manifest, where=str(self.path / GOLDEN))

    def trained_on(self) -> frozenset[str]:
        """SHA-256 of the image files that were trained on; empty where the bundle does not say.

        Raises:
            BundleError: The file cannot be read, or was changed since.
        """
        return self._read_list(TRAINED_ON)

    def chosen_by(self) -> frozenset[str]:
        """SHA-256 of the test images that chose the epoch; empty where none did.

        Raises:
            BundleError: The file cannot be read, or was changed since.
        """
        return self._read_list(CHOSEN_BY)

    def threshold_from(self) -> frozenset[str]:
        """SHA-256 of the image files that drew a threshold of the manifest; empty where the bundle does not say.

        Raises:
            BundleError: The file cannot be read, or was changed since.
        """
        return self._read_list(THRESHOLD_FROM)

    def _read_list(self, name: str) -> frozenset[str]:
        return frozenset(self.content(name).decode().split() if name in self.manifest.files else ())


def listed(sha256: Iterable[str]) -> bytes:
    """The content of a file that lists images."""
    return "".join(f"{each}\n" for each in sorted(set(sha256))).encode()


def open_bundle(path: str | Path) -> Bundle:
    """Read a bundle and verify its manifest and every portable file; an update that was cut off is finished first.

    One that another program is making at this moment is waited for.

    Raises:
        BundleError: Not a bundle, of another format version, with a manifest that is not exactly as specified, or a
            file that is missing, changed or unknown; the message names the file.
    """
    folder = Path(os.path.realpath(path))  # never fails; `resolve` does for a link that leads to itself
    until_s = time.monotonic() + _CHANGES_S
    while True:
        before = _glance(folder)
        try:
            return _opened(folder)
        except BundleError:
            in_change = os.path.isdir(folder / _UPDATE) or _glance(folder) != before  # in that order: it ends so
            if not in_change or time.monotonic() > until_s:
                raise
            time.sleep(_CHANGE_S)  # its files are old ones and new ones for a moment


def _opened(folder: Path) -> Bundle:
    _finish_update(folder)
    manifest = read_manifest(folder)
    _check_names(folder, manifest)
    for name, entry in manifest.files.items():
        _verify(folder / name, entry)
    return Bundle(path=folder, manifest=manifest)


def _glance(folder: Path) -> tuple[int, int] | None:
    """Which file the manifest is, and since when; None where it cannot be read.

    Not what it holds: that can come back, and everything else with it, between two looks.
    """
    try:
        with (folder / MANIFEST).open("rb") as file:  # opening asks the server of a network file system, stat may not
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def read_manifest(folder: Path) -> Manifest:
    """What a bundle says about itself, its files not looked at.

    Raises:
        BundleError: Not a bundle, of another format version, or with a manifest that is not exactly as specified.
    """
    text = _read_bytes(
        folder / MANIFEST,
        missing=f"{folder}: is not a bundle (no {MANIFEST} in it); expected what `reason-export onnx --out` writes",
    )
    try:
        return from_json(text.decode("utf-8"), where=str(folder / MANIFEST))
    except UnicodeDecodeError as error:
        raise BundleError(f"{folder / MANIFEST}: is not UTF-8 ({error.reason}); export again") from error


def write_bundle(
    path: str | Path,
    *,
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    overwrite: bool = False,
    accept: Callable[[Bundle], object] = lambda _: None,
) -> Bundle:
    """Write a new bundle: built beside, then the whole folder is renamed into place.

    Args:
        path: The folder to make.
        manifest: `files` and `content_sha256` are computed here, whatever they hold.
        files: Content, or a file to copy, by portable name; `model.onnx` and `golden.npz` must be among them.
        overwrite: Replace a bundle that is there, with its engines and checks, which fit the old files only. A folder
            that is not a bundle is never replaced.
        accept: Called with the finished bundle before it is put in place; what it raises leaves `path` as it was.

    Returns:
        The bundle, opened and verified.

    Raises:
        BundleError: There is something at `path`, a required file is missing, or a name is not a portable one.
        ReasonError: The system refused to write; what was at `path` is still there.
    """
    target = Path(path)
    check_target(target, overwrite=overwrite)
    if target.is_symlink():
        target = target.resolve()  # the link stays, and what it names is replaced
    _check_portable(files, target)
    for name in REQUIRED:
        if name not in files:
            raise BundleError(f"{target}: cannot be written without {name}")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        beside.mkdir(parents=True)
        for name, content in files.items():
            _place(content, beside / name)
        _write_manifest(beside, manifest, names=files)
        accept(open_bundle(beside))
        check_target(target, overwrite=overwrite)  # once more: the parity check took its time
        _swap(beside, target, overwrite=overwrite)
    except OSError as error:
        raise ReasonError(f"{target}: could not be written ({reason(error)}); what was there before is kept") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return open_bundle(target)


def update_bundle(bundle: Bundle, *, manifest: Manifest, files: Mapping[str, Path | bytes] | None = None) -> Bundle:
    """Add or replace portable files and change what the manifest says, for `quantize` and thresholds.

    All that is new is gathered in a hidden folder of the bundle, which gets the name `.update` in one step. A failure
    or a kill before that step changes nothing; after it the update holds: its files have yet to be moved into place,
    and whoever opens the bundle next does what is left. The bundle stays the folder it was, unlike in `write_bundle`:
    it may be mounted into a container, be somebody's current directory, or lie where this user may make no folder
    beside it, and no check or engine that is written meanwhile is lost.
    A bundle that another program has replaced or updated since it was opened stays as that left it.

    Args:
        bundle: As opened.
        manifest: The bundle's, changed with `dataclasses.replace`; hashes are computed here.
        files: Content, or a file to copy, by portable name. Files not named stay.

    Returns:
        The bundle, opened and verified again.

    Raises:
        ConfigurationError: Another program is updating it.
        BundleError: A name is not a portable one, the bundle is no longer the one that was opened, or the system
            refused to move the files; then the message says how to finish it.
        ReasonError: The system refused to write; nothing is changed.
    """
    changed = dict(files or {})
    _check_portable(changed, bundle.path)
    with alone_in(bundle.path, otherwise="is being changed by another program; try again") as held:
        if held:
            for draft in bundle.path.glob(f"{_UPDATE}.*"):  # of those that were killed
                shutil.rmtree(draft, ignore_errors=True)
        _update(bundle, manifest, changed)
    return open_bundle(bundle.path)


def _update(bundle: Bundle, manifest: Manifest, changed: Mapping[str, Path | bytes]) -> None:
    draft = bundle.path / f"{_UPDATE}.{secrets.token_hex(4)}"  # where nothing is locked, others may have theirs
    try:
        draft.mkdir()
        for name, content in changed.items():
            _place(content, draft / name)
        entries = bundle.manifest.files | {name: _entry(draft / name) for name in changed}
        _place(to_json(_sealed(manifest, entries)).encode(), draft / MANIFEST)
        _flush_names(draft)
        _finish_update(bundle.path)
        if read_manifest(bundle.path).content_sha256 != bundle.manifest.content_sha256:
            raise BundleError(f"{bundle.path}: was changed by another program meanwhile and stays so; try again")
        if (bundle.path / _UPDATE).exists():
            raise BundleError(f"{bundle.path / _UPDATE}: holds what is no part of a bundle; remove it and try again")
        os.replace(draft, bundle.path / _UPDATE)
    except OSError as error:
        raise ReasonError(
            f"{bundle.path}: could not be written ({reason(error)}); what was there before is kept"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _finish_update(folder: Path) -> None:
    """Move the files of an update into place; others may do so at the same time, and each file is moved by one."""
    update = folder / _UPDATE
    if not os.path.isdir(update):  # false for a path that cannot be looked at, which `read_manifest` names
        return
    try:
        _flush_names(folder)  # a power cut must not keep a move and forget where the other files are
        for name in (*PORTABLE, MANIFEST):
            with suppress(FileNotFoundError):
                if (update / name).exists():  # where nothing is left, a disk that is read-only by now does no harm
                    os.replace(update / name, folder / name)
    except OSError as error:
        raise BundleError(
            f"{folder}: an update of it was cut off and cannot be finished here ({reason(error)}); "
            "run `reason-run info` on it as a user and on a machine that may write to it"
        ) from error
    with suppress(OSError):  # it is empty and says nothing any more
        update.rmdir()
    _flush_names(folder)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where a bundle may not be written; before long work, so that nobody waits for a refusal.

    Raises:
        BundleError: There is something already, or the folder has no name.
    """
    if target.name in ("", ".."):
        raise BundleError(f"{target}: a bundle is a folder of its own; give it a name")
    if not target.exists() and not target.is_symlink():
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    if not _is_sealed(target / MANIFEST):
        raise BundleError(f"{target}: exists and is not a bundle; choose another name")
    if not overwrite:
        raise BundleError(f"{target}: a bundle is there already; choose another name, or --overwrite it")
    for found in sorted(target.iterdir()):
        if found.name not in (MANIFEST, *PORTABLE, *DEVICE_FOLDERS) and not found.name.startswith("."):
            raise BundleError(f"{found}: is no part of a bundle, and would be lost with it; move it out of the bundle")


def _is_sealed(path: Path) -> bool:
    """Whether this is a bundle's manifest, of whatever version; other programs have files of this name too."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "content_sha256" in content


def _check_portable(names: Mapping[str, object], folder: Path) -> None:
    for name in names:
        if name not in PORTABLE:
            raise BundleError(f"{folder / name}: is no file of a bundle; expected {', '.join(PORTABLE)}")


def _check_names(folder: Path, manifest: Manifest) -> None:
    _check_portable(manifest.files, folder)
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST}: files: lists no {name}; export again")
    for found in sorted(folder.iterdir()):
        known = found.name in manifest.files or found.name in (MANIFEST, *DEVICE_FOLDERS)
        if not known and not found.name.startswith("."):
            raise BundleError(f"{found}: is not listed in the bundle's manifest; move it out of the bundle")


def _verify(path: Path, entry: FileEntry) -> None:
    found = _entry(path)
    if found.size_bytes != entry.size_bytes:
        raise BundleError(f"{path}: has {found.size_bytes} bytes, expected {entry.size_bytes}; copy the bundle again")
    if found.sha256 != entry.sha256:
        raise BundleError(f"{path}: was changed (SHA-256 does not match the manifest); copy the bundle again")


def _entry(path: Path) -> FileEntry:
    try:
        return FileEntry(sha256=file_sha256(path), size_bytes=path.stat().st_size)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: is missing; copy the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({reason(error)})") from error


def _read_bytes(path: Path, *, missing: str) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(missing) from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({reason(error)})") from error


def _place(content: Path | bytes, path: Path) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copyfile(content, path)
    flush(path)


def _write_manifest(folder: Path, manifest: Manifest, *, names: Mapping[str, object]) -> None:
    write_text(folder / MANIFEST, to_json(_sealed(manifest, {name: _entry(folder / name) for name in names})))


def _sealed(manifest: Manifest, entries: dict[str, FileEntry]) -> Manifest:
    listed = replace(manifest, files=entries, content_sha256="")
    return replace(listed, content_sha256=content_hash(listed))


def _swap(beside: Path, target: Path, *, overwrite: bool) -> None:
    """Put `beside` in the place of `target`; with `overwrite`, an old bundle there ends up beside, or is removed.

    The two change names in one step where the system can do that, so that a kill finds one of them in place. Where it
    cannot (some network file systems), the old one is set aside first, put back on failure, and removed at last.
    """
    if not (overwrite and (target / MANIFEST).exists()):
        os.replace(beside, target)  # which the system refuses where there is a file, or a folder with anything in it
    elif not exchange(beside, target):
        aside = target.with_name(f"{beside.name}.old")
        os.replace(target, aside)
        try:
            os.replace(beside, target)
        except OSError:
            os.replace(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _flush_names(target.parent)


def _flush_names(folder: Path) -> None:
    with suppress(OSError):  # not every file system can flush a folder
        flush(folder)
