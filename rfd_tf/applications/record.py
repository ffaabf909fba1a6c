"""The record that a weights file carries: which backbone it is, and how to use it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rfd_tf.errors import UserError

ATTRIBUTE = "rfd_tf"
FORMAT = 1
# An attribute of an HDF5 file holds 64 KiB at most.
MAX_BYTES = 60_000
MAX_IMAGE_SIZE = 16_384


def encode(record: dict[str, Any]) -> str:
    """Returns a checked record as JSON.

    Raises:
        UserError: it lacks an entry, has one of the wrong kind, or is larger than 60,000 bytes.
    """
    try:
        text = json.dumps(record, default=_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the weights' record cannot be written as JSON: {error}") from error
    if len(text.encode()) > MAX_BYTES:
        raise UserError(f"the weights' record is larger than {MAX_BYTES} bytes")
    check(json.loads(text), "the weights' record")
    return text


def decode(text: Any, source: str) -> dict[str, Any]:
    """Returns the checked record in `text`, as read from the file `source`.

    Raises:
        UserError: it is no JSON, of a later format, or an entry is missing or of the wrong kind.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    if not isinstance(text, str):
        raise UserError(f"the record in {source} is not text")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"the record in {source} is not valid JSON") from None
    check(record, f"the record in {source}")
    return record


def check(record: Any, source: str) -> None:
    """Raises `UserError` unless `record` has every entry that a loader relies on.

    Needed: `format`, `backbone`, `arguments`, `image_size`. Checked where present: `mean`, `std`,
    `method`, `dataset`, `epoch`, `feature`, `endpoints`, `started_from`, `architecture`. Others are
    left alone.
    """

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"{source} is damaged: {what}")

    need(isinstance(record, dict), "it is not a dictionary")
    need(_is_count(record.get("format")), "format must be a whole number")
    if record["format"] > FORMAT:
        raise UserError(
            f"{source} has format {record['format']}, this version reads up to {FORMAT}: "
            "update rfd_tf"
        )
    need(isinstance(record.get("backbone"), str), "backbone must be a name")
    need(isinstance(record.get("arguments"), dict), "arguments must be a dictionary")
    need(
        _is_count(record.get("image_size")) and 0 < record["image_size"] <= MAX_IMAGE_SIZE,
        f"image_size must be between 1 and {MAX_IMAGE_SIZE}",
    )
    for name in ("mean", "std"):
        values = record.get(name)
        fits = isinstance(values, list) and len(values) == 3 and all(map(_is_number, values))
        need(values is None or fits, f"{name} must be three numbers")
    need(all(value > 0 for value in record.get("std") or []), "std must be positive")
    for name in ("method", "dataset"):
        need(isinstance(record.get(name, ""), (str, type(None))), f"{name} must be a name")
    epoch = record.get("epoch")
    need(epoch is None or _is_number(epoch), "epoch must be a number")
    names = record.get("endpoints") or []
    need(isinstance(names, list) and _all_text(names), "endpoints must be names")
    _check_feature(record.get("feature"), need)
    started = record.get("started_from")
    fits = isinstance(started, dict) and _all_text(started.get(k) for k in ("weights", "sha256"))
    need(started is None or fits, "started_from must hold the texts weights and sha256")
    file = record.get("architecture")
    fits = isinstance(file, dict) and _all_text(file.get(k) for k in ("name", "sha256"))
    need(file is None or fits, "architecture must hold the texts name and sha256")


def _check_feature(feature: Any, need: Any) -> None:
    if feature is None:
        return
    need(isinstance(feature, dict), "feature must be a dictionary")
    need(isinstance(feature.get("endpoint"), str), "feature.endpoint must be a name")
    pooling = feature.get("pooling")
    need(pooling in (None, "avg", "max"), "feature.pooling must be avg, max or null")
    split = feature.get("split")
    fits = isinstance(split, list) and len(split) == 2 and all(_is_count(n) and n for n in split)
    need(split is None or fits, "feature.split must be two positive whole numbers")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _all_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _plain(value: Any) -> Any:
    """Turns what JSON does not know into what it does."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not allowed in a record")
