"""What an interrupted training of a head takes up again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfd_tf.errors import UserError


class TrainingState:
    """The variables and the history of a training after its last finished epoch.

    Args:
        folder: where the file lies; None keeps nothing.
        name: of the training, part of the file's name.
        identity: JSON-ready; a file of another identity is not taken up.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> TrainingState(folder, "probe", {"seed": 0}).save(3, [np.ones(2)], {"upright": [0.5]})
    >>> TrainingState(folder, "probe", {"seed": 0}).load()[::2]
    (3, {'upright': [0.5]})
    >>> TrainingState(folder, "probe", {"seed": 1}).load() is None
    True
    """

    def __init__(self, folder: Path | None, name: str, identity: Any):
        text = json.dumps(identity, sort_keys=True, default=str)
        self._identity = hashlib.sha256(text.encode()).hexdigest()
        name = re.sub(r"[^a-z0-9]+", "_", name.lower())
        self._path = None if folder is None else folder / f"unfinished_{name}.npz"

    def load(self) -> tuple[int, list[np.ndarray], dict] | None:
        """Returns (finished epochs, arrays, history), or None where there is nothing to take up."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with np.load(self._path) as file:
                meta = json.loads(str(file["meta"]))
                if meta["identity"] != self._identity:
                    return None
                arrays = [file[f"array{i}"] for i in range(meta["arrays"])]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return meta["epoch"], arrays, meta["history"]

    def save(self, epoch: int, arrays: Sequence[np.ndarray], history: dict) -> None:
        """Keeps the state after so many epochs; an interruption leaves the old one or the new."""
        if self._path is None:
            return
        meta = {
            "identity": self._identity,
            "epoch": epoch,
            "arrays": len(arrays),
            "history": history,
        }
        writing = self._path.with_name(f".{self._path.name}.{os.getpid()}.npz")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            named = {f"array{i}": array for i, array in enumerate(arrays)}
            np.savez(writing, meta=np.array(json.dumps(meta)), **named)
            os.replace(writing, self._path)
        except OSError as error:
            raise UserError(f"cannot write '{self._path}': {error.strerror}") from None

    def remove(self) -> None:
        """Removes the file, once its training's results are kept elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
