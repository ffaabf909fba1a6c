"""BiGAN: whose weights each loss moves, the generator's sizes, replicas, figures, options."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_runs
from keras import ops

from rfd_tf.errors import UserError
from rfd_tf.methods import bigan_networks
from rfd_tf.methods.bigan import BiGAN

SIZE = training_runs.SIZE
SMALL = {"latent_dimensions": 5, "generator_width": 4, "discriminator_width": 4}


def _method(**given):
    keras.utils.set_random_seed(1)
    method = BiGAN(training_runs.backbone(), **{**SMALL, **given})
    # Zero at first, and then no gradient would pass through it.
    kernel = method.discriminator.get_layer("logits").kernel
    kernel.assign(np.random.default_rng(2).normal(0, 0.3, kernel.shape))
    return method


def _batch(count=6, size=SIZE):
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("uint8")
    return {"image": images, "index": np.arange(count)}


def _players(method):
    """Trainable weights of the discriminator, and of encoder and generator."""
    opponents = [method.backbone, method.latent_head, method.generator]
    return (
        method.discriminator.trainable_variables,
        [variable for network in opponents for variable in network.trainable_variables],
    )


def _gradients(compute, variables):
    with tf.GradientTape() as tape:
        value = compute()
    found = tape.gradient(value, [variable.value for variable in variables])
    return [None if each is None else np.asarray(each) for each in found]


def _is_zero(gradient):
    return gradient is None or not np.any(gradient)


def test_each_loss_moves_its_own_players_only():
    method = _method(weight_penalty=0)
    discriminating, opposing = _players(method)
    assert len(discriminating) + len(opposing) == len(method.trainable_variables)
    for loss, own, others in (
        ("discriminator_loss", discriminating, opposing),
        ("encoder_generator_loss", opposing, discriminating),
    ):
        gradients = _gradients(
            lambda loss=loss: method(_batch(), training=True)[loss], [*own, *others]
        )
        assert all(_is_zero(each) for each in gradients[len(own) :])
        moved = [not _is_zero(each) for each in gradients[: len(own)]]
        assert all(moved), [v.path for v, ok in zip(own, moved, strict=True) if not ok]


def test_one_step_has_the_gradients_of_two_updates_with_swapped_labels():
    method = _method(weight_penalty=0, seed=4)
    batch = _batch()
    generator = keras.random.SeedGenerator(4 + 12)
    latent = keras.random.uniform((6, 5), -1.0, 1.0, seed=generator)
    real = ops.convert_to_tensor(batch["image"].astype("float32") / 127.5 - 1)
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def plain(real_label):
        encoded = method.encode(batch["image"], training=True)
        made = method.generator(latent, training=True)
        logits = (
            method.discriminator([real, encoded], training=True),
            method.discriminator([made, latent], training=True),
        )
        labels = (real_label, 1 - real_label)
        return 0.5 * sum(
            cross_entropy(ops.full((6, 1), float(label)), each)
            for label, each in zip(labels, logits, strict=True)
        )

    discriminating, opposing = _players(method)
    expected = _gradients(lambda: plain(1), discriminating)
    expected += _gradients(lambda: plain(0), opposing)
    found = _gradients(
        lambda: method.compute_loss(y_pred=method(batch, training=True)),
        [*discriminating, *opposing],
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_moving_statistics_follow_the_discriminators_own_pass_once():
    method = _method()
    moving = method.discriminator.non_trainable_variables
    before = [np.asarray(variable) for variable in moving]
    latent = keras.random.uniform((6, 5), -1.0, 1.0, seed=keras.random.SeedGenerator(12))
    batch = _batch()
    method(batch, training=True)
    after = [np.asarray(variable) for variable in moving]
    for variable, value in zip(moving, before, strict=True):
        variable.assign(value)
    # The real pass of the discriminator, the generated one, and nothing else.
    method.discriminator(
        [method.scaled(batch["image"]), method.encode(batch["image"], training=True)],
        training=True,
    )
    method.discriminator([method.generator(latent, training=True), latent], training=True)
    for variable, value in zip(moving, after, strict=True):
        np.testing.assert_allclose(np.asarray(variable), value, rtol=1e-4, atol=1e-6)


def test_the_discriminator_begins_at_chance():
    method = BiGAN(training_runs.backbone(), **SMALL)
    outputs, chance = method(_batch(), training=True), method.chance_levels()
    for name in ("discriminator_loss", "encoder_generator_loss", "discriminator_accuracy"):
        assert float(outputs[name]) == pytest.approx(chance[name], abs=1e-6), name
    assert float(outputs["reconstruction_ratio"]) == pytest.approx(1, abs=0.01)


def test_the_reconstruction_error_is_that_of_the_images_generated_again():
    method = _method()
    batch = _batch()
    real = np.asarray(method.scaled(batch["image"]))
    np.testing.assert_allclose(real, batch["image"] / 127.5 - 1, atol=1e-6)
    again = np.asarray(method.generator(method.encode(batch["image"]), training=False))
    errors = [
        np.sqrt(np.mean((real - each) ** 2, axis=(1, 2, 3))).mean()
        for each in (again, again[[5, 0, 1, 2, 3, 4]])
    ]
    outputs = method(batch)
    assert float(outputs["reconstruction_error"]) == pytest.approx(errors[0], rel=1e-5)
    ratio = float(outputs["reconstruction_ratio"])
    assert ratio == pytest.approx(errors[0] / errors[1], rel=1e-5)


def test_the_penalty_is_coupled_weight_decay_of_all_but_scales():
    batch = _batch()
    variables, gradients = {}, {}
    for penalty in (0.0, 0.5):
        method = _method(weight_penalty=penalty)
        variables[penalty] = [
            (variable.name, np.asarray(variable)) for variable in method.trainable_variables
        ]
        gradients[penalty] = _gradients(
            lambda method=method: method.compute_loss(y_pred=method(batch, training=True)),
            method.trainable_variables,
        )
    assert any(name == "gamma" for name, _ in variables[0.0])
    for (name, value), without, with_penalty in zip(
        variables[0.0], gradients[0.0], gradients[0.5], strict=True
    ):
        decay = 0 if name == "gamma" else 0.5 * value
        np.testing.assert_allclose(with_penalty, without + decay, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [16, 21, 28, 32, 64, 96])
def test_networks_of_every_size(size):
    made = bigan_networks.generator(size, 3, width=2)(np.zeros((2, 3), "float32"))
    assert made.shape == (2, size, size, 3)
    assert np.all(np.abs(np.asarray(made)) <= 1)
    told = bigan_networks.discriminator(size, 3, width=2)
    assert told([made, ops.zeros((2, 3))]).shape == (2, 1)


def test_the_published_networks_of_64_pixels():
    made = bigan_networks.generator(64, 200, width=64)
    shapes = [tuple(layer.output.shape[1:]) for layer in made.layers if "conv2d" in layer.name]
    assert shapes == [(8, 8, 256), (16, 16, 128), (32, 32, 64), (64, 64, 3)]
    told = bigan_networks.discriminator(64, 200, width=64)
    shapes = [tuple(layer.output.shape[1:]) for layer in told.layers if "conv2d" in layer.name]
    assert shapes == [(32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)]


def test_the_encoder_alone_may_see_the_fine_image():
    keras.utils.set_random_seed(0)
    method = BiGAN(training_runs.backbone(32), generated_size=16, **SMALL)
    batch = _batch(size=32)
    batch["image"][:] = 51
    np.testing.assert_allclose(np.asarray(method.scaled(batch["image"])), -0.6, atol=1e-5)
    assert method.scaled(batch["image"]).shape == (6, 16, 16, 3)
    assert np.isfinite(float(method(batch, training=True)["discriminator_loss"]))


def test_every_step_draws_other_latents():
    method = _method()
    first, second = (float(method(_batch(), training=True)["discriminator_loss"]) for _ in range(2))
    assert first != second


def test_two_replicas_train_as_one():
    training_runs.assert_replicas_agree(functools.partial(BiGAN, **SMALL))


def test_figures_show_reconstructions_and_samples():
    method = _method()
    state = np.asarray(method.latent_seed.state)
    images = _batch(3)["image"]
    pictures = method.figures(images)
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "reconstructions": (2 * SIZE, 3 * SIZE, 3),
        "samples": (4 * SIZE, 8 * SIZE, 3),
    }
    assert all(picture.dtype == np.uint8 for picture in pictures.values())
    picture = pictures["reconstructions"]
    np.testing.assert_array_equal(picture[:SIZE], np.concatenate(list(images), axis=1))
    again = np.asarray(method.generator(method.encode(images), training=False))
    expected = 127.5 * (np.concatenate(list(again), axis=1) + 1)
    np.testing.assert_allclose(picture[SIZE:], expected, atol=0.51)
    np.testing.assert_array_equal(np.asarray(method.latent_seed.state), state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"latent_dimensions": 0}, "latent_dimensions 0 must be at least 1"),
        ({"generated_size": 64}, "generated_size 64 must be from 16 to 18"),
        ({"generator_width": 1.5}, "generator_width 1.5 must be a whole number"),
        ({"weight_penalty": -1}, "weight_penalty -1 must be at least 0"),
    ],
)
def test_options_that_cannot_be_are_named(given, message):
    with pytest.raises(UserError, match=message):
        _method(**given)


def test_small_images_are_refused():
    with pytest.raises(UserError, match="images of 12 pixels are too small to generate"):
        BiGAN(training_runs.backbone(12))


def test_normalized_latents_are_spread_as_those_drawn():
    method = _method(latent_normalization=True)
    batch = _batch(200)
    latents = np.array(method.encode(batch["image"], training=True))
    # Of a uniform distribution from -1 to 1; half of the numbers lie in the inner half.
    np.testing.assert_allclose(latents.mean(0), 0, atol=0.15)
    np.testing.assert_allclose(latents.std(0), 1 / np.sqrt(3), atol=0.1)
    np.testing.assert_allclose((np.abs(latents) < 0.5).mean(), 0.5, atol=0.1)
    assert np.array(_method().encode(batch["image"], training=True)).std(0).max() < 0.1
