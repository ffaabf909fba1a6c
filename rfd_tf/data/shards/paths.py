"""Which files a folder, a pattern or a range of shards stands for."""

from __future__ import annotations

import glob
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from rfd_tf.data import class_folders, image_files
from rfd_tf.data.remote import transports
from rfd_tf.data.remote.cache import Cache, NotFetched
from rfd_tf.data.remote.transports import Described
from rfd_tf.errors import UserError, shown
from rfd_tf.paths import LISTS, absolute, expanded, is_address

#: Format -> how the names of its files end.
FORMATS = {
    "tar": re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE),
    "tfrecord": re.compile(r"\.tfrec(ord)?s?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE),
    "parquet": re.compile(r"\.parquet$", re.IGNORECASE),
    "arrow": re.compile(r"\.arrow$", re.IGNORECASE),
}
_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 100_000
_NAMED = 5

Shards = str | os.PathLike | Sequence[str | os.PathLike]


def format_of(name: str) -> str | None:
    """Returns the format that a file's name announces, a key of `FORMATS`; None if none.

    >>> [format_of(name) for name in ("a.tar", "b.tfrecord-00000-of-00002", "c.jpg")]
    ['tar', 'tfrecord', None]
    """
    name = transports.name_of(name)
    return next((name_ for name_, ending in FORMATS.items() if ending.search(name)), None)


def looks_like_shards(data: Shards) -> bool:
    """Returns whether `shard_source` reads this: by names, nothing is opened.

    Args:
        data: a path, a pattern or several. A folder is one of shards if shards lie directly in it
            and no image files. An address is one of shards unless its name is that of a list.

    >>> looks_like_shards("photos-{000..099}.tar"), looks_like_shards("data/*.parquet")
    (True, True)
    >>> looks_like_shards("cifar10"), looks_like_shards("photo.jpg")
    (False, False)
    """
    if not isinstance(data, str | os.PathLike):
        items = list(data)
        return bool(items) and all(looks_like_shards(item) for item in items)
    if is_address(data):
        return not transports.name_of(data).lower().endswith(LISTS)
    path = str(expanded(data))
    try:
        if not os.path.isdir(path):
            return format_of(path) is not None
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return False
    if any(image_files.has_image_extension(name) for name in names):
        return False
    return any(format_of(name) and os.path.isfile(os.path.join(path, name)) for name in names)


def find(data: Shards) -> tuple[str, list[str]]:
    """Returns the format and the absolute paths of the shards, sorted, each once.

    Args:
        data: a file, a folder of shards, a pattern with `*`, `?` or `[...]`, a range
            `{000..099}` or a choice `{a,b}`, or several of these.

    Raises:
        UserError: no such shard, none at all, or shards of several formats.
    """
    items = [data] if isinstance(data, str | os.PathLike) else list(data)
    found = sorted({path for item in items for path in _matching(str(absolute(item)))})
    return _format_of_all(found, items), found


def _format_of_all(found: Sequence[str], items: Sequence[str | os.PathLike]) -> str:
    if not found:
        raise UserError("no shards are given")
    formats = {format_of(path) for path in found}
    for path in found:
        if format_of(path) is None:
            raise UserError(
                f"'{shown(path)}' is no shard: names end with .tar, .tar.gz, .tfrecord, "
                ".tfrecord.gz or .parquet"
            )
    if len(formats) > 1:
        raise UserError(
            f"'{shown(items[0])}' holds shards of several formats ({', '.join(sorted(formats))}); "
            "give those of one, such as --data='DIR/*.tar'"
        )
    return formats.pop()


def find_remote(data: Shards, cache: Cache) -> tuple[str, dict[str, Described]]:
    """Returns the format and the addresses of shards elsewhere, sorted, as servers describe them.

    Args:
        data: addresses, with patterns, ranges and choices as of `find`; patterns and folders where
            the file system lists files.
        cache: which asks the servers.

    Raises:
        UserError: see `find`; a server that cannot be reached or refuses, paths beside addresses.
    """
    items = [data] if isinstance(data, str | os.PathLike) else list(data)
    named: dict[str, None] = {}
    found: dict[str, Described] = {}
    for item in items:
        if not is_address(item):
            raise UserError(
                f"'{shown(item)}' is a path and '{shown(next(filter(is_address, items)))}' an "
                "address elsewhere; give --data one kind"
            )
        for address in unfolded(item):
            if transports.is_http(address) and "*" not in address and not address.endswith("/"):
                named[address] = None
            elif format_of(address) and not glob.has_magic(address):
                named[address] = None
            else:
                found.update(_listed(address, cache))
    format = _format_of_all([*found, *named], items)
    try:
        found.update(zip(named, cache.describe(list(named)), strict=True))
    except NotFetched as error:
        raise UserError(f"{error}; give --data addresses that can be read") from None
    return format, dict(sorted(found.items()))


def _listed(address: str, cache: Cache) -> dict[str, Described]:
    """Returns the files that match a pattern, or the shards in a folder."""
    is_pattern = glob.has_magic(address)
    try:
        found = cache.matching(address if is_pattern else f"{address.rstrip('/')}/*")
    except NotFetched as error:
        raise UserError(f"{error}; give --data addresses that can be read") from None
    if is_pattern and not found:
        raise UserError(f"no such shards: '{shown(address)}'; give --data shards that exist")
    if not is_pattern:
        found = {one: described for one, described in found.items() if format_of(one)}
    if not found:
        raise UserError(
            f"no shards (.tar, .tfrecord, .parquet) in '{shown(address)}'; images at addresses are "
            "read from shards, or by a list of their addresses"
        )
    return found


def _matching(path: str) -> Iterator[str]:
    try:
        is_folder, exists = os.path.isdir(path), os.path.exists(path)
    except ValueError:  # with a zero byte
        raise UserError(f"'{shown(path)}' is no path of shards") from None
    if exists:
        yield from _in_folder(path) if is_folder else [path]
        return
    named = list(unfolded(path))
    missing = []
    for one in named:
        matches = glob.glob(one) if glob.has_magic(one) else [one] if os.path.isfile(one) else []
        if not matches:
            missing.append(one)
        yield from matches
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        listed = ", ".join(f"'{shown(one)}'" for one in missing[:_NAMED])
        of = f" ({len(missing)} of {len(named)})" if len(named) > 1 else ""
        raise UserError(f"no such shards: {listed}{more}{of}; give --data shards that exist")


def _in_folder(folder: str) -> Iterator[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read folder '{shown(folder)}': {error.strerror}") from None
    shards = [name for name in names if format_of(name)]
    if not shards:
        raise UserError(f"no shards (.tar, .tfrecord, .parquet) in '{shown(folder)}'")
    yield from (os.path.join(folder, name) for name in shards)


def unfolded(path: str) -> Iterator[str]:
    """Yields what a path with `{000..099}` and `{a,b}` stands for."""
    parts: list[list[str]] = []
    for number, text in enumerate(_BRACES.split(path)):
        parts.append(_choices(text, path) if number % 2 else [text])
    count = 1
    for choices in parts:
        count *= len(choices)
        if count > _MOST_SHARDS:
            raise _too_many(path)
    return map("".join, itertools.product(*parts))


def _choices(text: str, path: str) -> list[str]:
    """Returns what the inside of braces stands for."""
    found = _RANGE.fullmatch(text)
    if not found:
        return text.split(",")
    first, last = found.groups()
    if len(first) > 12 or len(last) > 12 or int(last) - int(first) >= _MOST_SHARDS:
        raise _too_many(path)
    if int(last) < int(first):
        raise UserError(f"'{shown(path)}': the range {{{text}}} is empty; write it upwards")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _too_many(path: str) -> UserError:
    return UserError(f"'{shown(path)}' stands for more than {_MOST_SHARDS:,} shards; give a folder")


def warn_of_splits(place: str, paths: Sequence[str]) -> None:
    """Warns where the names of shards are those of a training and of a test set."""
    by_word: dict[str, str] = {}
    for path in paths:
        name = Path(path).name
        for word in re.split(r"[\W\d_]+", name):
            if class_folders.split_of(word):
                by_word.setdefault(word, name)
                break
    if class_folders.are_splits(list(by_word)):
        named = ", ".join(shown(name) for name in list(by_word.values())[:_NAMED])
        train = [name for word, name in by_word.items() if class_folders.split_of(word) == "train"]
        one = re.split(r"\d", (train or list(by_word.values()))[0])[0]
        example = os.path.join(os.path.dirname(paths[0]), f"{one}*")
        warnings.warn(
            f"the shards of '{shown(place)}' belong to several splits ({named}): all are read as "
            "one set, those for testing too; give those of one split, such as "
            f"--data='{shown(example)}'",
            stacklevel=2,
        )


def place_of(data: Shards, paths: Sequence[str]) -> str:
    """Returns what to call the shards in messages: what was given, or the folder of several."""
    if isinstance(data, str | os.PathLike):
        return data if is_address(data) else str(expanded(data))
    return paths[0] if len(paths) == 1 else os.path.dirname(paths[0])
