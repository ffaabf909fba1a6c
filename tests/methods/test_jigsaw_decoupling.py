"""RFD with jigsaw views is RFD, and one loss more on the same bank."""

import numpy as np
import pytest
import tensorflow as tf
import training_runs

from rfd_tf import applications, methods
from rfd_tf.data.views import flatten_views
from rfd_tf.errors import UserError
from rfd_tf.methods import JigsawFeatureDecoupling, RotationFeatureDecoupling
from rfd_tf.methods.jigsaw_views import JigsawViews

NUM_IMAGES = training_runs.NUM_IMAGES
OPTIONS = {"projection_dimensions": 6, "temperature": 0.2, "instance_loss": "softmax", "seed": 3}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (5, 18, 18, 3)).astype("uint8"),
        "index": np.array([3, 0, 23, 7, 20]),
    }


def test_the_other_losses_are_those_of_rfd(batch):
    backbone = training_runs.backbone()
    plain = RotationFeatureDecoupling(backbone, NUM_IMAGES, **OPTIONS)
    method = JigsawFeatureDecoupling(backbone, NUM_IMAGES, lambda_jigsaw=0.5, **OPTIONS)
    outputs = method(batch)
    for name, value in plain(batch).items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, err_msg=name)
    assert method.loss_weights == {**plain.loss_weights, "jigsaw_loss": 0.5}
    assert method.log_names[:5] == ("loss", *method.loss_weights)
    np.testing.assert_array_equal(method.memory_bank.rows(), plain.memory_bank.rows())
    assert method.record() == plain.record()


def test_the_second_half_of_the_tiles_features_recognises_the_image(batch):
    method = JigsawFeatureDecoupling(training_runs.backbone(), NUM_IMAGES, **OPTIONS)
    options = {"color_jitter": 0.4, "hue": 0.2, "grayscale": 0.2, "flip": True}
    tiles = np.asarray(JigsawViews(18, seed=3 + 30, **options)(batch["image"]))
    small = applications.build("six_layer", tiles.shape[2], filters=(4, 4, 4, 4, 4, 8))
    small.set_weights(method.backbone.get_weights())
    maps = np.asarray(small(applications.preprocess_input(flatten_views(tiles)))).mean((1, 2))
    x = np.asarray(method.jigsaw_projection(maps.reshape(5, 9, 8)[..., 4:]))
    logits = x @ np.asarray(method.memory_bank.rows()).T / 0.2
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), batch["index"]]
    np.testing.assert_allclose(method(batch)["jigsaw_loss"], expected.mean(), rtol=1e-4)


def test_the_bank_is_read_before_it_moves(batch):
    # The rows of the batch come from this step's embeddings only after the losses are known.
    method = JigsawFeatureDecoupling(training_runs.backbone(), NUM_IMAGES, **OPTIONS)
    seen = []
    loss = method.recognition.loss

    def watched(*arguments, **options):
        seen.append(np.asarray(method.memory_bank.rows()))
        return loss(*arguments, **options)

    method.recognition.loss = watched
    before = np.asarray(method.memory_bank.rows())
    method(batch, training=True)
    assert len(seen) == 2
    for rows in seen:
        np.testing.assert_array_equal(rows, before)
    assert (np.asarray(method.memory_bank.rows()) != before).any()


def test_every_weight_learns(batch):
    method = JigsawFeatureDecoupling(training_runs.backbone(), NUM_IMAGES, **OPTIONS)
    with tf.GradientTape() as tape:
        loss = method.compute_loss(y_pred=method(batch, training=True))
    for variable, gradient in zip(
        method.trainable_variables, tape.gradient(loss, method.trainable_variables), strict=True
    ):
        assert gradient is not None and np.isfinite(gradient).all(), variable.path


def test_it_takes_the_options_of_rfd():
    accepted = methods.arguments("rfd_jigsaw")
    assert set(methods.arguments("rfd")) < set(accepted) and "lambda_jigsaw" in accepted


@pytest.mark.parametrize("crops", [1, 4])
def test_two_replicas_train_as_one(crops):
    def build(backbone):
        # (With seed 0 an activation is 0 but for rounding, which differs between processors.)
        return JigsawFeatureDecoupling(
            backbone, NUM_IMAGES, num_negatives=8, temperature=0.2, seed=1
        )

    training_runs.assert_replicas_agree(build, crops)


def test_impossible_options_are_named():
    for options, message in (
        ({"lambda_jigsaw": 0}, "lambda_jigsaw 0.0 must be above 0"),
        ({"lambda_instance": 0.0}, "need the instance loss"),
        ({"tile_grayscale": 3}, "tile_grayscale 3"),
    ):
        with pytest.raises(UserError, match=message):
            JigsawFeatureDecoupling(training_runs.backbone(), NUM_IMAGES, **options)
