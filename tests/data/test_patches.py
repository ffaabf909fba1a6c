"""Tiles and orderings against plain NumPy and the published counts."""

import itertools
import math

import keras
import numpy as np
import pytest

from rfd_tf.data.patches import (
    cut_tiles,
    hamming_distances,
    permutation_set,
    permute_tiles,
    random_offsets,
    random_permutations,
    tile_sizes,
)
from rfd_tf.errors import UserError


def _images(batch=2, size=17, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("grid", [2, 3])
def test_tiles_are_slices_of_their_cells(dtype, grid):
    images = _images(dtype=dtype)
    cell, size = tile_sizes(17, grid, tile_size=4)
    margin = (17 - grid * cell) // 2
    offsets = np.random.default_rng(1).integers(0, cell - size + 1, (2, grid * grid, 2))
    tiles = np.asarray(cut_tiles(images, grid, 4, offsets))
    assert tiles.dtype == images.dtype and tiles.shape == (2, grid * grid, 4, 4, 3)
    for image, (row, column) in itertools.product(
        range(2), itertools.product(range(grid), repeat=2)
    ):
        top, left = margin + cell * np.array([row, column]) + offsets[image, grid * row + column]
        expected = images[image, top : top + 4, left : left + 4]
        np.testing.assert_array_equal(tiles[image, grid * row + column], expected)


def test_without_offsets_tiles_lie_in_the_middle():
    images = _images(size=12)
    tiles = np.asarray(cut_tiles(images, 3, 2))
    np.testing.assert_array_equal(tiles[:, 5], images[:, 5:7, 9:11])
    # Tiles as large as their cells make up the whole image.
    whole = np.asarray(cut_tiles(images, 3, 4)).reshape(2, 3, 3, 4, 4, 3)
    np.testing.assert_array_equal(whole.swapaxes(2, 3).reshape(images.shape), images)


def test_offsets_reach_all_places():
    offsets = np.asarray(random_offsets(400, 3, 2, seed=keras.random.SeedGenerator(0)))
    assert offsets.shape == (400, 9, 2)
    assert np.unique(offsets).tolist() == [0, 1, 2]
    np.testing.assert_allclose(offsets.mean(axis=0), 1, atol=0.2)


def test_the_batch_may_be_unknown():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 17, 17, 3], tf.uint8)])
    def shuffled(images):
        tiles = cut_tiles(images, offsets=random_offsets(tf.shape(images)[0], 3, 1, seed=0))
        return permute_tiles(tiles, random_permutations(tf.shape(images)[0], 9, seed=0))

    assert shuffled(_images()).shape == (2, 9, 4, 4, 3)


def test_slots_receive_the_tiles_that_the_ordering_names():
    tiles = np.random.default_rng(0).normal(size=(5, 9, 2, 2, 3)).astype("float32")
    orders = np.asarray(random_permutations(5, 9, seed=3))
    moved = np.asarray(permute_tiles(tiles, orders))
    for image in range(5):
        for slot in range(9):
            np.testing.assert_array_equal(moved[image, slot], tiles[image, orders[image, slot]])


def test_all_orderings_are_equally_likely():
    orders = np.asarray(random_permutations(6000, 3, seed=0))
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert found.tolist() == [list(order) for order in itertools.permutations(range(3))]
    # Six standard deviations of a binomial.
    assert np.abs(counts - 1000).max() < 6 * math.sqrt(6000 * (1 / 6) * (5 / 6))


def greedy(count, tiles, criterion, first):
    """Algorithm 1, as plainly as it can be said."""
    everything = list(itertools.permutations(range(tiles)))
    chosen = [tuple(first)]
    while len(chosen) < count:

        def score(candidate):
            distances = [sum(a != b for a, b in zip(candidate, c, strict=True)) for c in chosen]
            return sum(distances) if criterion == "sum" else min(distances)

        chosen.append(max((c for c in everything if c not in chosen), key=score))
    return [list(c) for c in chosen]


@pytest.mark.parametrize("criterion", ["sum", "min"])
@pytest.mark.parametrize("seed", [0, 1])
def test_sets_are_those_of_the_plain_algorithm(criterion, seed):
    found = permutation_set(20, 4, criterion, seed)
    assert found.tolist() == greedy(20, 4, criterion, found[0])


def test_sets_of_nine_tiles_have_the_published_distances():
    published = hamming_distances(permutation_set(100))
    assert published.mean() == pytest.approx(8.08, abs=0.02) and published.min() == 2
    spread = hamming_distances(permutation_set(100, criterion="min"))
    assert spread.mean() == pytest.approx(8.03, abs=0.05) and spread.min() == 6
    # The first nine orderings are a Latin square.
    assert set(hamming_distances(permutation_set(9))) == {9}


def test_sets_hold_no_ordering_twice():
    everything = permutation_set(24, 4)
    assert len({tuple(order) for order in everything.tolist()}) == 24


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tile_sizes(32, grid=1), "at least 2 x 2"),
        (lambda: tile_sizes(2), "2 pixels cannot be divided into 3"),
        (lambda: tile_sizes(32, tile_size=11), "tile_size 11 must be 1 to 10 pixels"),
        (lambda: cut_tiles(np.zeros((1, 6, 7, 3))), r"\(1, 6, 7, 3\)"),
        (lambda: permutation_set(7, 3), "3 tiles have 6 orderings; 7"),
        (lambda: permutation_set(5, 16), "2 to 9 tiles, got 16"),
        (lambda: permutation_set(5, criterion="mean"), "options: sum, min"),
    ],
)
def test_invalid_arguments_are_reported(call, message):
    with pytest.raises(UserError, match=message):
        call()
