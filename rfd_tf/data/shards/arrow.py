"""Arrow files with a column of encoded images, as Hugging Face's datasets keep them on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rfd_tf.data.shards import parquet
from rfd_tf.data.shards.listing import Listing, Wanted, label_of
from rfd_tf.errors import UserError, shown
from rfd_tf.text import file_name_from_text


def _opened(path: str) -> pa.Table:
    """Returns the rows of a file, which stays on disk."""
    mapped = pa.memory_map(path)
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_file(mapped).read_all()


def listing(path: str, wanted: Wanted) -> Listing:
    """Lists the rows of an Arrow file; the images are not read.

    Args:
        path: of the file.
        wanted: names of columns.

    Raises:
        UserError: it has no column of images, or not the columns that are wanted.
    """
    found = Listing(bytes_of_groups=[os.stat(path).st_size])
    try:
        table = _opened(path)
    except parquet.KNOWN_BY as error:
        found.damage = f"no Arrow file ({parquet.reason(error)})"
        found.lost_bytes = found.bytes_of_groups[0]
        return found
    rows = len(table)
    try:
        image, label = parquet.describe_columns(found, path, table.schema, wanted)
        contents, paths = _columns(table[image])
        # (Otherwise damaged offsets would be read beyond the file.)
        for column in (contents, paths, table[label] if label else None):
            if column is not None:
                column.validate(full=True)
        empty = contents.is_null().to_numpy()
        names = [""] * rows
        if paths is not None:
            names = [file_name_from_text(name or "") for name in paths.to_pylist()]
            empty &= np.array([not name for name in names], bool)
        labels = table[label].to_pylist() if label else [None] * rows
    except UserError:
        raise
    except parquet.KNOWN_BY as error:
        found.damage = f"damaged ({parquet.reason(error)})"
        found.lost = min(rows, found.bytes_of_groups[0])
        return found
    found.names, found.labels = names, list(map(label_of, labels))
    found.offsets, found.lengths = list(range(rows)), [-1] * rows
    found.missing = dict.fromkeys(np.flatnonzero(empty).tolist(), "no bytes")
    return found


def reader(path: str, wanted: str | None) -> Callable[[int], bytes]:
    """Returns what reads the encoded image of a row; of one without bytes the file that it names.

    Raises:
        OSError: the file cannot be read, or is damaged.
    """
    try:
        table = _opened(path)
        contents, paths = _columns(table[parquet.image_column(path, table.schema, wanted)])
    except parquet.KNOWN_BY as error:
        raise OSError(f"'{shown(path)}': {parquet.reason(error)}") from None

    def read(row: int) -> bytes:
        content = contents[row].as_py()
        if content is None and paths is not None:
            content = Path(file_name_from_text(paths[row].as_py() or "")).read_bytes()
        return content or b""

    return read


def _columns(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    """Returns the bytes, and the paths where there are any."""
    if not pa.types.is_struct(column.type):
        return column, None
    paths = pc.struct_field(column, "path") if parquet.has_path(column.type) else None
    return pc.struct_field(column, "bytes"), paths
