"""Parquet files with a column of encoded images, read by row group."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rfd_tf.data.shards.listing import Listing, Wanted, label_of
from rfd_tf.errors import UserError, shown
from rfd_tf.text import file_name_from_text

_ROWS = 64
_IMAGE_NAMES = ("image", "img", "jpg", "png", "picture", "image/encoded")
_LABEL_NAMES = ("label", "labels", "class", "cls", "fine_label", "image/class/label")
KNOWN_BY = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError)


def listing(path: str, wanted: Wanted) -> Listing:
    """Lists the rows of a Parquet file; the images are not read.

    Args:
        path: of the file.
        wanted: names of columns.

    Raises:
        UserError: it has no column of images, or not the columns that are wanted.
    """
    found = Listing(groups=np.zeros(0, np.int32))
    file_bytes = os.stat(path).st_size
    try:
        file = pq.ParquetFile(path)
    except KNOWN_BY as error:
        found.damage = f"no Parquet file ({reason(error)})"
        found.lost_bytes = file_bytes
        return found
    with file:
        schema = file.schema_arrow
        image, label = describe_columns(found, path, schema, wanted)
        leaf = image_leaf(schema, image)
        named = f"{image}.path" if leaf != image and has_path(schema.field(image).type) else None
        groups, sizes = [], []
        for number in range(file.num_row_groups):
            rows = 0
            try:
                described = file.metadata.row_group(number)
                rows = described.num_rows
                chunks = (described.column(i) for i in range(described.num_columns))
                size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == leaf)
                if not 0 <= rows <= file_bytes or size < 0:
                    raise ValueError("an impossible number of rows")
                columns = [name for name in (label, named) if name]
                table = file.read_row_group(number, columns=columns) if columns else None
                labels = table[label].to_pylist() if label else [None] * rows
                names = [""] * rows
                if named:
                    paths = pc.struct_field(table[image], "path").to_pylist()
                    names = [file_name_from_text(name or "") for name in paths]
                if len(labels) != rows or len(names) != rows:
                    raise ValueError("columns of different lengths")
            except KNOWN_BY as error:
                found.damage = f"row group {number} is damaged ({reason(error)})"
                found.lost += min(max(1, rows), file_bytes)
                continue
            found.names += names
            found.labels += map(label_of, labels)
            groups.append(np.full(rows, number, np.int32))
            found.offsets += range(rows)
            sizes.append((number, size))
        found.groups = np.concatenate(groups) if groups else found.groups
        found.bytes_of_groups = [0] * file.num_row_groups
        for number, size in sizes:
            found.bytes_of_groups[number] = size
    found.lengths = [-1] * len(found.names)
    return found


def images_of_group(path: str, group: int, wanted: str | None) -> Iterator[bytes | None]:
    """Yields the encoded images of a row group, in order; None where there is none.

    Raises:
        OSError: the file cannot be read, or is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            image = image_column(path, file.schema_arrow, wanted)
            leaf = image_leaf(file.schema_arrow, image)
            batches = file.iter_batches(_ROWS, row_groups=[group], columns=[leaf])
            for batch in batches:
                column = batch.column(0)
                if leaf != image:
                    column = column.field("bytes")
                yield from column.to_pylist()
    except KNOWN_BY as error:
        raise OSError(f"row group {group} of '{shown(path)}': {reason(error)}") from None


def image_leaf(schema: pa.Schema, image: str) -> str:
    """Returns the path of the column of bytes: of Hugging Face's images a part of a struct."""
    return f"{image}.bytes" if pa.types.is_struct(schema.field(image).type) else image


def describe_columns(
    found: Listing, path: str, schema: pa.Schema, wanted: Wanted
) -> tuple[str, str | None]:
    """Adds a table's columns and the names of its classes to a listing.

    Returns:
        The columns of images and of labels.

    Raises:
        UserError: there is no column of images, or not the columns that are wanted.
    """
    found.columns = [f"{field.name} ({field.type})" for field in schema]
    image = image_column(path, schema, wanted.image)
    label = label_column(path, schema, wanted.label, image)
    found.class_names = class_names(schema, label)
    return image, label


def reason(error: BaseException) -> str:
    return shown(" ".join(str(error).split()), 120)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _fields_of(kind: pa.DataType) -> dict[str, pa.DataType]:
    if not pa.types.is_struct(kind):
        return {}
    return {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}


def has_path(kind: pa.DataType) -> bool:
    path = _fields_of(kind).get("path")
    return path is not None and (pa.types.is_string(path) or pa.types.is_large_string(path))


def _is_image(kind: pa.DataType) -> bool:
    return _is_bytes(kind) or ("bytes" in _fields_of(kind) and _is_bytes(_fields_of(kind)["bytes"]))


def image_column(path: str, schema: pa.Schema, wanted: str | None) -> str:
    possible = [field.name for field in schema if _is_image(field.type)]
    if wanted is not None:
        possible = [name for name in possible if name == wanted]
    if not possible:
        what = f"column '{shown(wanted)}' of images" if wanted else "column of images"
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise UserError(
            f"'{shown(path)}' has no {what}, which are bytes or a struct of bytes and path; its "
            f"columns: {shown(columns, 1000)}"
        )
    features = _features(schema)
    declared = [name for name in possible if features.get(name, {}).get("_type") == "Image"]
    usual = [name for name in _IMAGE_NAMES if name in possible]
    return [*declared, *usual, *possible][0]


def label_column(path: str, schema: pa.Schema, wanted: str | None, image: str) -> str | None:
    if wanted is not None:
        if wanted not in schema.names or wanted == image:
            raise UserError(
                f"'{shown(path)}' has no column '{shown(wanted)}' of labels; its columns: "
                f"{shown(', '.join(schema.names), 1000)}"
            )
        return wanted
    features = _features(schema)
    possible = [
        field.name
        for field in schema
        if pa.types.is_integer(field.type)
        or pa.types.is_string(field.type)
        or pa.types.is_large_string(field.type)
        or pa.types.is_dictionary(field.type)
    ]
    declared = [name for name in possible if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in _LABEL_NAMES if name in possible]
    return next(iter([*declared, *usual]), None)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's datasets record of the columns: name -> description."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: one for name, one in described.items() if isinstance(one, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    names = _features(schema).get(label or "", {}).get("names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    return None


def schema_of(class_names: list[str] | None, labelled: bool) -> pa.Schema:
    """Returns the schema of files that are written, as Hugging Face's datasets read it."""
    fields = [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labelled:
        fields.append(pa.field("label", pa.int64()))
        features["label"] = {"dtype": "int64", "_type": "Value"}
        if class_names is not None:
            features["label"] = {"names": list(class_names), "_type": "ClassLabel"}
    described = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": described})
