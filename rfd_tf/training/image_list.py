"""The list of a run's images, kept to say what has changed when the images are others later."""

from __future__ import annotations

import gzip
import json
import os
import zlib

from rfd_tf.data.base import Source
from rfd_tf.errors import UserError
from rfd_tf.paths import expanded, replacing

#: In the run folder.
FILE = "images.json.gz"
_NAMED = 5


def write(path: str | os.PathLike, source: Source) -> None:
    """Writes the names of a source's images and, of files, their lengths in bytes.

    Args:
        path: gzipped JSON, `{"names": [...] or null, "lengths": [...] or null}`; appears whole.
        source: the images.
    """
    path = expanded(path)
    lengths = None if source.lengths is None else [int(length) for length in source.lengths]
    names = None if source.names is None else list(source.names)
    with replacing(path) as writing, gzip.open(writing, "wt", encoding="ascii") as file:
        json.dump({"names": names, "lengths": lengths}, file)


def difference(path: str | os.PathLike, source: Source) -> str:
    """Says in words how a source's images differ from those of a list.

    Args:
        path: what `write` wrote.
        source: the images as they are now.

    Returns:
        Such as "2 images removed (a.png, b.png), 1 new (c.png)"; names five of each kind at most.

    Raises:
        UserError: the list cannot be read.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            held = json.load(file)
        names, lengths = held["names"], held["lengths"]
        before = dict(zip(names or (), lengths or [None] * len(names or ()), strict=True))
    except FileNotFoundError:
        return "the run has no list of its images to compare with"
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the images have changed since the run began, and '{path}', which lists them, cannot "
            f"be read ({error}); put the images back, or give another --output_dir"
        ) from None
    if names is None or source.names is None:
        return "they have no names to compare"
    now = dict(zip(source.names, source.lengths or [None] * len(source.names), strict=True))
    kinds = {
        "removed": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "of another length": [
            name for name in before if name in now and None is not before[name] != now[name]
        ],
    }
    parts = []
    for kind, found in kinds.items():
        if found:
            more = ", ..." if len(found) > _NAMED else ""
            word = "image" if len(found) == 1 else "images"
            parts.append(f"{len(found)} {word} {kind} ({', '.join(found[:_NAMED])}{more})")
    return ", ".join(parts) or (
        "the names are the same, in another order, of other images, or read with another "
        "--high_bit_depth or --color_profile"
    )
