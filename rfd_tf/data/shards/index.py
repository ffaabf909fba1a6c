"""The index of a folder of shards, a file beside them: what each holds, without reading it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from rfd_tf.data.remote import transports
from rfd_tf.data.remote.cache import NotFetched
from rfd_tf.data.shards.listing import Listed, Listing, Wanted
from rfd_tf.data.shards.store import Places

#: The file: a line a shard.
INDEX_FILE = "index.jsonl"
# To be raised when what is found in a shard changes.
VERSION = 1


def line_of(listed: Listed) -> str:
    """Returns the line of a shard.

    >>> line = line_of(Listed("shards/a.tar", 1024, Listing(bytes_of_groups=[1024])))
    >>> listed_in(line).path
    'a.tar'
    """
    name = transports.name_of(listed.path)
    return json.dumps([VERSION, name, listed.file_bytes, listed.listing.to_json()]) + "\n"


def listed_in(line: str | bytes) -> Listed | None:
    """Returns what `line_of` wrote, the path being the shard's name; None if it is damaged."""
    try:
        version, name, size, listing = json.loads(line)
        if version == VERSION:
            return Listed(str(name), int(size), Listing.from_json(listing))
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def write_index(folder: Path, listed: Iterable[Listed]) -> None:
    """Writes the index of the shards of a folder."""
    with open(folder / INDEX_FILE, "w", encoding="utf-8") as file:
        file.writelines(line_of(one) for one in listed)


class Indexes:
    """The indexes beside shards.

    Args:
        wanted: the parts of samples that are read. An index holds the usual ones.
        places: where shards with addresses lie.
    """

    def __init__(self, wanted: Wanted, places: Places | None = None):
        self._usual, self._places = wanted == Wanted(), places
        self._folders: dict[str, dict[str, Listed]] = {}

    def of(self, path: str, size: int | None) -> Listed | None:
        """Returns what a shard of this length holds; None if no index beside it has it."""
        if not self._usual:
            return None
        remote = self._places is not None
        folder = transports.folder_of(path) if remote else os.path.dirname(path)
        if folder not in self._folders:
            self._folders[folder] = self._read(folder)
        found = self._folders[folder].get(transports.name_of(path))
        if found is None or found.file_bytes != size or found.listing.damage:
            return None
        return found._replace(path=path)

    def _read(self, folder: str) -> dict[str, Listed]:
        path = Path(folder, INDEX_FILE)
        try:
            if self._places is not None:
                path = self._places.cache.latest(transports.joined(folder, INDEX_FILE))
            with open(path, "rb") as file:
                found = [listed_in(line) for line in file]
        except (OSError, NotFetched):
            return {}
        return {one.path: one for one in found if one is not None}
