"""RFD against a NumPy re-derivation, and what its options promise."""

import numpy as np
import pytest
import tensorflow as tf
import training_runs

from rfd_tf import applications
from rfd_tf.data import views
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationFeatureDecoupling

NUM_IMAGES = 40


def make(**options):
    backbone = applications.build("six_layer", image_size=16, filters=(4, 4, 4, 4, 4, 12))
    common = {
        "num_images": NUM_IMAGES,
        "num_negatives": 6,
        "projection_dimensions": 8,
        "temperature": 0.2,
        "seed": 3,
    }
    return RotationFeatureDecoupling(
        backbone, **training_runs.fitting(RotationFeatureDecoupling, common, options)
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (5, 16, 16, 3)).astype("uint8"),
        "index": np.array([3, 0, 39, 7, 20]),
    }


def oracle(method, batch):
    """The losses, from the features on, in NumPy."""
    images = applications.preprocess_input(batch["image"])
    turned = np.stack([np.rot90(images, k, (1, 2)) for k in range(4)], 1).reshape(-1, 16, 16, 3)
    f = np.asarray(method.features(turned))
    f1, f2 = f[:, :6], f[:, 6:]
    kernel, bias = (np.asarray(w) for w in method.rotation_head.get_weights())

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    labels = np.tile(np.arange(4), 5)
    rotation = -log_softmax(f1 @ kernel + bias)[np.arange(20), labels].mean()
    f2 = f2.reshape(5, 4, 6)
    mean = f2.mean(1)
    distance = ((f2 - mean[:, None]) ** 2).mean()
    kernel, bias = (np.asarray(w) for w in method.projection.get_weights())
    x = mean @ kernel + bias
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    bank = np.asarray(method.memory_bank.rows())
    softmax = -log_softmax(x @ bank.T / 0.2)[np.arange(5), batch["index"]].mean()
    return rotation, distance, softmax, x


def test_losses_and_bank_update_follow_the_formulas(batch):
    method = make(instance_loss="softmax")
    rotation, distance, softmax, x = oracle(method, batch)
    bank = np.asarray(method.memory_bank.rows())
    outputs = method(batch)
    np.testing.assert_allclose(outputs["rotation_loss"], rotation, rtol=1e-5)
    np.testing.assert_allclose(outputs["distance_loss"], distance, rtol=1e-4)
    np.testing.assert_allclose(outputs["instance_loss"], softmax, rtol=1e-5)
    np.testing.assert_array_equal(method.memory_bank.rows(), bank)  # evaluation moves nothing
    total = method.compute_loss(y_pred=outputs)
    np.testing.assert_allclose(total, rotation + distance + softmax, rtol=1e-5)


def test_each_view_may_have_to_recognise_its_image(batch):
    method = make(instance_loss="softmax", instance_views="each")
    images = applications.preprocess_input(batch["image"])
    bank = np.asarray(method.memory_bank.rows())
    losses = []
    for turn in range(4):
        f2 = np.asarray(method.features(np.rot90(images, turn, (1, 2))))[:, 6:]
        x = np.asarray(method.embed(f2)) @ bank.T / 0.2
        own = x[np.arange(5), batch["index"]]
        losses.append(np.log(np.exp(x).sum(-1)) - own)
    np.testing.assert_allclose(method(batch)["instance_loss"], np.mean(losses), rtol=1e-5)
    # The bank still holds the embedding of the mean.
    other = make(instance_loss="softmax")
    other.backbone.set_weights(method.backbone.get_weights())
    for one in (method, other):
        one(batch, training=True)
    np.testing.assert_allclose(method.memory_bank.rows(), other.memory_bank.rows(), atol=1e-6)


@pytest.mark.parametrize("instance_views", ["mean", "each"])
def test_a_crop_of_its_own_for_every_rotation(batch, instance_views):
    method = make(instance_views=instance_views, instance_loss="softmax")
    same = {**batch, "image": np.repeat(batch["image"][:, None], 4, axis=1)}
    for name, value in method(batch).items():
        np.testing.assert_allclose(method(same)[name], value, rtol=1e-5, err_msg=name)
    other = same["image"].copy()
    other[:, 2] = 255 - other[:, 2]
    changed = method({**same, "image": other})
    assert float(changed["distance_loss"]) != float(method(same)["distance_loss"])


def test_training_reads_the_bank_before_it_moves_it(batch):
    method = make(instance_loss="softmax", lambda_rotation=0, lambda_distance=0)
    bank = np.asarray(method.memory_bank.rows())
    outputs = tf.function(lambda b: method(b, training=True))(batch)
    after = np.asarray(method.memory_bank.rows())
    moved = np.flatnonzero((after != bank).any(1))
    assert set(moved) == set(batch["index"])
    # With the rows as they were, the positives' similarities give the loss that was returned.
    x = (after[batch["index"]] * 2).astype("float64")
    assert np.isfinite(float(outputs["instance_loss"])) and np.isfinite(x).all()
    again = method(batch, training=True)
    assert float(again["instance_loss"]) < float(outputs["instance_loss"])


@pytest.mark.parametrize("negatives", ["shared", "per_image"])
@pytest.mark.parametrize("normalizer", ["first_batch", "running", "analytic"])
def test_nce_starts_near_its_chance_level(batch, negatives, normalizer):
    method = make(negatives=negatives, normalizer=normalizer, num_negatives=30)
    loss = float(method(batch)["instance_loss"])
    assert loss == pytest.approx(method.chance_levels()["instance_loss"], rel=0.5)


def test_pu_weights_count_from_their_epoch_on(batch):
    probability = np.random.default_rng(1).uniform(size=(NUM_IMAGES, 4)).astype("float32")
    method = make(pu_weights=probability, pu_start_epoch=2, pu_gamma=3.0)
    plain = make()
    plain.set_weights(
        [
            w
            for v, w in zip(method.weights, method.get_weights(), strict=True)
            if v.name not in ("upright_probability", "pu_active")
        ]
    )
    method.begin_epoch(1)
    np.testing.assert_allclose(
        method(batch)["rotation_loss"], plain(batch)["rotation_loss"], rtol=1e-6
    )
    method.begin_epoch(2)
    expected = 1 - probability[batch["index"]] ** 3
    expected[:, 0] = 1
    np.testing.assert_allclose(method.rotation_weights(batch["index"]), expected, rtol=1e-5)
    assert float(method(batch)["rotation_loss"]) < float(plain(batch)["rotation_loss"])


def test_ablations_leave_out_what_they_name(batch):
    rotation = make(lambda_instance=0, lambda_distance=0)
    assert rotation.memory_bank is None and set(rotation(batch)) == {
        "rotation_loss",
        "rotation_accuracy",
        "rotation_accuracy_f2",
    }
    instance = make(lambda_rotation=0, lambda_distance=0)
    assert instance.rotation_head is None and set(instance(batch)) == {"instance_loss"}
    coupled = make(decoupled=False)
    assert coupled.rotation_head.kernel.shape == (12, 4)
    assert coupled.projection.kernel.shape == (12, 8)
    assert "split" not in coupled.record()["feature"]


def test_unequal_split_cannot_be_probed_for_leaks(batch):
    method = make(split=0.25)
    assert method.split == (3, 9) and "rotation_accuracy_f2" not in method(batch)
    assert method.record()["feature"]["split"] == [3, 9]


def test_fill_replaces_the_rows_of_a_batch(batch):
    method = make()
    before = np.asarray(method.memory_bank.rows())
    method.fill_memory_bank(batch)
    after = np.asarray(method.memory_bank.rows())
    assert set(np.flatnonzero((after != before).any(1))) == set(batch["index"])
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)


def test_named_features_are_the_two_halves(batch):
    method = make()
    features = method.named_features(batch["image"])
    np.testing.assert_array_equal(
        features["f"], np.concatenate([features["f1"], features["f2"]], axis=1)
    )


def test_any_layer_can_be_split(batch):
    method = make(feature_endpoint="block4")
    assert method.feature_dimensions == 4 and method.record()["feature"]["endpoint"] == "block4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 40}, "40 images are too few for 40 negatives"),
        ({"instance_loss": "triplet"}, "options: nce, softmax"),
        ({"instance_views": "all"}, "options: mean, each"),
        ({"negatives": "none"}, "options: shared, per_image"),
        ({"normalizer": "sum"}, "options: first_batch, running, analytic"),
        ({"distance": "cosine"}, "options: mean_squared, euclidean"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"split": 0.0}, "split 0.0"),
        ({"lambda_instance": -1.0}, "instance_loss"),
        ({"lambda_rotation": 0, "lambda_distance": 0, "lambda_instance": 0}, "all loss weights"),
        ({"pu_weights": np.zeros((3, 4))}, r"\(40, 4\)"),
        ({"pu_weights": np.full((40, 4), 1.5)}, "no probabilities"),
        ({"feature_endpoint": "block9"}, "unknown endpoint 'block9'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_rotations_are_counter_clockwise():
    image = np.arange(4, dtype="uint8").reshape(1, 2, 2, 1)
    turned = np.asarray(views.rotate(image))[0]
    for k in range(4):
        np.testing.assert_array_equal(turned[k], np.rot90(image[0], k))


def test_views_without_likeness_are_at_chance_level_of_the_contrast(batch):
    method = make(lambda_contrast=1.0, lambda_instance=0.0, temperature=1e6)
    assert "contrast_loss" not in method.chance_levels()
    method.batch_size = len(batch["index"])
    loss = float(method(batch)["contrast_loss"])
    assert loss == pytest.approx(method.chance_levels()["contrast_loss"], rel=1e-4)
