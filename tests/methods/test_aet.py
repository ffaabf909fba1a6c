"""Estimating transformations: what the decoder sees, the loss, replicas, options."""

import functools

import keras
import numpy as np
import pytest
import training_runs
from keras import ops

from rfd_tf.data import warps
from rfd_tf.errors import UserError
from rfd_tf.methods.aet import AutoEncodingTransformations

SIZE = training_runs.SIZE


def _method(**options):
    return AutoEncodingTransformations(training_runs.backbone(), **options)


def _batch(count=6):
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3)).astype("uint8")
    return {"image": images, "index": np.arange(count)}


@pytest.mark.parametrize("transformation", ["affine", "projective"])
def test_the_loss_is_that_of_a_linear_decoder_on_both_features(transformation):
    method = _method(transformation=transformation, seed=3)
    batch = _batch()
    # What call() will draw.
    generator = keras.random.SeedGenerator(3 + 12)
    uniform = keras.random.uniform((6, method.family.num_draws), seed=generator)
    parameters = np.asarray(method.family.parameters(uniform))
    copies = warps.warp(batch["image"], method.family.coefficients(parameters))
    features = [
        np.asarray(method.features(method.preprocess(each))) for each in (batch["image"], copies)
    ]
    estimated = np.concatenate(features, axis=1) @ np.asarray(method.decoder.kernel)
    expected = np.mean((estimated - parameters) ** 2)
    assert float(method(batch)["transformation_loss"]) == pytest.approx(expected, rel=1e-4)
    assert "negatives" not in batch


def test_a_perfect_estimate_has_no_error_and_a_constant_one_that_of_chance(monkeypatch):
    method = _method()
    batch = _batch(2000)
    seen = []
    parameters = method.family.parameters

    def remember(uniform):
        seen.append(parameters(uniform))
        return seen[-1]

    monkeypatch.setattr(method.family, "parameters", remember)
    monkeypatch.setattr(method, "estimate", lambda *_, **__: seen[-1])
    monkeypatch.setattr(warps, "warp", lambda images, *_: images)
    outputs = method.call(batch)
    assert float(outputs["transformation_loss"]) == 0
    assert float(outputs["rotation_error"]) == pytest.approx(0, abs=1e-3)
    monkeypatch.setattr(method, "estimate", lambda *_, **__: ops.zeros_like(seen[-1]))
    outputs, chance = method.call(batch), method.chance_levels()
    for name in chance:
        assert float(outputs[name]) == pytest.approx(chance[name], rel=0.07), name


@pytest.mark.parametrize("separate", [False, True])
def test_batch_normalisation_sees_images_and_copies_together_or_apart(separate):
    method = _method(separate_passes=separate)
    images = _batch()["image"].astype("float32")
    copies = 255 - images // 2
    estimated = np.asarray(method.estimate(images, copies, training=True))
    parts = (
        [images, copies]
        if separate
        else [np.stack([images, copies], 1).reshape(12, *images.shape[1:])]
    )
    fresh = _method(separate_passes=separate)
    fresh.set_weights(method.get_weights())
    features = [np.asarray(fresh.features(fresh.preprocess(x), training=True)) for x in parts]
    both = np.concatenate(features, axis=1) if separate else features[0].reshape(6, -1)
    expected = both @ np.asarray(fresh.decoder.kernel) + np.asarray(fresh.decoder.bias)
    np.testing.assert_allclose(estimated, expected, rtol=1e-4, atol=1e-5)


def test_every_step_draws_other_transformations():
    method = _method()
    # (With the batch's statistics, so that the moving ones make no difference.)
    first, second = (
        float(method(_batch(), training=True)["transformation_loss"]) for _ in range(2)
    )
    assert first != second


@pytest.mark.parametrize("transformation", ["affine", "projective"])
def test_two_replicas_train_as_one(transformation):
    build = functools.partial(
        AutoEncodingTransformations,
        transformation=transformation,
        decoder_hidden=5,
        separate_passes=transformation == "affine",
    )
    training_runs.assert_replicas_agree(build)


def test_the_figure_shows_original_transformed_and_estimated(monkeypatch):
    method = _method(fill=77)
    state = np.asarray(method.transformation_seed.state)
    images = _batch(3)["image"]
    (picture,) = method.figures(images).values()
    assert picture.shape == (3 * SIZE, 3 * SIZE, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:SIZE], np.concatenate(list(images), axis=1))
    assert (picture[SIZE : 2 * SIZE] == 77).all(-1).any()
    np.testing.assert_array_equal(np.asarray(method.transformation_seed.state), state)
    # A perfect estimate makes the last two rows alike.
    uniform = np.random.default_rng(0).uniform(size=(3, method.family.num_draws))
    true = method.family.parameters(uniform)
    monkeypatch.setattr(method, "estimate", lambda *_: true)
    (picture,) = method.figures(images).values()
    np.testing.assert_array_equal(picture[SIZE : 2 * SIZE], picture[2 * SIZE :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transformation": "homography"}, "'homography'.*options: affine, projective"),
        ({"normalization": "unit"}, "'unit'.*options: measured, published"),
        ({"transformation": "affine", "shear": 90}, "shear 90 must be from 0 to 89"),
        ({"corner_shift": 0.5}, "corner_shift 0.5 must be from 0 to 0.24"),
        ({"scale": [1.2, 0.8]}, "must rise"),
        ({"fill": "grey"}, "fill 'grey' must be a number"),
        ({"decoder_hidden": -1}, "decoder_hidden -1 must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(UserError, match=message):
        _method(**options)
