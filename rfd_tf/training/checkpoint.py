"""Checkpoints: every variable of a run in one file, written atomically, read on any device count.

A checkpoint is an uncompressed NumPy archive (no pickles) with one entry a variable and, last, one
for a JSON description, which holds the sha256 of every other entry. Reading verifies them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rfd_tf.errors import UserError
from rfd_tf.paths import absolute, expanded, replacing

FORMAT = 1
_DESCRIPTION = "description"
_CHECKSUMS = "sha256"
_AT_ONCE = 1 << 24  # bytes
#: What an interrupted write leaves behind.
_WRITING = ".writing"
#: What is added to the name of a checkpoint whose checksums do not hold.
DAMAGED = ".damaged"
_DAMAGED = "; restore it from a copy, or move it away to resume from the one before"
#: Numbers of the errors that say that there is no room.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What reading a damaged archive raises.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)
_NAME = re.compile(r"step-(\d{9})\.npz$")
# Keras numbers layers without a name through the whole process, so that the second model made in
# a notebook has other names than the first. Positions tell variables apart, not these numbers.
_COUNTED = re.compile(r"_\d+(?=_|$)")


def state_variables(method, optimizer) -> list[tuple[str, object]]:
    """Every variable that training changes, as (unique name, Keras variable), in a fixed order.

    The method's weights come first (backbone, heads, memory bank, normalising constant, random
    state, logs), then the optimizer's.
    """
    named = []
    for group, variables in (("method", method.variables), ("optimizer", optimizer.variables)):
        for position, variable in enumerate(variables):
            named.append((_plain(f"{group}/{position:05d}/{variable.name}"), variable))
    return named


def _plain(name: str) -> str:
    return _COUNTED.sub("", name)


def snapshot(method, optimizer) -> list[tuple[str, np.ndarray]]:
    """Takes every variable as it is now into the host's memory.

    Training may continue: what it writes later does not show in the arrays. A memory bank is held
    twice from then on, for as long as the snapshot is kept.
    """
    return [(name, _to_array(variable)) for name, variable in state_variables(method, optimizer)]


def _to_array(variable) -> np.ndarray:
    import keras

    value = variable.value
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow never changes a tensor in place while someone holds it. The array shares its
        # memory; an array made of the variable itself would be a copy.
        value = tf.convert_to_tensor(value)
    return np.asarray(value)


def not_finite(named: Iterable[tuple[str, np.ndarray]]) -> str | None:
    """The name of the first variable that holds NaN or an infinite value, or None."""
    for name, array in named:
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            continue
        flat = array.reshape(-1)
        for start in range(0, len(flat), _AT_ONCE):
            if not np.isfinite(flat[start : start + _AT_ONCE]).all():
                return name
    return None


def save(path: str | os.PathLike, method, optimizer, description: dict) -> Path:
    """Writes a checkpoint; an interrupted write leaves whatever was there before.

    Args:
        path: file to write, usually `CheckpointFolder.path(step)`.
        method: the `rfd_tf.methods.Method`.
        optimizer: its optimizer, built.
        description: JSON-able facts to find again, such as `{"step": 390, "epoch": 1}`.

    Returns:
        The path.

    Raises:
        UserError: the disk is full; the message says how much is needed.
    """
    return write(path, snapshot(method, optimizer), description)


def write(path: str | os.PathLike, named: list[tuple[str, np.ndarray]], description: dict) -> Path:
    """Writes a snapshot; see `save`."""
    path = expanded(path)
    temporary = path.with_suffix(_WRITING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, temporary), open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                checksums = {name: _write_entry(archive, name, array) for name, array in named}
                text = json.dumps({"format": FORMAT, **description, _CHECKSUMS: checksums})
                _write_entry(archive, _DESCRIPTION, np.frombuffer(text.encode(), "uint8"))
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise UserError(_no_space(path, named, error)) from None
    return path


def _no_space(path: Path, named: list[tuple[str, np.ndarray]], error: OSError) -> str:
    needed = sum(array.nbytes + len(name) + 512 for name, array in named)
    text = f"checkpoint {path} cannot be written ({error.strerror}): it needs {_mib(needed)}"
    if error.errno == errno.ENOSPC:
        text += f", and {_mib(shutil.disk_usage(path.parent).free)} are free"
    last = CheckpointFolder(path.parent).latest()
    kept = f"{last} is kept" if last else "there is none before it"
    return f"{text}; {kept}; free some space and repeat the command to resume from there"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"


def _sync_folder(folder: Path) -> None:
    """Makes a new name survive a power cut, where the system can do so."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class _Digest:
    """Passes on what is written to it, and takes its checksum."""

    def __init__(self, file):
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data) -> int:
        self.sha256.update(data)
        return self.file.write(data)


def _write_entry(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> str:
    """Returns the checksum of what it writes."""
    if array.dtype.name == "bfloat16":  # NumPy's file format has none; the bits are kept
        array = array.view("uint16")
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        digest = _Digest(entry)
        np.lib.format.write_array(digest, array, allow_pickle=False)
    return digest.sha256.hexdigest()


def read_description(path: str | os.PathLike) -> dict:
    """The description a checkpoint was saved with."""
    return _read_description(path)[0]


def _read_description(path: str | os.PathLike) -> tuple[dict, dict[str, str]]:
    """The description, and the checksums of the variables; none in files of older versions."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            description = json.loads(archive[_DESCRIPTION].tobytes().decode())
    except _UNREADABLE as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}){_DAMAGED}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} has another format than this version reads")
    checksums = description.pop(_CHECKSUMS, {})
    return description, checksums if isinstance(checksums, dict) else {}


def verify(path: str | os.PathLike) -> dict:
    """Reads a checkpoint to its end and compares the checksums, a few megabytes at a time.

    Returns:
        The description it was saved with.

    Raises:
        UserError: the file is truncated or changed; the message says where.
    """
    description, checksums = _read_description(path)
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            held.discard(_DESCRIPTION)
            if checksums and held != set(checksums):
                odd = sorted(held ^ set(checksums))[0]
                raise ValueError(f"'{odd}' is missing or too many")
            for name in sorted(held):
                digest = hashlib.sha256()
                # (Reading to the end compares the archive's own checksum too.)
                with archive.open(f"{name}.npy") as entry:
                    while data := entry.read(_AT_ONCE):
                        digest.update(data)
                if checksums and digest.hexdigest() != checksums[name]:
                    raise ValueError(f"bad checksum of '{name}'")
    except _UNREADABLE as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}){_DAMAGED}") from None
    return description


def load(path: str | os.PathLike, method, optimizer) -> dict:
    """Restores every variable from a checkpoint, whatever the number of devices that wrote it.

    Returns:
        The description it was saved with.

    Raises:
        UserError: an unreadable or damaged file, or one of another model; nothing is changed then.
    """
    description = verify(path)
    named = state_variables(method, optimizer)
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {_plain(name): name for name in archive.files if name != _DESCRIPTION}
            wanted = {name for name, _ in named}
            if held.keys() != wanted:
                odd = sorted(held.keys() ^ wanted)[0]
                raise UserError(
                    f"checkpoint {path} belongs to another model or optimizer: '{odd}' is in one "
                    "and not in the other; use another --output_dir"
                )
            for name, variable in named:
                shape = _shape(archive, held[name])
                if shape != tuple(variable.shape):
                    raise UserError(
                        f"checkpoint {path} holds '{name}' of shape {shape}; this model "
                        f"needs {tuple(variable.shape)}; use another --output_dir"
                    )
            # One variable at a time: a large memory bank is not held twice over.
            for name, variable in named:
                array = archive[held[name]]
                if str(variable.dtype) == "bfloat16":
                    array = array.view(np.asarray(variable.value).dtype)
                variable.assign(array)
    except _UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path} cannot be read ({error}){_DAMAGED}") from None
    return description


def _shape(archive, name: str) -> tuple[int, ...]:
    with archive.zip.open(f"{name}.npy") as entry:
        version = np.lib.format.read_magic(entry)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        return tuple(read[version](entry)[0])


class CheckpointFolder:
    """The checkpoints of a run, the newest few kept.

    Args:
        directory: folder to hold them; made when the first is saved.
        keep: how many to keep, at least 1.

    >>> import tempfile
    >>> checkpoints = CheckpointFolder(tempfile.mkdtemp(), keep=2)
    >>> checkpoints.path(12).name, checkpoints.latest()
    ('step-000000012.npz', None)
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise UserError(f"at least one checkpoint must be kept; got {keep}")
        self.directory = absolute(directory)
        self.keep = int(keep)

    def path(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self.directory / f"step-{step:09d}.npz"

    def all(self) -> list[Path]:
        """Existing checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if _NAME.search(path.name))

    def latest(self) -> Path | None:
        """The newest checkpoint, or None."""
        found = self.all()
        return found[-1] if found else None

    def latest_whole(self) -> Path | None:
        """The newest checkpoint whose checksums hold, or None where there is none at all.

        A damaged one is renamed, to end in `.damaged`, with a warning that names both. What an
        interrupted write left is removed.

        Raises:
            UserError: every checkpoint is damaged.
        """
        if self.directory.is_dir():
            for left in self.directory.glob(f"step-*{_WRITING}"):
                left.unlink()
        found = self.all()
        damaged = []
        for path in reversed(found):
            try:
                verify(path)
            except UserError as error:
                damaged.append((path, str(error).removesuffix(_DAMAGED)))
                continue
            for bad, reason in damaged:
                bad.replace(bad.with_name(bad.name + DAMAGED))
                warnings.warn(
                    f"{reason}; it is now called {bad.name}{DAMAGED}, and the one before, {path}, "
                    "is used",
                    stacklevel=1,
                )
            return path
        if damaged:
            raise UserError(
                f"all {len(damaged)} checkpoints in {self.directory} are damaged, the newest: "
                f"{damaged[0][1]}; restore one from a copy, or give another --output_dir to start "
                "a new run (--overwrite deletes this one)"
            )
        return None

    def save(self, method, optimizer, description: dict) -> Path:
        """Saves under `description["step"]`, then drops the oldest beyond `keep`."""
        return self.write(snapshot(method, optimizer), description)

    def write(self, named: list[tuple[str, np.ndarray]], description: dict) -> Path:
        """As `save`, of a snapshot."""
        path = write(self.path(description["step"]), named, description)
        for old in self.all()[: -self.keep]:
            old.unlink()
        return path
