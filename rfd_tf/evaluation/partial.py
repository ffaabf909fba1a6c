"""Finished parts of an evaluation, kept until the whole is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from rfd_tf.errors import UserError
from rfd_tf.evaluation.base import Result
from rfd_tf.paths import replacing


class PartialResults:
    """The results of finished (task, network) pairs, in memory and in a file.

    Args:
        folder: folder of the file; None keeps them in memory only.
        name: of the file.

    Raises:
        UserError: the file cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> PartialResults(folder).put(("weights", "knn"), [Result("f", 0.5)])
    >>> PartialResults(folder).get(("weights", "knn"))[0].value
    0.5
    """

    def __init__(self, folder: Path | None, name: str = "finished_parts"):
        self._path = None if folder is None else folder / f"{name}.json"
        self._parts: dict[str, list] = {}
        if self._path is not None and self._path.exists():
            try:
                self._parts = dict(json.loads(self._path.read_text(encoding="utf-8")))
                for rows in self._parts.values():
                    _ = [Result(*row) for row in rows]
            except (OSError, ValueError, TypeError, RecursionError):
                self._parts = {}  # cut off while it was written by other means: start over

    def get(self, key: Any) -> list[Result] | None:
        """Returns the results kept under a JSON-ready key, or None."""
        rows = self._parts.get(_digest(key))
        return None if rows is None else [Result(*row) for row in rows]

    def put(self, key: Any, results: list[Result]) -> None:
        """Keeps results under a JSON-ready key."""
        rows = [[*r] for r in results]
        self._parts[_digest(key)] = json.loads(json.dumps(rows, default=float))
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as writing:
                writing.write_text(json.dumps(self._parts), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write '{self._path}': {error.strerror}") from None

    def remove(self) -> None:
        """Removes the file, and its folder if that is empty then."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()


def _digest(key: Any) -> str:
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
