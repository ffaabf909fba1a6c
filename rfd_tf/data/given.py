"""What `data=` stands for: the one place that decides how what a user gives is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rfd_tf import paths
from rfd_tf.data import class_folders, file_list
from rfd_tf.data.base import Source
from rfd_tf.data.folder import folder_ids, image_folder
from rfd_tf.data.shards.paths import looks_like_shards
from rfd_tf.errors import UserError, shown

# Several, in text; a comma within braces belongs to a pattern.
_COMMA = re.compile(r",(?![^{}]*\})")
_PATTERN = re.compile(r"[*?\[{]|://|^hf:")
_MOST_COMMAS = 8  # in the name of a folder


class Reader(NamedTuple):
    """How one kind of files is read.

    Attributes:
        takes: whether a path is of this kind: by its name or, of a folder, by what it holds.
        read: called with the paths, one or several of this kind, and by name with `data_root`,
            `split`, `leave_out` and what else `read` was given; returns the source. A split of None
            is the usual one of training images.
        ids: called with the paths, and by name with `data_root`, `split`, `cache_dir` and
            `cache_gb`; returns what `Source.image_ids` has without decoding images, or None.
        splits: called with a path, and by name with `cache_dir` and `cache_gb`; returns its
            splits. None where files of this kind have none.
    """

    takes: Callable[[str], bool]
    read: Callable[..., Source]
    ids: Callable[..., np.ndarray | None]
    splits: Callable[..., list[str]] | None = None


def _is_list(path: str) -> bool:
    if paths.is_address(path):
        return not looks_like_shards(path)
    return path.lower().endswith(paths.LISTS) and not os.path.isdir(paths.expanded(path))


def _read_list(found: Sequence[str], data_root: Any, leave_out: Any, **options: Any) -> Source:
    del leave_out  # what a list names is asked for
    return file_list.image_list(_one_list(found), data_root, **options)


def _list_ids(found: Sequence[str], data_root: Any, split: str | None, **cache: Any) -> np.ndarray:
    return file_list.list_ids(_one_list(found), data_root, split, **cache)


def _one_list(found: Sequence[str]) -> str:
    if len(found) > 1:
        raise UserError(
            f"{class_folders.quoted(found)} are several lists of images; put their rows into one"
        )
    return found[0]


def _one_dataset(found: Sequence[str]) -> str:
    if len(found) > 1:
        raise UserError(f"{class_folders.quoted(found)} are several datasets; give one")
    return found[0]


def _read_hugging_face(
    found: Sequence[str], data_root: Any, split: str | None, leave_out: Any, **options: Any
) -> Source:
    del data_root, leave_out
    from rfd_tf.data.shards import hugging_face, source

    files, called = hugging_face.chosen(_one_dataset(found), split)
    return source.shard_source(files, called=called, **options)


def _hugging_face_ids(
    found: Sequence[str], data_root: Any, split: str | None, **_: Any
) -> np.ndarray:
    del data_root
    from rfd_tf.data.shards import hugging_face, source

    return source.shard_ids(hugging_face.chosen(_one_dataset(found), split)[0])


def _hugging_face_splits(path: str, **_: Any) -> list[str]:
    from rfd_tf.data.shards import hugging_face

    return hugging_face.splits(path)


def _read_folders(
    found: Sequence[str],
    data_root: Any,
    split: Any,
    cache_dir: Any = None,
    cache_gb: Any = None,
    **options: Any,
) -> Source:
    del data_root, split, cache_dir, cache_gb  # which may be of other images of the same run
    return image_folder(found, **options)


_FOLDERS = Reader(lambda path: True, _read_folders, lambda found, **_: folder_ids(found))


def _read_shards(
    found: Sequence[str], data_root: Any, split: Any, leave_out: Any, **options: Any
) -> Source:
    del data_root, split, leave_out
    from rfd_tf.data.shards import source  # which imports Arrow

    return source.shard_source(found, **options)


def _shard_ids(found: Sequence[str], data_root: Any, split: Any, **cache: Any) -> np.ndarray:
    del data_root, split
    from rfd_tf.data.shards import source

    return source.shard_ids(found, **cache)


#: The first that takes a path reads it.
READERS = [
    Reader(
        lambda path: path.startswith(paths.HUGGING_FACE),
        _read_hugging_face,
        _hugging_face_ids,
        _hugging_face_splits,
    ),
    Reader(_is_list, _read_list, _list_ids, file_list.list_splits),
    Reader(looks_like_shards, _read_shards, _shard_ids),
    _FOLDERS,
]


def reader_of(path: str) -> Reader:
    """Returns how a path is read; what is of no other kind is read as a folder.

    >>> reader_of("photos/train.csv") is reader_of("TRAIN.TSV") is not reader_of("photos")
    True
    """
    return next(reader for reader in READERS if reader.takes(path))


def place_of(data: str | os.PathLike | Sequence[str | os.PathLike]) -> dict[str, str]:
    """Returns which setting stands for `data`: `data_dir` for files, `dataset` for a name.

    What exists comes first. Otherwise a path that begins with `/`, `.` or `~` or ends with `/`,
    the name of a kind of file in `READERS`, and several of anything with commas between them are
    files, and all else is a dataset: embedded or of TFDS.

    Args:
        data: as text, several folders with commas between them; or a sequence of folders.

    Raises:
        UserError: an empty sequence, or paths that cannot be told apart by their commas.

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
    return marked or paths.is_address(text) or _exists(text) or reader_of(text) is not _FOLDERS


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
        UserError: there are none, or they cannot be told apart by their commas.
    """
    found = [_absolute(os.fspath(path)) for path in data]
    if not found:
        raise UserError("data is an empty list; give at least one folder of images")
    text = ",".join(found)
    if len(found) > 1 and parts(text) != tuple(found):
        missing = next((path for path in found if not _exists(path)), None)
        if missing:
            raise UserError(f"no such folder: '{missing}'; give --data_dir existing folders")
        raise UserError(
            f"'{shown(text)}' is ambiguous: names of folders contain commas, and another folder "
            "has the name of two of them; rename it"
        )
    return text


def absolute(data: str) -> str:
    """Returns what a text names by absolute paths, so that it is found from any folder."""
    return ",".join(map(_absolute, parts(data)))


def _absolute(path: str) -> str:
    if paths.is_address(path):
        return path
    if path.startswith(paths.HUGGING_FACE):
        folder = path.removeprefix(paths.HUGGING_FACE)
        return f"{paths.HUGGING_FACE}{paths.absolute(folder)}" if _exists(folder) else path
    return os.fspath(paths.absolute(path))


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
    """Returns the images of a folder, of several, or of files of another kind in `READERS`.

    Args:
        data: the path, or several with commas between them.
        data_root: folder that the paths in a list are relative to; the list's own if None.
        split: of a list that has splits; None for `train`, or all where it has no such split.
        leave_out: folders that hold no images of the set, see `image_folder`.
        **options: `max_skipped`, `max_megapixels`, `verify`, `cache_bytes` of `image_folder`;
            `cache_dir`, `cache_gb` of `rfd_tf.data.load`.

    Raises:
        UserError: something is not there, several of different kinds, or what the reader finds
            wrong.
    """
    found = parts(data)
    kind, *others = dict.fromkeys(map(reader_of, found))
    if others:
        other = next(path for path in found if reader_of(path) is others[0])
        raise UserError(
            f"'{shown(found[0])}' and '{shown(other)}' are of different kinds: where --data_dir "
            "names several, all must be folders, or all shards"
        )
    return kind.read(found, data_root=data_root, split=split, leave_out=leave_out, **options)


def has_splits(data: str | None) -> bool:
    """Whether the images are of a kind that may have splits, as lists may.

    >>> has_splits("photos.csv"), has_splits("photos")
    (True, False)
    """
    return bool(data) and all(reader_of(path).splits is not None for path in parts(data))


def splits(data: str, **cache: Any) -> list[str]:
    """Returns the splits that the images have; none of a folder or a list without that column.

    Args:
        data, **cache: as of `read`; of these `cache_dir` and `cache_gb`.
    """
    named = parts(data) if has_splits(data) else ()
    found = (name for path in named for name in reader_of(path).splits(path, **cache))
    return list(dict.fromkeys(found))


def ids(
    data: str,
    data_root: str | os.PathLike | None = None,
    split: str | None = None,
    **cache: Any,
) -> np.ndarray | None:
    """Returns what `Source.image_ids` has, without reading images; None where it is not known.

    Args:
        data, data_root, split, **cache: as of `read`; of these `cache_dir` and `cache_gb`.
    """
    found = parts(data)
    return reader_of(found[0]).ids(found, data_root=data_root, split=split, **cache)
