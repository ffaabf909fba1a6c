"""Images of a list that lie at addresses: each file is fetched when it is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rfd_tf.data import folder
from rfd_tf.data.base import Source, fingerprint
from rfd_tf.data.image_files import Reading
from rfd_tf.data.remote.cache import NotFetched, opened
from rfd_tf.data.shards.source import UNKNOWN, ShardSource
from rfd_tf.data.shards.store import WHOLE, Block, Places, Store
from rfd_tf.errors import UserError
from rfd_tf.paths import is_address
from rfd_tf.text import file_name_to_text

_TRIED = 8


def listed_images(
    root: str,
    files: Sequence[tuple[str, int | str]],
    listed: str,
    max_skipped: float,
    reading: Reading,
    cache_dir: str | os.PathLike | None,
    cache_gb: float,
    labels: np.ndarray | None,
    **described: Any,
) -> Source:
    """Returns the images of a list that has addresses among its paths.

    Args:
        root: what paths are relative to.
        files: `(path or address, bytes)` of each image, or a name and why it is left out.
        listed: the list, for messages.
        max_skipped, cache_dir, cache_gb: see `rfd_tf.data.image_list`.
        reading: how the images are read.
        labels: int64 of each of `files`, or None.
        **described: `name` and `class_names` of the source.

    Raises:
        UserError: too many images are left out, or none of some that are tried can be fetched.
    """
    folder.check_options(max_skipped, "auto", reading)
    good = [i for i, (_, known) in enumerate(files) if isinstance(known, int)]
    skipped = [
        (file_name_to_text(name, one_line=True), known)
        for name, known in files
        if isinstance(known, str)
    ]
    folder.report_skipped(f"'{listed}'", skipped, len(skipped), len(files), len(good), max_skipped)
    names = [files[i][0] for i in good]
    places = Places(opened(cache_dir, cache_gb), {})
    _try_some(places, [name for name in names if is_address(name)], listed)
    blocks = [
        Block(name if is_address(name) else os.path.join(root, name), -1, WHOLE, 0, 0)
        for name in names
    ]
    count = len(names)
    source = ShardSource(
        (),
        Store(blocks, places=places),
        np.arange(count, dtype=np.int32),
        np.zeros(count, np.int64),
        np.full(count, -1, np.int64),
        np.full((count, 4), UNKNOWN, np.int32),
        reading,
        labels=None if labels is None else labels[good],
        # (Not of the lengths, which only the servers know.)
        fingerprint=fingerprint(
            ["listed", *(_relative(root, name) for name in names), *reading.unusual()]
        ),
        skipped=skipped,
        names=[file_name_to_text(_relative(root, name)) for name in names],
        **described,
    )
    source.origins = lambda: ids(root, names)
    return source


def ids(root: str, names: Sequence[str]) -> np.ndarray:
    """Returns the ids of files, see `rfd_tf.data.folder.file_ids`; of others, of addresses."""
    return folder.file_ids("/" if is_address(root) else root, names)


def _relative(root: str, name: str) -> str:
    base = f"{root.rstrip('/')}/"
    return name.removeprefix(base) if is_address(root) else name


def _try_some(places: Places, addresses: Sequence[str], listed: str) -> None:
    """Fetches some images, to find out before training that none can be."""
    some = addresses[:: max(1, len(addresses) // _TRIED)][:_TRIED]
    places.fetch_ahead(some)
    for address in some:
        try:
            places.fetch(address)
            return
        except NotFetched as error:
            last = error
    raise UserError(
        f"{last}; the other {len(some) - 1} images of '{listed}' that were tried cannot be read, "
        "either; paths are relative to the list, or to --data_root"
    )
