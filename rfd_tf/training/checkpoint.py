"""Checkpoints: every variable of a run in one file, written atomically, read on any device count.

A checkpoint is an uncompressed NumPy archive (no pickles) with one entry a variable and one for a
JSON description. Each entry carries a checksum that reading verifies.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from rfd_tf.errors import UserError

FORMAT = 1
_NAME = re.compile(r"step-(\d{9})\.npz$")


def state_variables(method, optimizer) -> list[tuple[str, object]]:
    """Every variable that training changes, as (unique name, Keras variable), in a fixed order.

    The method's weights come first (backbone, heads, memory bank, normalising constant, random
    state, logs), then the optimizer's.
    """
    named = []
    for group, variables in (("method", method.variables), ("optimizer", optimizer.variables)):
        for position, variable in enumerate(variables):
            named.append((f"{group}/{position:05d}/{variable.name}", variable))
    return named


def _to_array(variable) -> np.ndarray:
    from keras import ops

    array = np.asarray(ops.convert_to_numpy(variable.value))
    # NumPy's file format has no bfloat16; the bits are kept.
    return array.view("uint16") if array.dtype.name == "bfloat16" else array


def save(path: str | os.PathLike, method, optimizer, description: dict) -> Path:
    """Writes a checkpoint; an interrupted write leaves whatever was there before.

    Args:
        path: file to write, usually `CheckpointFolder.path(step)`.
        method: the `rfd_tf.methods.Method`.
        optimizer: its optimizer, built.
        description: JSON-able facts to find again, such as `{"step": 390, "epoch": 1}`.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".writing")
    named = state_variables(method, optimizer)
    text = json.dumps({"format": FORMAT, **description})
    with open(temporary, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            _write_entry(archive, "description", np.frombuffer(text.encode(), "uint8"))
            # One variable at a time: a large memory bank is never held twice over.
            for name, variable in named:
                _write_entry(archive, name, _to_array(variable))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def _write_entry(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def read_description(path: str | os.PathLike) -> dict:
    """The description a checkpoint was saved with."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            description = json.loads(archive["description"].tobytes().decode())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}); remove it") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} has another format than this version reads")
    return description


def load(path: str | os.PathLike, method, optimizer) -> dict:
    """Restores every variable from a checkpoint, whatever the number of devices that wrote it.

    Returns:
        The description it was saved with.

    Raises:
        UserError: an unreadable file, or one of another model; nothing is changed then.
    """
    description = read_description(path)
    named = state_variables(method, optimizer)
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = set(archive.files) - {"description"}
            wanted = {name for name, _ in named}
            if held != wanted:
                odd = sorted(held ^ wanted)[0]
                raise UserError(
                    f"checkpoint {path} belongs to another model or optimizer: '{odd}' is in one "
                    "and not in the other; use another --output_dir"
                )
            arrays = {name: archive[name] for name in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path} cannot be read ({error}); remove it") from None
    for name, variable in named:
        if tuple(arrays[name].shape) != tuple(variable.shape):
            raise UserError(
                f"checkpoint {path} holds '{name}' of shape {arrays[name].shape}; this model "
                f"needs {tuple(variable.shape)}; use another --output_dir"
            )
    for name, variable in named:
        array = arrays[name]
        if str(variable.dtype) == "bfloat16":
            array = array.view(np.asarray(variable.value).dtype)
        variable.assign(array)
    return description


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
        self.directory = Path(directory)
        self.keep = int(keep)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
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

    def save(self, method, optimizer, description: dict) -> Path:
        """Saves under `description["step"]`, then drops the oldest beyond `keep`."""
        path = save(self.path(description["step"]), method, optimizer, description)
        for old in self.all()[: -self.keep]:
            old.unlink()
        return path
