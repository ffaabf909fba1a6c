"""Files of figures and tables, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rfd_tf.errors import UserError
from rfd_tf.extras import MissingPackage
from rfd_tf.paths import expanded, replacing


def folder(path: str | os.PathLike) -> Path:
    """Makes a folder where it is missing, and returns it.

    Raises:
        UserError: it cannot be made.

    >>> import tempfile
    >>> folder(Path(tempfile.mkdtemp()) / "figures").is_dir()
    True
    """
    path = expanded(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to '{path}': {error.strerror}") from None
    return path


@contextlib.contextmanager
def write_text(path: Path) -> Iterator[TextIO]:
    """Opens a text file to write; it takes its name once it is complete.

    Parts of a path that are no text are written as escapes.

    Raises:
        UserError: it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> with write_text(path) as file:
    ...     _ = file.write("a,b")
    >>> path.read_text()
    'a,b'
    """
    try:
        with (
            replacing(path) as writing,
            open(writing, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            yield file
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None


def save_figure(draw: Callable[[], Any], path: Path) -> None:
    """Writes a figure as PNG, whole or not at all; without Matplotlib it warns and writes none.

    Args:
        draw: returns the `matplotlib.figure.Figure`.
        path: of the file.

    Raises:
        UserError: it cannot be written.

    >>> import tempfile
    >>> from matplotlib.figure import Figure
    >>> path = Path(tempfile.mkdtemp()) / "empty.png"
    >>> save_figure(lambda: Figure(figsize=(1, 1)), path)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    try:
        figure = draw()
        with replacing(path) as writing:
            figure.savefig(writing, format="png")
    except MissingPackage as error:
        warnings.warn(f"'{path}' is not drawn: {error}", stacklevel=2)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all.

    Raises:
        UserError: it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.json"
    >>> write_json(path, {"a": 1})
    >>> json.loads(path.read_text())
    {'a': 1}
    """
    with write_text(path) as file:
        file.write(json.dumps(value, indent=2) + "\n")
