"""Jigsaw views: every tile is some window of its cell, in some order, changed by itself."""

import numpy as np
import pytest

from rfd_tf.data.patches import permutation_set
from rfd_tf.errors import UserError
from rfd_tf.methods.jigsaw_views import JigsawViews


def numbered(batch, size=18):
    """Images in which every pixel tells its image, row and column."""
    images = np.zeros((batch, size, size, 3), "float32")
    images[..., 0] = np.arange(batch)[:, None, None]
    images[..., 1], images[..., 2] = np.indices((size, size))
    return images


def orders_of(tiles, cell=6):
    row, column = tiles[:, :, 0, 0, 1] // cell, tiles[:, :, 0, 0, 2] // cell
    return (3 * row + column).astype(int)


def test_tiles_are_windows_of_all_cells_in_an_order():
    tiles = np.asarray(JigsawViews(18, tile_size=4, seed=1)(numbered(50)))
    assert tiles.shape == (50, 9, 4, 4, 3) and tiles.dtype == np.float32
    rows, columns = np.indices((4, 4))
    for image in range(50):
        assert (tiles[image, ..., 0] == image).all()
        for tile in tiles[image]:
            np.testing.assert_array_equal(tile[..., 1] - tile[0, 0, 1], rows)
            np.testing.assert_array_equal(tile[..., 2] - tile[0, 0, 2], columns)
            # Within one cell.
            assert len(np.unique(tile[..., 1] // 6)) == len(np.unique(tile[..., 2] // 6)) == 1
    orders = orders_of(tiles)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(9), (50, 1)))
    assert len(np.unique(orders, axis=0)) > 45
    assert len(np.unique(tiles[:, :, 0, 0, 1] % 6)) == 3


def test_every_call_draws_anew_and_the_seed_repeats_it():
    images = numbered(6)
    views, same = JigsawViews(18, seed=4), JigsawViews(18, seed=4)
    first, second = np.asarray(views(images)), np.asarray(views(images))
    assert (first != second).any()
    np.testing.assert_array_equal(same(images), first)


def test_a_fixed_set_of_orderings():
    views = JigsawViews(18, permutations=5, criterion="min", seed=2)
    chosen = permutation_set(5, 9, "min", seed=2).tolist()
    orders = orders_of(np.asarray(views(numbered(100)))).tolist()
    assert {tuple(order) for order in orders} == {tuple(order) for order in chosen}


def test_tiles_change_their_colours_by_themselves():
    images = np.random.default_rng(0).uniform(0, 255, (4, 18, 18, 3)).astype("float32")
    plain = np.asarray(JigsawViews(18, seed=3)(images))
    for option in ({"color_jitter": 0.4}, {"hue": 0.2}, {"grayscale": 0.5}, {"flip": True}):
        changed = np.asarray(JigsawViews(18, seed=3, **option)(images))
        assert changed.min() >= 0 and changed.max() <= 255.001
        # The same tiles at the same places; some changed, and not all alike.
        difference = np.abs(changed - plain).mean(axis=(2, 3, 4))
        assert difference.max() > 1 and len(np.unique(difference.round(3))) > 9, option
    grey = np.asarray(JigsawViews(18, seed=3, grayscale=0.5)(images))
    share = (np.ptp(grey, axis=-1) < 1e-3).all(axis=(2, 3)).mean()
    assert 0.2 < share < 0.8
    mirrored = np.asarray(JigsawViews(18, seed=3, flip=True)(images))
    turned = (mirrored == plain[:, :, :, ::-1]).all(axis=(2, 3, 4))
    kept = (mirrored == plain).all(axis=(2, 3, 4))
    assert (turned ^ kept).all() and 0.2 < turned.mean() < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_jitter": -1.0}, "tile_color_jitter -1.0"),
        ({"hue": 0.6}, "tile_hue 0.6"),
        ({"grayscale": 2.0}, "tile_grayscale 2.0"),
        ({"permutations": -1}, "permutations -1"),
        ({"tile_size": 7}, "tile_size 7"),
        ({"grid": 4, "permutations": 10}, "2 to 9 tiles, got 16"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        JigsawViews(18, **options)
