"""A text file that names images and their labels, as Places205 and others come with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.folder import read_files
from rfd_tf.data.image_files import MAX_MEGAPIXELS
from rfd_tf.errors import UserError, shown
from rfd_tf.paths import absolute, expanded
from rfd_tf.text import (
    file_name_from_text,
    file_name_to_text,
    read_text,
    same_form,
    same_name_forms,
)

_MOST_CLASSES = 1_000_000  # there is memory for as many classes as the largest label says


def image_list(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    max_skipped: float = 0.01,
    verify: str = "auto",
    cache_bytes: int = 1 << 30,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Source:
    """Returns the images that a list names: one a line, its path, white space, its label.

    Labels are whole numbers from 0, or names of classes, which are then numbered in sorted order.
    Paths may hold spaces; a leading slash is taken as `root`. Empty lines are passed over. The
    index follows the list.

    Args:
        path: the list: UTF-8, or UTF-16 with a byte order mark.
        root: the folder that the paths are relative to; the list's own by default.
        max_skipped, verify, cache_bytes, max_megapixels: as of `image_folder`.

    Returns:
        An `ArraySource` where the images are kept in memory, else a `FolderSource`; its name is
        the list's path.

    Raises:
        UserError: the list does not exist, is empty or has a line without label or with a file
            that is not there (the line is named); or what `image_folder` finds wrong.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 8)).save(folder / "a 1.png")
    >>> Image.new("RGB", (8, 8)).save(folder / "b.png")
    >>> _ = (folder / "train.txt").write_text("b.png 1\\na 1.png 0\\n")
    >>> image_list(folder / "train.txt").labels.tolist()
    [1, 0]
    """
    path = expanded(path)
    root = absolute(path.parent if root is None else root)
    entries = list(_entries(path))
    if not entries:
        raise UserError(f"the image list '{path}' names no images")
    files = []
    for line, name, _ in entries:
        relative = name.lstrip("/") if not os.path.isfile(name) else name
        found = _found(root, relative)
        if found is None:
            raise UserError(
                f"'{path}', line {line}: no file '{shown(root / relative)}'; paths are relative "
                "to the list's folder, or to --list_root"
            )
        relative, status = found
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"'{path}', line {line}: '{shown(root / relative)}' is no file")
        files.append((relative, status.st_size))
    labels, class_names = _numbered([label for _, _, label in entries], path)
    return read_files(
        str(root),
        files,
        max_skipped,
        verify,
        cache_bytes,
        max_megapixels,
        listed=True,
        name=file_name_to_text(str(path)),
        labels=labels,
        class_names=class_names,
    )


def _found(root: Path, name: str) -> tuple[str, os.stat_result] | None:
    """Returns the name under which a listed file exists, and its status; None where it does not.

    The list may come from a system that stores accents in another form, or hold names that are no
    UTF-8 as `file_name_to_text` writes them.
    """
    for form in dict.fromkeys((*same_name_forms(name), file_name_from_text(name))):
        try:
            return form, os.stat(root / form)
        except (OSError, ValueError):  # a name with a zero byte is a value, not a file
            continue
    return None


def _entries(path: Path):
    """Yields (line number, file name, label) of each line that is not empty."""
    for number, line in enumerate(read_text(path, "the image list").split("\n"), 1):
        parts = line.strip().rsplit(maxsplit=1)
        if not parts:
            continue
        if len(parts) < 2:
            raise UserError(
                f"'{path}', line {number}: '{shown(line.strip())}' must be a path and a label"
            )
        yield number, *parts


def _numbered(labels: list[str], path: Path) -> tuple[np.ndarray, list[str] | None]:
    try:
        numbers = np.array([int(label) for label in labels], np.int64)
    except OverflowError:
        largest = max(labels, key=len)
        raise UserError(f"'{path}': label {largest[:40]} is too large a number") from None
    except ValueError:
        labels = [same_form(label) for label in labels]
        class_names = sorted(set(labels))
        number = {name: label for label, name in enumerate(class_names)}
        return np.array([number[label] for label in labels], np.int64), class_names
    if numbers.min() < 0:
        raise UserError(f"'{path}': label {numbers.min()}; labels are numbers from 0")
    if numbers.max() >= _MOST_CLASSES:
        raise UserError(
            f"'{path}': label {numbers.max()}; labels number the classes from 0 on, fewer than "
            f"{_MOST_CLASSES:,}; write ids of another kind as names, such as id{numbers.max()}"
        )
    return numbers, None
