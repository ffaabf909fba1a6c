"""PIRL against NumPy: two heads, one bank of untransformed images, three transforms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_runs

from rfd_tf import applications
from rfd_tf.data import views
from rfd_tf.errors import UserError
from rfd_tf.methods import InstanceDiscrimination, PretextInvariantRepresentations
from rfd_tf.methods.jigsaw_views import JigsawViews

NUM_IMAGES = training_runs.NUM_IMAGES
TRANSFORMS = ["jigsaw", "rotation", "both"]


def make(**options):
    common = {"num_negatives": 8, "projection_dimensions": 6, "temperature": 0.2}
    own = {"instance_loss": "softmax", **options}
    options = training_runs.fitting(PretextInvariantRepresentations, common, own)
    return PretextInvariantRepresentations(training_runs.backbone(), NUM_IMAGES, seed=3, **options)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (5, 2, 18, 18, 3)).astype("uint8"),
        "index": np.array([3, 0, 23, 7, 20]),
    }


def normalized(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax_loss(x, bank, index):
    logits = x @ bank.T / 0.2
    return (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), index]).mean()


def pixels(images):
    return applications.preprocess_input(np.asarray(images, "float32"))


def oracle(method, batch, transform):
    """Both embeddings, given the same views, in NumPy from the features on."""
    kernel, bias = method.projection.projection.get_weights()
    f = normalized(np.asarray(method.features(pixels(batch["image"][:, 0]))) @ kernel + bias)
    other = batch["image"][:, 1]
    if transform != "jigsaw":
        turns = np.asarray(
            keras.random.randint((5,), 0, 4, seed=keras.random.SeedGenerator(3 + 20))
        )
        other = np.stack([np.rot90(image, k) for image, k in zip(other, turns, strict=True)])
    if transform == "rotation":
        kernel, bias = method.transformed_projection.projection.get_weights()
        g = np.asarray(method.features(pixels(other))) @ kernel + bias
        return f, normalized(g)
    # Views of the same seed are the same.
    options = {"color_jitter": 0.4, "hue": 0.2, "grayscale": 0.2, "flip": True}
    tiles = np.asarray(JigsawViews(18, seed=3 + 30, **options)(other))
    small = applications.build("six_layer", tiles.shape[2], filters=(4, 4, 4, 4, 4, 8))
    small.set_weights(method.backbone.get_weights())
    maps = np.asarray(small(pixels(views.flatten_views(tiles)))).mean((1, 2)).reshape(5, 9, 8)
    head = method.transformed_projection
    kernel, bias = head.each.get_weights()
    each = np.concatenate([maps[:, tile] @ kernel + bias for tile in range(9)], axis=1)
    kernel, bias = head.joint.projection.get_weights()
    return f, normalized(each @ kernel + bias)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_losses_follow_the_formulas(batch, transform):
    method = make(transform=transform, lambda_transformed=0.25)
    bank = np.asarray(method.memory_bank.rows())
    f, g = oracle(method, batch, transform)
    outputs = method(batch)
    image, other = (softmax_loss(x, bank, batch["index"]) for x in (f, g))
    np.testing.assert_allclose(outputs["image_loss"], image, rtol=1e-4)
    np.testing.assert_allclose(outputs["transformed_loss"], other, rtol=1e-4)
    total = method.compute_loss(y_pred=outputs)
    np.testing.assert_allclose(total, 0.75 * image + 0.25 * other, rtol=1e-4)


def test_the_bank_holds_the_untransformed_image_only(batch):
    method, same = make(), make()
    same.backbone.set_weights(method.backbone.get_weights())
    before = np.asarray(method.memory_bank.rows())
    method(batch)
    np.testing.assert_array_equal(method.memory_bank.rows(), before)
    method(batch, training=True)
    # Another transformed crop, and the rows are the same.
    other = batch["image"].copy()
    other[:, 1] = 255 - other[:, 1]
    same({**batch, "image": other}, training=True)
    after = np.asarray(method.memory_bank.rows())
    np.testing.assert_allclose(same.memory_bank.rows(), after, atol=1e-6)
    assert set(np.flatnonzero((after != before).any(1))) == set(batch["index"])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_every_weight_learns(batch, transform):
    method = make(transform=transform)
    with tf.GradientTape() as tape:
        loss = method.compute_loss(y_pred=method(batch, training=True))
    for variable, gradient in zip(
        method.trainable_variables,
        tape.gradient(loss, method.trainable_variables),
        strict=True,
    ):
        assert gradient is not None and np.isfinite(gradient).all(), variable.path


def test_lambda_0_is_instance_discrimination(batch):
    method = make(lambda_transformed=0)
    assert method.transformed_projection is None and list(method(batch)) == ["image_loss"]
    plain = InstanceDiscrimination(
        training_runs.backbone(),
        NUM_IMAGES,
        projection_dimensions=6,
        temperature=0.2,
        instance_loss="softmax",
        seed=3,
    )
    plain.set_weights(method.get_weights())
    one = {"image": batch["image"][:, 0], "index": batch["index"]}
    np.testing.assert_allclose(plain(one)["instance_loss"], method(one)["image_loss"], rtol=1e-6)
    assert list(make(lambda_transformed=1)(batch)) == ["transformed_loss"]


@pytest.mark.parametrize("form", ["ratio", "constant"])
def test_both_forms_begin_near_the_chance_level(form):
    method = PretextInvariantRepresentations(
        training_runs.backbone(),
        1000,
        instance_loss="nce",
        nce_form=form,
        num_negatives=256,
        temperature=0.2,
    )
    images = np.random.default_rng(0).integers(0, 256, (64, 18, 18, 3)).astype("uint8")
    outputs = method({"image": images, "index": np.arange(64)}, training=True)
    levels = method.chance_levels()
    for name in ("image_loss", "transformed_loss"):
        assert float(outputs[name]) == pytest.approx(levels[name], rel=0.08)
    assert (method.transformed_constant is None) == (form == "ratio")


def test_any_grid_and_a_fixed_set_of_orderings(batch):
    method = make(grid=2, tile_size=6, permutations=4)
    assert method.jigsaw.tiles == 4 and method.tile_model.input_shape == (None, 6, 6, 3)
    assert len(method.jigsaw.orderings) == 4
    assert np.isfinite(float(method(batch)["transformed_loss"]))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_two_replicas_train_as_one(transform):
    def build(backbone):
        return PretextInvariantRepresentations(
            backbone, NUM_IMAGES, num_negatives=8, temperature=0.2, transform=transform
        )

    training_runs.assert_replicas_agree(build, crops=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "colour"}, "options: jigsaw, rotation, both"),
        ({"lambda_transformed": 1.5}, "lambda_transformed 1.5"),
        ({"nce_form": "sum", "instance_loss": "nce"}, "options: constant, ratio"),
        ({"tile_size": 9}, "tile_size 9"),
        ({"criterion": "mean", "permutations": 6}, "options: sum, min"),
        ({"grid": "three"}, "grid 'three' must be a whole number"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_a_feature_behind_dense_layers_is_an_error():
    backbone = applications.build("alexnet", 96)
    with pytest.raises(UserError, match="alexnet_fc7 cannot take images of 24 x 24 pixels"):
        PretextInvariantRepresentations(backbone, 100)
