"""Jigsaw puzzles: tiles and their changes, the head on ordered tiles, replicas, options."""

import functools
import math

import keras
import numpy as np
import pytest
import training_runs

from rfd_tf.data import patches
from rfd_tf.errors import UserError
from rfd_tf.methods.jigsaw import Jigsaw, standardize

SIZE = training_runs.SIZE
SEEDS = range(5)


def _method(**options):
    return Jigsaw(training_runs.backbone(), **{"permutations": 10, **options})


def _images(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3)).astype("uint8")


def _cut(method, images, seeds=SEEDS):
    return np.asarray(method.cut(images, lambda draw: draw(len(images)), seeds))


def test_without_tricks_the_tiles_make_up_the_image():
    method = _method(tile_size=6, channel_shift=0, color_drop=0, color_projection=0)
    images = _images()
    tiles = _cut(method, images).reshape(6, 3, 3, 6, 6, 3)
    np.testing.assert_array_equal(tiles.swapaxes(2, 3).reshape(images.shape), images)


def test_tiles_lie_anywhere_in_their_cells_or_in_the_middle():
    images = np.tile(np.arange(SIZE, dtype="uint8")[None, :, None, None], (200, 1, SIZE, 3))
    plain = {"tile_size": 4, "channel_shift": 0, "color_drop": 0, "color_projection": 0}
    first_rows = _cut(_method(**plain), images)[:, :, 0, 0, 0]
    for row in range(3):
        found = set(first_rows[:, 3 * row : 3 * row + 3].ravel())
        assert found == {6 * row + offset for offset in range(3)}
    middle = _cut(_method(tile_jitter=False, **plain), images)[:, :, 0, 0, 0]
    np.testing.assert_array_equal(middle, np.tile(np.repeat([1, 7, 13], 3), (200, 1)))


def test_colors_are_dropped_and_projected_in_the_shares_asked_for():
    images = np.tile(np.array([200, 40, 90], "uint8"), (1000, SIZE, SIZE, 1))
    method = _method(channel_shift=2, color_drop=0.3, color_projection=0.5)
    colors = _cut(method, images)[:, 0, 0, 0]
    grey = (np.ptp(colors, axis=-1) < 1e-3).mean()
    kept = (np.abs(colors - [200, 40, 90]).max(-1) < 1e-3).mean()
    # The published matrix, which takes out what lies along (-1, 2, -1).
    matrix = np.array([[5, 2, -1], [2, 2, 2], [-1, 2, 5]]) / 6
    projected = (np.abs(colors - matrix @ [200, 40, 90]).max(-1) < 1e-3).mean()
    assert grey == pytest.approx(0.3, abs=0.06)
    assert kept == pytest.approx(0.35, abs=0.06) and projected == pytest.approx(0.35, abs=0.06)
    assert grey + kept + projected == pytest.approx(1)


def test_channels_are_shifted_and_grey_images_are_not():
    images = np.tile(
        np.arange(0, 10 * SIZE, 10, dtype="uint8")[None, :, None, None], (300, 1, SIZE, 3)
    )
    method = _method(
        channel_shift=2, color_drop=0.5, color_projection=0, tile_size=4, tile_jitter=False
    )
    tiles = _cut(method, images)[:, 4, 0, 0]
    grey = np.abs(tiles - tiles[:, :1]).max(-1) < 1e-3
    # The middle tile begins in row 7, far from the border.
    np.testing.assert_allclose(tiles[grey & (tiles[:, 0] == 70)], 70)
    shifts = (tiles[~grey] - 70) / 10
    assert set(np.unique(shifts.round(3))) == {-2, -1, 0, 1, 2}
    assert 0.45 < grey.mean() < 0.6


def test_tiles_are_standardised_one_by_one():
    tiles = np.random.default_rng(1).uniform(0, 255, (2, 9, 5, 5, 3))
    tiles[0, 3] = 17.0
    found = np.asarray(standardize(tiles))
    np.testing.assert_allclose(found[0, 3], 0, atol=1e-4)
    flat = found.reshape(18, -1)
    np.testing.assert_allclose(flat.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(np.delete(flat.std(axis=1), 3), 1, atol=1e-4)
    method = _method(tile_normalization=False)
    np.testing.assert_allclose(method.normalize(tiles), method.preprocess(tiles), atol=1e-6)


def test_ordering_features_is_ordering_tiles():
    """The shortcut against the puzzle laid out in pixels and run through trunk and head."""
    method = _method(permutations_per_image=2, tile_normalization=True)
    images = _images(3)

    def draw(draw_global):
        return draw_global(3)

    tiles = np.asarray(method.normalize(_cut(method, images)))
    answers = np.asarray(method.draw_answers(draw, SEEDS))
    assert answers.shape == (3, 2)
    features = method.tile_model(tiles.reshape(-1, *tiles.shape[2:]))
    logits = np.asarray(method.solve(features, answers, draw))
    assert logits.shape == (3, 2, 10)
    for image in range(3):
        for which in range(2):
            order = method.orderings[answers[image, which]]
            puzzle = tiles[image][order]  # slot s receives tile order[s]
            each = method.tile_normalizer(method.tile_layer(method.tile_model(puzzle)))
            joint = keras.ops.relu(keras.ops.reshape(keras.ops.relu(each), (1, -1)))
            hidden = keras.ops.relu(method.hidden_normalizer(method.hidden_layer(joint)))
            np.testing.assert_allclose(
                logits[image, which], method.jigsaw_head(hidden)[0], rtol=1e-4, atol=1e-5
            )


def test_the_loss_is_the_cross_entropy_of_the_answers_drawn():
    method = _method(permutations_per_image=3, color_drop=0, color_projection=0, channel_shift=0)
    images = _images()
    # Generators in the state that call() finds its own in.
    seeds = [keras.random.SeedGenerator(20 + place) for place in range(5)]
    tiles = _cut(method, images, seeds)
    answers = np.asarray(method.draw_answers(lambda draw: draw(6), seeds))
    features = method.tile_model(np.asarray(standardize(tiles)).reshape(-1, *tiles.shape[2:]))
    logits = np.asarray(method.solve(features, answers, None), "float64")
    outputs = method({"image": images, "index": np.arange(6)})
    log_sums = np.log(np.exp(logits).sum(-1))
    chosen = np.take_along_axis(logits, answers[..., None], -1)[..., 0]
    assert float(outputs["jigsaw_loss"]) == pytest.approx(np.mean(log_sums - chosen), rel=1e-4)
    accuracy = np.mean(logits.argmax(-1) == answers)
    assert float(outputs["jigsaw_accuracy"]) == pytest.approx(accuracy)
    assert method.chance_levels() == {"jigsaw_loss": math.log(10), "jigsaw_accuracy": 0.1}


def test_dropout_leaves_out_its_share_in_training_only():
    method = _method(hidden_units=200, dropout=0.25)
    method.jigsaw_head.kernel.assign(np.zeros(method.jigsaw_head.kernel.shape))
    captured = []
    head = method.jigsaw_head
    method.jigsaw_head = lambda x: captured.append(np.asarray(x)) or head(x)
    features = np.random.default_rng(0).normal(size=(9 * 50, 8)).astype("float32")
    answers = np.zeros((50, 1), "int32")
    for training in (False, True):
        method.solve(features, answers, lambda draw: draw(50), training=training)
    off = [np.mean(each == 0) for each in captured]
    # ReLU zeroes about half; dropout a quarter of the rest.
    assert off[1] == pytest.approx(off[0] + 0.25 * (1 - off[0]), abs=0.08)


@pytest.mark.parametrize("options", [{"dropout": 0.3, "permutations_per_image": 2}, {"grid": 2}])
def test_two_replicas_train_as_one(options):
    build = functools.partial(Jigsaw, permutations=8, tile_units=6, hidden_units=7, **options)
    training_runs.assert_replicas_agree(build)


def test_the_set_of_orderings_follows_the_criterion():
    published = _method(permutations=100).orderings
    assert patches.hamming_distances(published).min() == 2
    assert (
        patches.hamming_distances(_method(permutations=100, criterion="min").orderings).min() == 6
    )


def test_the_figure_shows_images_above_their_puzzles():
    method = _method(tile_size=6, channel_shift=0, color_drop=0, color_projection=0)
    before = [np.asarray(seed.state) for seed in method.seeds]
    images = _images(4)
    (picture,) = method.figures(images).values()
    assert picture.shape == (2 * SIZE, 4 * SIZE, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:SIZE], np.concatenate(list(images), axis=1))
    first = picture[SIZE:, :SIZE]
    pieces = {first[r : r + 6, c : c + 6].tobytes() for r in (0, 6, 12) for c in (0, 6, 12)}
    expected = {images[0][r : r + 6, c : c + 6].tobytes() for r in (0, 6, 12) for c in (0, 6, 12)}
    assert pieces == expected and not np.array_equal(first, images[0])
    for seed, state in zip(method.seeds, before, strict=True):
        np.testing.assert_array_equal(np.asarray(seed.state), state)


def test_checkpoints_hold_every_generator():
    method = _method()
    paths = {variable.path for variable in method.variables}
    for name in ("place", "shift", "color", "order", "dropout"):
        assert any(f"{name}_seed" in path for path in paths), paths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 4}, "grid 4 must be from 2 to 3"),
        ({"grid": 2, "permutations": 25}, "4 tiles have 24 orderings; 25"),
        ({"permutations": 1}, "permutations 1 must be at least 2"),
        ({"criterion": "mean"}, "options: sum, min"),
        ({"tile_size": 7}, "tile_size 7 must be 1 to 6 pixels"),
        ({"color_drop": 2}, "color_drop 2 must be from 0 to 1"),
        ({"dropout": 1}, "dropout 1 leaves nothing"),
        ({"tile_units": "many"}, "tile_units 'many' must be a whole number"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(UserError, match=message):
        _method(**options)
