"""Frozen features on disk: taken once, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rfd_tf.errors import UNREADABLE_NPZ, UserError
from rfd_tf.evaluation.features import Features


class RowFile:
    """A growing array in a `.npy` file, complete only when it is closed.

    Args:
        path: of the file; an unfinished one is written next to it.
        num_rows: most rows that will be written.

    >>> import tempfile
    >>> rows = RowFile(Path(tempfile.mkdtemp()) / "x.npy", num_rows=4)
    >>> rows.append(np.ones((3, 2), np.float16))
    >>> rows.close().shape
    (3, 2)
    """

    def __init__(self, path: Path, num_rows: int):
        self._path, self._num_rows = path, num_rows
        self._writing = path.with_name(f".{path.name}.{os.getpid()}")
        self._array: np.ndarray | None = None
        self._done = 0

    def append(self, rows: np.ndarray) -> None:
        """Writes rows `[n, dim]`; float16 as long as all of them are."""
        if self._array is None:
            self._array = self._open(rows.shape[1:], rows.dtype)
        elif self._array.dtype != rows.dtype and rows.dtype == np.float32:
            narrow = self._array
            # (The old file lives on without a name until it is read.)
            self._writing.unlink()
            self._array = self._open(rows.shape[1:], rows.dtype)
            for start in range(0, self._done, 4096):
                stop = min(start + 4096, self._done)
                self._array[start:stop] = narrow[start:stop]
        self._array[self._done : self._done + len(rows)] = rows
        self._done += len(rows)

    def _open(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        try:
            return np.lib.format.open_memmap(self._writing, "w+", dtype, (self._num_rows, *shape))
        except OSError as error:
            raise UserError(
                f"features cannot be kept in '{self._path.parent}': {error.strerror}; give "
                "another --output or leave --cache_features out"
            ) from None

    def close(self) -> np.ndarray:
        """Gives the file its name and returns what was written, memory-mapped."""
        self._array.flush()
        os.replace(self._writing, self._path)
        return self._array[: self._done]


class FeatureCache:
    """Features of one network on one set of images, a file a feature.

    Args:
        folder: where the files lie; made when missing.
        identity: JSON-ready: everything that the features follow from.

    >>> import tempfile
    >>> cache = FeatureCache(Path(tempfile.mkdtemp()), {"sha256": "..."})
    >>> cache.get(["f"]) is None
    True
    >>> rows = cache.rows("f", num_rows=2)
    >>> rows.append(np.ones((2, 3), np.float32))
    >>> rows.close().shape, cache.get(["f"])["f"].shape
    ((2, 3), (2, 3))
    """

    def __init__(self, folder: Path, identity: Any):
        text = json.dumps(identity, sort_keys=True)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._text = text

    def rows(self, name: str, num_rows: int) -> RowFile:
        """Returns the file that a feature is to be written to."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "identity.json").write_text(self._text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"features cannot be kept in '{self._folder}': {error.strerror}"
            ) from None
        return RowFile(self._path(name), num_rows)

    def get(self, names: Iterable[str]) -> Features | None:
        """Returns the named features, memory-mapped, or None where one is missing."""
        paths = {name: self._path(name) for name in names}
        if not all(path.exists() for path in paths.values()):
            return None
        try:
            return {
                name: np.load(path, mmap_mode="r", allow_pickle=False)
                for name, path in paths.items()
            }
        except UNREADABLE_NPZ:  # damaged: made again
            return None

    def forget(self, names: Iterable[str]) -> None:
        """Removes the named features' files; arrays in use stay readable."""
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '_').replace(' ', '_')}.npy"
