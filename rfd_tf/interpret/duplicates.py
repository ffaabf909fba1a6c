"""Images that a set has twice: identical files, and pairs that look nearly the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfd_tf.data.base import Source
from rfd_tf.data.copies import first_of_copies
from rfd_tf.errors import UserError
from rfd_tf.export.embedders import Embedder
from rfd_tf.paths import expanded

FILES = ("duplicates.parquet", "duplicates.json", "duplicates.png")
SIMILARITY = 0.98
MOST_PAIRS = 100_000
_THUMBNAIL = 16
_BLOCK = 4096
_DRAWN, _SIDE = 24, 96


class Pairs(NamedTuple):
    """Pairs of images, the most similar first.

    Attributes:
        first, second: int64 `[M]`, indices of the images, first below second.
        similarity: float32 `[M]`, cosine of what they were compared by.

    >>> len(similar_pairs(np.eye(3), 0.9).first)
    0
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray


def identical_images(source: Source) -> np.ndarray:
    """Returns the first image with the same content as each one.

    Files are compared byte by byte; images without files by their pixels at 64 x 64.

    Args:
        source: the images.

    Returns:
        int64 `[num_images]`: the image's own index, or that of an earlier one.

    >>> from rfd_tf.data import ArraySource, digits
    >>> three = digits("test").images[[0, 1, 0]]
    >>> identical_images(ArraySource(three)).tolist()
    [0, 1, 0]
    """
    first = first_of_copies(source)
    if first is not None:
        return first
    first = np.arange(source.num_images)
    seen: dict[bytes, int] = {}
    for batch in source.eval_dataset(image_size=64, batch_size=256):
        for index, image in zip(batch["index"].numpy(), batch["image"].numpy(), strict=True):
            digest = hashlib.sha256(image.tobytes()).digest()
            first[index] = seen.setdefault(digest, int(index))
    return first


def similar_pairs(vectors: np.ndarray, similarity: float, most: int = MOST_PAIRS) -> Pairs:
    """Returns the pairs of vectors whose cosine is at least `similarity`, block by block.

    Args:
        vectors: float `[N, D]`.
        similarity: from above 0 to 1.
        most: pairs to return, the most similar ones.

    >>> similar_pairs(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), 0.9).second.tolist()
    [2]
    """
    vectors = np.asarray(vectors, np.float32)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = 0
    for start in range(0, len(unit), _BLOCK):
        rows = unit[start : start + _BLOCK]
        for other in range(start, len(unit), _BLOCK):
            cosines = rows @ unit[other : other + _BLOCK].T
            first, second = np.nonzero(cosines >= similarity)
            values = cosines[first, second]
            first, second = first + start, second + other
            later = second > first
            found.append((first[later], second[later], values[later]))
            count += int(later.sum())
            if count > 4 * most:
                found, count = [_best(found, most)], most
    first, second, values = _best(found, most)
    return Pairs(first.astype(np.int64), second.astype(np.int64), values.astype(np.float32))


def _best(found: list[tuple[np.ndarray, ...]], most: int) -> tuple[np.ndarray, ...]:
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    order = np.lexsort((columns[1], columns[0], -columns[2]))[:most]
    return tuple(column[order] for column in columns)


def check(output_dir: str | os.PathLike, similarity: float, overwrite: bool = False) -> None:
    """Raises `UserError` for arguments of `find_duplicates` that it refuses, without the images.

    >>> check("duplicates", similarity=1.5)
    Traceback (most recent call last):
    rfd_tf.errors.UserError: similarity 1.5 must be above 0 and at most 1
    """
    if not 0 < similarity <= 1:
        raise UserError(f"similarity {similarity:g} must be above 0 and at most 1")
    folder = expanded(output_dir)
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise UserError(
            f"'{folder}' holds {there[0]} already; give another --output_dir, or --overwrite"
        )


def find_duplicates(
    source: Source,
    output_dir: str | os.PathLike,
    *,
    embedder: Embedder | None = None,
    similarity: float = SIMILARITY,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Finds images that a set has twice, and writes them down.

    Writes `duplicates.parquet` (a row a pair: `first`, `second`, `similarity`, `identical`),
    `duplicates.json` (the report) and `duplicates.png` (the most similar pairs that are not
    identical, side by side). Nothing is changed in the set itself.

    Args:
        source: the images.
        output_dir: the folder to write.
        embedder: network whose feature `f` compares images; without one, thumbnails of 16 x 16
            pixels do, less their mean: they find copies of another size or compression.
        similarity: least cosine of a pair, above 0 and at most 1.
        overwrite: replace an earlier report in the folder.

    Returns:
        The report: `images`, `identical` (images that an earlier one equals), `similar` (pairs
        beside those), `similarity`, `compared_by`, `files`.

    Raises:
        UserError: `similarity` is out of its range, or the folder has such files already.

    >>> import tempfile
    >>> from rfd_tf.data import digits
    >>> report = find_duplicates(digits("test"), tempfile.mkdtemp(), similarity=0.999)
    >>> report["images"], report["identical"]
    (297, 0)
    """
    check(output_dir, similarity, overwrite)
    folder = expanded(output_dir)
    first = identical_images(source)
    copies = np.flatnonzero(first != np.arange(source.num_images))
    vectors, compared_by = _vectors(source, embedder)
    pairs = similar_pairs(vectors, similarity)
    # A copy is a pair with its original alone.
    kept = ~np.isin(pairs.first, copies) & ~np.isin(pairs.second, copies)
    pairs = Pairs(*(column[kept] for column in pairs))
    report = {
        "images": source.num_images,
        "identical": len(copies),
        "similar": len(pairs.first),
        "similarity": similarity,
        "compared_by": compared_by,
        "files": list(FILES[:2]) + ([FILES[2]] if len(pairs.first) else []),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(folder / FILES[0], source, first, copies, pairs)
    (folder / FILES[2]).unlink(missing_ok=True)
    if len(pairs.first):
        _draw(folder / FILES[2], source, pairs)
    (folder / FILES[1]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _vectors(source: Source, embedder: Embedder | None) -> tuple[np.ndarray, Any]:
    size = embedder.image_size if embedder else _THUMBNAIL
    vectors: np.ndarray | None = None
    for batch in source.eval_dataset(image_size=size, batch_size=128, stretch=embedder is None):
        images, index = batch["image"].numpy(), batch["index"].numpy()
        if embedder:
            (values,) = embedder.embed(images).values()
        else:
            flat = images.reshape(len(images), -1).astype(np.float32)
            values = flat - flat.mean(axis=1, keepdims=True)
        if vectors is None:
            vectors = np.zeros((source.num_images, values.shape[1]), np.float32)
        vectors[index] = values
    how = embedder.identity if embedder else f"thumbnails of {_THUMBNAIL} x {_THUMBNAIL} pixels"
    return vectors, how


def _write_table(
    path: Path, source: Source, first: np.ndarray, copies: np.ndarray, pairs: Pairs
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def names(indices: np.ndarray) -> list[str]:
        if source.names is None:
            return [str(index) for index in indices]
        return [source.names[index] for index in indices]

    ones, zeros = np.ones(len(copies), np.float32), np.zeros(len(pairs.first), bool)
    table = pa.table(
        {
            "first": names(first[copies]) + names(pairs.first),
            "second": names(copies) + names(pairs.second),
            "similarity": np.concatenate([ones, pairs.similarity]),
            "identical": np.concatenate([ones.astype(bool), zeros]),
        }
    )
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


def _draw(path: Path, source: Source, pairs: Pairs) -> None:
    from PIL import Image

    from rfd_tf.data.pipeline import load_images
    from rfd_tf.training.callbacks import grid

    both = np.stack([pairs.first[:_DRAWN], pairs.second[:_DRAWN]], axis=1).reshape(-1)
    wanted, place = np.unique(both, return_inverse=True)
    images = load_images(source, _SIDE, wanted)[place]
    Image.fromarray(grid(images, 6)).save(path)
