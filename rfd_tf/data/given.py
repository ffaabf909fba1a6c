"""What `data=` stands for: the one place that decides how what a user gives is read."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rfd_tf import paths
from rfd_tf.data import file_list
from rfd_tf.data.base import Source
from rfd_tf.data.folder import folder_ids, image_folder
from rfd_tf.data.shards.paths import looks_like_shards
from rfd_tf.errors import UserError, shown

# Several, in text; a comma within braces belongs to a pattern.
_COMMA = re.compile(r",(?![^{}]*\})")
_PATTERN = re.compile(r"[*?\[{]|://")
_MOST_COMMAS = 8  # in the name of a folder


class Reader(NamedTuple):
    """How files of a kind are read.

    Attributes:
        read: called with the path and, by name, `data_root`, `split`, `max_skipped`,
            `max_megapixels`, `verify` and `cache_bytes` as far as they were given; returns the
            source. A split of None is the usual one of training images.
        splits: returns the splits that the file names; None for files that have none.
        ids: returns what `Source.image_ids` has, or None, without reading images; called with the
            path, `data_root` and `split`.
    """

    read: Callable[..., Source]
    splits: Callable[[str], list[str]] | None = None
    ids: Callable[..., np.ndarray | None] = lambda path, **options: None


def _read_list(path: str, data_root: Any = None, **options: Any) -> Source:
    return file_list.image_list(path, data_root, **options)


def _list_ids(path: str, data_root: Any = None, split: str | None = None) -> np.ndarray:
    return file_list.list_ids(path, data_root, split)


_LIST = Reader(_read_list, file_list.list_splits, _list_ids)


def _read_shards(path: str, data_root: Any = None, split: Any = None, **options: Any) -> Source:
    from rfd_tf.data.shards import source  # which imports Arrow

    return source.shard_source(path, **options)


def _shard_ids(path: str, **options: Any) -> np.ndarray:
    from rfd_tf.data.shards import source

    return source.shard_ids(path)


_SHARDS = Reader(_read_shards, ids=_shard_ids)

#: Pattern of a file's name, in lower case -> its reader. What is a folder is never read by these.
READERS: dict[str, Reader] = {f"*{ending}": _LIST for ending in paths.LISTS}


def reader_of(path: str) -> Reader | None:
    """Returns how a file, a pattern of files or a folder of shards is read; None for all else.

    >>> reader_of("photos/train.csv") is reader_of("TRAIN.TSV"), reader_of("photos")
    (True, None)
    """
    if looks_like_shards(path):
        return _SHARDS
    if os.path.isdir(paths.expanded(path)) or path.endswith("/"):
        return None
    name = os.path.basename(path).lower()
    return next((reader for kind, reader in READERS.items() if fnmatch.fnmatch(name, kind)), None)


def place_of(data: str | os.PathLike | Sequence[str | os.PathLike]) -> dict[str, str]:
    """Returns which setting stands for `data`: `data_dir` for files, `dataset` for a name.

    What exists comes first. Otherwise a path that begins with `/`, `.` or `~` or ends with `/`,
    a name of a kind in `READERS`, and several of anything with commas between them are files, and
    all else is a dataset: embedded or of TFDS.

    Args:
        data: as text, several folders with commas between them; or a sequence of folders.

    Raises:
        UserError: an empty sequence, or paths whose commas leave open where one ends.

    >>> place_of("digits"), place_of("coco/2017"), place_of("./photos")
    ({'dataset': 'digits'}, {'dataset': 'coco/2017'}, {'data_dir': './photos'})
    >>> place_of("train.csv"), place_of("a,b")
    ({'data_dir': 'train.csv'}, {'data_dir': 'a,b'})
    """
    if not isinstance(data, str | os.PathLike):
        data = list(data)
        if len(data) != 1:
            return {"data_dir": joined(data)}
        (data,) = data
    text = os.fspath(data)
    found = parts(text)
    named = len(found) == 1 or "=" in text  # an option of a TFDS dataset
    is_dataset = named and not any(map(_is_path, found))
    return {"dataset" if is_dataset else "data_dir": text}


def _is_path(text: str) -> bool:
    marked = text.startswith(("/", ".", "~")) or text.endswith(("/", os.sep))
    return marked or _exists(text) or reader_of(text) is not None


def _exists(text: str) -> bool:
    try:
        return paths.expanded(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def parts(data: str | os.PathLike) -> tuple[str, ...]:
    """Returns the paths in a text with commas between them.

    Commas in the name of something that exists are part of it.

    >>> parts("photos"), parts("photos,more/photos"), parts("shard-{1,2}.tar")
    (('photos',), ('photos', 'more/photos'), ('shard-{1,2}.tar',))
    """
    data = os.fspath(data)
    pieces = _COMMA.split(data)
    if len(pieces) == 1 or _exists(data):
        return (data,)
    found: list[str] = []
    while pieces:
        # The longest run of pieces that exists, if only without the spaces around it.
        most = min(len(pieces), 1 + _MOST_COMMAS)
        runs = [",".join(pieces[:count]) for count in range(most, 0, -1)]
        tried = (form for run in runs for form in (run, run.strip()))
        one = next((form for form in tried if _exists(form)), runs[-1].strip())
        del pieces[: 1 + len(_COMMA.findall(one))]
        if found and found[0].startswith("/") and one and not _is_path(one):
            found[-1] += f",{one}"  # of a folder that was there once: a record has whole paths
        elif one:
            found.append(one)
    return tuple(found) or (data,)


def joined(data: Iterable[str | os.PathLike]) -> str:
    """Returns absolute paths with commas between them, which `parts` takes apart again.

    Raises:
        UserError: there are none, or their own commas leave open where one ends.
    """
    found = [os.fspath(paths.absolute(path)) for path in data]
    if not found:
        raise UserError("data is an empty list; give at least one folder of images")
    text = ",".join(found)
    if len(found) > 1 and parts(text) != tuple(found):
        missing = next((path for path in found if not _exists(path)), None)
        if missing:
            raise UserError(f"no such folder: '{missing}'; give --data_dir existing folders")
        raise UserError(
            f"'{shown(text)}' does not say where a folder's name ends, for names with commas are "
            "among them; rename these folders"
        )
    return text


def absolute(data: str) -> str:
    """Returns what a text names by absolute paths, so that it is found from any folder."""
    found = parts(data)
    return ",".join(path if "://" in path else os.fspath(paths.absolute(path)) for path in found)


def missing(data: str) -> str | None:
    """Returns the first of the paths that does not exist; None where all do, or are patterns."""
    found = parts(data)
    return next((path for path in found if not (_exists(path) or _PATTERN.search(path))), None)


def read(
    data: str,
    *,
    data_root: str | os.PathLike | None = None,
    split: str | None = None,
    leave_out: Sequence[str | os.PathLike] = (),
    **options: Any,
) -> Source:
    """Returns the images of a folder, of several, or of a file of a kind in `READERS`.

    Args:
        data: the path, or several with commas between them.
        data_root: folder that the paths in a list are relative to; the list's own if None.
        split: of a list that has splits; None for `train`, or all where it has no such split.
        leave_out: folders that hold no images of the set, see `image_folder`.
        **options: `max_skipped`, `max_megapixels`, `verify`, `cache_bytes` of `image_folder`.

    Raises:
        UserError: something is not there, several that are not all folders, or what the reader
            finds wrong.
    """
    found = parts(data)
    kinds = [reader_of(path) for path in found]
    if len(found) == 1 and kinds[0] is not None:
        return kinds[0].read(found[0], data_root=data_root, split=split, **options)
    for path, kind in zip(found, kinds, strict=True):
        if kind is not None:
            raise UserError(
                f"'{shown(path)}' is no folder: where --data_dir names several, all must be "
                "folders; put the rows of several lists into one"
            )
    return image_folder(found[0] if len(found) == 1 else found, leave_out=leave_out, **options)


def has_splits(data: str | None) -> bool:
    """Whether the images are of a kind that may have splits, as lists may.

    >>> has_splits("photos.csv"), has_splits("photos")
    (True, False)
    """
    found = parts(data) if data else ()
    kind = reader_of(found[0]) if len(found) == 1 else None
    return kind is not None and kind.splits is not None


def splits(data: str) -> list[str]:
    """Returns the splits that the images have; none of a folder or a list without that column."""
    return reader_of(data).splits(data) if has_splits(data) else []


def ids(
    data: str, data_root: str | os.PathLike | None = None, split: str | None = None
) -> np.ndarray | None:
    """Returns what `Source.image_ids` has, without reading images; None where it is not known.

    Args:
        data, data_root, split: as of `read`.
    """
    found = parts(data)
    kind = reader_of(found[0]) if len(found) == 1 else None
    if kind is not None:
        return kind.ids(found[0], data_root=data_root, split=split)
    return folder_ids(found)
