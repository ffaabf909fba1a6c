"""Tiles of an image and the orders to lay them out in: the geometry of jigsaw puzzles.

Like the rotated views, tiles are moved pixels, exact for every dtype, and made on the device by
`keras.ops`. Permutations are chosen once, in NumPy.
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf.errors import UserError, unknown

CRITERIA = ("sum", "min")
# All orderings of the tiles are compared; ten tiles would have 3.6 million.
MOST_TILES = 9


def tile_sizes(image_size: int, grid: int = 3, tile_size: int | None = None) -> tuple[int, int]:
    """Returns the sides of a cell and of the tile cut out of it, in pixels.

    An image is divided into grid x grid cells of image_size // grid pixels; the pixels left over
    are a margin around them. Each tile is placed at random within its cell, so that neighbouring
    tiles do not share a border that gives their places away.

    Args:
        image_size: side of the square image, pixels.
        grid: cells a side, at least 2.
        tile_size: side of a tile; 64/85 of a cell, as Noroozi and Favaro (ECCV 2016) have it, when
            None.

    Raises:
        UserError: a grid below 2, more cells than pixels, or a tile that does not fit its cell.

    >>> tile_sizes(255), tile_sizes(32)
    ((85, 64), (10, 8))
    """
    if grid < 2:
        raise UserError(f"a grid of tiles must be at least 2 x 2, got {grid} x {grid}")
    cell = image_size // grid
    if cell < 1:
        raise UserError(f"{image_size} pixels cannot be divided into {grid} cells")
    size = max(1, round(cell * 64 / 85)) if tile_size is None else tile_size
    if not 1 <= size <= cell:
        raise UserError(
            f"tile_size {size} must be 1 to {cell} pixels, the side of a cell when an image of "
            f"{image_size} pixels is divided into {grid} x {grid}"
        )
    return cell, size


def cut_tiles(images: Any, grid: int = 3, tile_size: int | None = None, offsets: Any = None) -> Any:
    """Cuts grid x grid tiles out of each image, row by row.

    Args:
        images: `[B, S, S, C]`, any dtype, S known.
        grid, tile_size: see `tile_sizes`.
        offsets: integers `[B, grid**2, 2]`, top and left of each tile within its cell, 0 to
            cell - tile; tiles are in the middle of their cells when None.

    Returns:
        `[B, grid**2, tile, tile, C]`, the dtype of `images`; tile 0 is the top left one, tile 1
        its right neighbour.

    Raises:
        UserError: images that are not square, and see `tile_sizes`.

    >>> image = np.arange(36).reshape(1, 6, 6, 1)
    >>> np.asarray(cut_tiles(image, tile_size=2))[0, 1, :, :, 0].tolist()
    [[2, 3], [8, 9]]
    """
    images = ops.convert_to_tensor(images)
    if len(images.shape) != 4 or images.shape[1] is None or images.shape[1] != images.shape[2]:
        raise UserError(
            f"images to cut into tiles must have shape [batch, size, size, channels], got "
            f"{tuple(images.shape)}"
        )
    side, channels = images.shape[1], images.shape[3]
    cell, size = tile_sizes(side, grid, tile_size)
    starts = (side - grid * cell) // 2 + cell * np.arange(grid)
    corners = np.stack(np.meshgrid(starts, starts, indexing="ij"), axis=-1).reshape(1, -1, 2)
    batch = ops.shape(images)[0]
    if offsets is None:
        corners = ops.convert_to_tensor(corners + (cell - size) // 2, "int32")
        corners = ops.tile(corners, (batch, 1, 1))
    else:
        corners = ops.convert_to_tensor(corners, "int32") + ops.cast(offsets, "int32")
    steps = ops.arange(size, dtype="int32")
    rows = ops.expand_dims(corners[..., 0], -1) + steps
    columns = ops.expand_dims(corners[..., 1], -1) + steps
    first = ops.reshape(ops.arange(batch, dtype="int32") * side, (-1, 1, 1))
    pixels = ops.expand_dims((first + rows) * side, -1) + ops.expand_dims(columns, -2)
    # One gather over the pixels of the batch, laid out as a list.
    return ops.take(ops.reshape(images, (-1, channels)), pixels, axis=0)


def random_offsets(rows: int, grid: int, room: int, seed: keras.random.SeedGenerator | int) -> Any:
    """Draws where tiles lie within their cells, for `cut_tiles`.

    Args:
        rows: number of images, an int or a scalar tensor.
        grid: cells a side.
        room: cell - tile, the largest offset, pixels.
        seed: an integer, or a generator that moves on.

    Returns:
        int32 `[rows, grid**2, 2]`, each 0 to `room`.
    """
    return keras.random.randint((rows, grid * grid, 2), 0, room + 1, "int32", seed=seed)


def random_permutations(rows: int, tiles: int, seed: keras.random.SeedGenerator | int) -> Any:
    """Draws orderings, each of all `tiles`! equally likely: int32 `[rows, tiles]`."""
    return ops.cast(ops.argsort(keras.random.uniform((rows, tiles), seed=seed), axis=-1), "int32")


def permute_tiles(tiles: Any, permutations: Any) -> Any:
    """Lays tiles, or whatever stands for them, out in other orders.

    Args:
        tiles: `[B, T, ...]`, any dtype.
        permutations: integers `[B, T]`; slot s of image b receives its tile permutations[b, s].

    Returns:
        `[B, T, ...]`.

    >>> np.asarray(permute_tiles(np.array([[10, 11, 12]]), [[2, 0, 1]])).tolist()
    [[12, 10, 11]]
    """
    tiles = ops.convert_to_tensor(tiles)
    count = tiles.shape[1]
    permutations = ops.cast(permutations, "int32")
    first = ops.reshape(ops.arange(ops.shape(tiles)[0], dtype="int32") * count, (-1, 1))
    return ops.take(ops.reshape(tiles, (-1, *tiles.shape[2:])), first + permutations, axis=0)


def permutation_set(
    count: int, tiles: int = 9, criterion: str = "sum", seed: int = 0
) -> np.ndarray:
    """Chooses orderings that differ from one another in many places, greedily.

    Begins with a random ordering and adds, again and again, the one of all tiles! that has the
    largest Hamming distance to those chosen (Noroozi and Favaro, ECCV 2016, algorithm 1); the
    first in lexicographic order among equals.

    Args:
        count: how many, at least 1 and at most tiles!.
        tiles: how many tiles an ordering has, 2 to 9.
        criterion: `sum`: the largest sum of distances to all those chosen, as published; the
            closest pair may then be close (100 orderings of 9 have mean distance 8.1 and smallest
            distance 2). `min`: the largest distance to the closest one chosen (mean 8.0, smallest
            6).
        seed: of the first ordering.

    Returns:
        int32 `[count, tiles]`, all different.

    Raises:
        UserError: a count or number of tiles out of range, an unknown criterion.

    >>> permutation_set(3, tiles=3).tolist()
    [[2, 1, 0], [0, 2, 1], [1, 0, 2]]
    """
    if criterion not in CRITERIA:
        raise unknown("criterion of the permutation set", criterion, CRITERIA)
    if not 2 <= tiles <= MOST_TILES:
        raise UserError(f"permutation sets are made for 2 to {MOST_TILES} tiles, got {tiles}")
    # A column a place: comparing runs over contiguous bytes.
    everything = np.array(list(itertools.permutations(range(tiles))), "uint8").T.copy()
    total = everything.shape[1]
    if not 1 <= count <= total:
        raise UserError(f"{tiles} tiles have {total} orderings; {count} cannot be chosen")
    chosen = [int(np.random.default_rng(seed).integers(total))]
    score = np.zeros(total, "int32") if criterion == "sum" else np.full(total, tiles, "int32")
    combine = np.add if criterion == "sum" else np.minimum
    taken = np.zeros(total, bool)
    while len(chosen) < count:
        newest = chosen[-1]
        taken[newest] = True
        distance = np.zeros(total, "uint8")
        for place in everything:
            distance += place != place[newest]
        combine(score, distance, out=score)
        score[taken] = -1
        chosen.append(int(np.argmax(score)))
    return everything[:, chosen].T.astype("int32")


def hamming_distances(permutations: np.ndarray) -> np.ndarray:
    """Returns in how many places each pair of orderings differs: integers `[pairs]`.

    Args:
        permutations: integers `[count, tiles]`.

    >>> hamming_distances(np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])).tolist()
    [2, 3, 2]
    """
    permutations = np.asarray(permutations)
    first, second = np.triu_indices(len(permutations), 1)
    return (permutations[first] != permutations[second]).sum(axis=1)
