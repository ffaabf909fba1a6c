"""Instance discrimination against NumPy, and its chance level."""

import numpy as np
import pytest
import tensorflow as tf
import training_runs

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.methods import InstanceDiscrimination

NUM_IMAGES = training_runs.NUM_IMAGES


def make(**options):
    common = {"num_negatives": 8, "projection_dimensions": 6, "temperature": 0.2}
    options = training_runs.fitting(InstanceDiscrimination, common, options)
    return InstanceDiscrimination(training_runs.backbone(), NUM_IMAGES, seed=3, **options)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (5, 18, 18, 3)).astype("uint8"),
        "index": np.array([3, 0, 23, 7, 20]),
    }


def embeddings(method, batch):
    features = method.features(applications.preprocess_input(batch["image"].astype("float32")))
    kernel, bias = method.projection.projection.get_weights()
    x = np.asarray(features) @ kernel + bias
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_exact_softmax_follows_the_formula(batch):
    method = make(instance_loss="softmax")
    logits = embeddings(method, batch) @ np.asarray(method.memory_bank.rows()).T / 0.2
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), batch["index"]]
    np.testing.assert_allclose(method(batch)["instance_loss"], expected.mean(), rtol=1e-4)


def test_nce_follows_the_formula(batch):
    method = make(normalizer="first_batch")
    negatives = np.random.default_rng(1).integers(0, NUM_IMAGES, (5, 8))
    bank, x = np.asarray(method.memory_bank.rows()), embeddings(method, batch)
    rows = np.concatenate([bank[batch["index"]][:, None], bank[negatives]], axis=1)
    exponentials = np.exp(np.einsum("bd,bkd->bk", x, rows) / 0.2)
    # The constant is that of the first batch; noise is uniform over the images.
    p = exponentials / (exponentials.mean() * NUM_IMAGES)
    noise = 8 / NUM_IMAGES
    h = p / (p + noise)
    expected = -np.log(h[:, 0]) - np.log(1 - h[:, 1:]).sum(1)
    outputs = method({**batch, "negatives": negatives}, training=False)
    np.testing.assert_allclose(outputs["instance_loss"], expected.mean(), rtol=1e-4)


def test_rows_move_half_way_and_only_in_training(batch):
    method = make(instance_loss="softmax")
    before = np.asarray(method.memory_bank.rows())
    method(batch)
    np.testing.assert_array_equal(method.memory_bank.rows(), before)
    tf.function(lambda b: method(b, training=True))(batch)
    after = np.asarray(method.memory_bank.rows())
    assert set(np.flatnonzero((after != before).any(1))) == set(batch["index"])
    # The embedding that was written used the batch's own statistics: solve for it.
    again = make(instance_loss="softmax")
    again.backbone.set_weights(method.backbone.get_weights())
    x = np.asarray(again.embed(batch["image"], training=True))
    expected = 0.5 * before[batch["index"]] + 0.5 * x
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(after[batch["index"]], expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"normalizer": "analytic"}, {"negatives": "per_image"}])
def test_an_untrained_network_is_at_the_chance_level(options):
    # A thousand images, so that the bank's random rows tell nothing of the images.
    method = InstanceDiscrimination(
        training_runs.backbone(), 1000, num_negatives=256, temperature=0.2, **options
    )
    images = np.random.default_rng(0).integers(0, 256, (64, 18, 18, 3)).astype("uint8")
    loss = float(method({"image": images, "index": np.arange(64)}, training=True)["instance_loss"])
    assert loss == pytest.approx(method.chance_levels()["instance_loss"], rel=0.08)


def test_a_filled_bank_is_better_than_chance(batch):
    method = make(instance_loss="softmax", temperature=0.1)
    method.fill_memory_bank(batch)
    rows = np.asarray(method.memory_bank.lookup(batch["index"]))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    loss = float(method(batch, training=True)["instance_loss"])
    assert loss < method.chance_levels()["instance_loss"]


@pytest.mark.parametrize(
    "options",
    [{}, {"negatives": "per_image", "normalizer": "first_batch"}, {"instance_loss": "softmax"}],
)
def test_two_replicas_train_as_one(options):
    def build(backbone):
        common = {"num_negatives": 8, "temperature": 0.2}
        fitting = training_runs.fitting(InstanceDiscrimination, common, options)
        return InstanceDiscrimination(backbone, NUM_IMAGES, **fitting)

    training_runs.assert_replicas_agree(build)


def test_bad_options_are_named():
    with pytest.raises(UserError, match="24 images are too few for 24 negatives"):
        make(num_negatives=24)
    with pytest.raises(UserError, match="projection_hidden -2"):
        make(projection_hidden=-2)
