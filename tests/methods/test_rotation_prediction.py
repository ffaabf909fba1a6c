"""RotNet against NumPy, for each set of rotations."""

import numpy as np
import pytest
import training_runs

from rfd_tf import applications
from rfd_tf.data import ArraySource, views
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationPrediction
from rfd_tf.training import pretraining

SETS = [(0, 90, 180, 270), (0, 180), (90, 270), tuple(range(0, 360, 45))]


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 256, (5, 18, 18, 3)).astype("uint8")
    return {"image": images, "index": np.arange(5)}


@pytest.mark.parametrize("rotations", SETS)
def test_loss_is_the_cross_entropy_of_all_rotations(batch, rotations):
    method = RotationPrediction(training_runs.backbone(), rotations=rotations, seed=2)
    images = applications.preprocess_input(batch["image"].astype("float32"))
    kernel, bias = method.rotation_head.get_weights()
    losses, right = [], []
    for label, angle in enumerate(rotations):
        if len(rotations) == 8:
            turned = np.asarray(views.rotate_degrees(images, rotations))[:, label]
        else:
            turned = np.rot90(images, angle // 90, (1, 2))
        logits = np.asarray(method.features(turned)) @ kernel + bias
        losses.append(np.log(np.exp(logits).sum(1)) - logits[:, label])
        right.append(logits.argmax(1) == label)
    outputs = method(batch)
    np.testing.assert_allclose(outputs["rotation_loss"], np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(outputs["rotation_accuracy"], np.mean(right), rtol=1e-6)
    levels = method.chance_levels()
    assert levels["rotation_accuracy"] == 1 / len(rotations)
    assert levels["rotation_loss"] == pytest.approx(np.log(len(rotations)))


def test_every_rotation_may_have_its_own_crop(batch):
    method = RotationPrediction(training_runs.backbone(), rotations=(0, 180))
    assert method.crops == (1, 2)
    same = {**batch, "image": np.repeat(batch["image"][:, None], 2, axis=1)}
    for name, value in method(batch).items():
        np.testing.assert_allclose(method(same)[name], value, rtol=1e-5)


@pytest.mark.parametrize("rotations", [SETS[0], SETS[3]])
def test_a_batch_may_name_one_rotation_of_each_image(batch, rotations):
    method = RotationPrediction(
        training_runs.backbone(), rotations=rotations, shuffle_rotations=True
    )
    assert method.separate_views == len(rotations) and method.crops == (1,)
    chosen = np.array([1, 0, 3, 2, 3])
    images = applications.preprocess_input(batch["image"].astype("float32"))
    turned = np.asarray(views.rotate_degrees(images, rotations))[np.arange(5), chosen]
    kernel, bias = method.rotation_head.get_weights()
    logits = np.asarray(method.features(turned)) @ kernel + bias
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), chosen]
    outputs = method({**batch, "view": chosen})
    np.testing.assert_allclose(outputs["rotation_loss"], losses.mean(), rtol=1e-4)
    right = (logits.argmax(1) == chosen).mean()
    np.testing.assert_allclose(outputs["rotation_accuracy"], right, rtol=1e-6)


def test_an_epoch_of_shuffled_rotations_sees_each_rotation_of_each_image_once():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    session = pretraining.Pretraining(
        build_backbone=lambda: training_runs.backbone(16),
        build_method=lambda backbone: RotationPrediction(backbone, shuffle_rotations=True),
        source=ArraySource(pixels),
        image_size=16,
        optimization=pretraining.Optimization(epochs=1, batch_size=3),
    )
    assert session.steps_per_epoch == 8
    seen = [
        pair
        for batch in session.dataset().take(8).as_numpy_iterator()
        for pair in zip(batch["index"], batch["view"], strict=True)
    ]
    assert sorted(seen) == [(index, view) for index in range(6) for view in range(4)]
    session.train()
    assert 0 <= float(session.method.logs()["rotation_accuracy"]) <= 1


def test_two_replicas_train_as_one():
    training_runs.assert_replicas_agree(lambda backbone: RotationPrediction(backbone, seed=3))


def test_two_replicas_train_as_one_on_shuffled_rotations(monkeypatch):
    batches = training_runs.batches()
    view = np.random.default_rng(1).integers(0, 4, batches["index"].shape)
    monkeypatch.setattr(training_runs, "batches", lambda crops: {**batches, "view": view})
    training_runs.assert_replicas_agree(
        lambda backbone: RotationPrediction(backbone, shuffle_rotations=True, seed=3)
    )


@pytest.mark.parametrize(
    ("rotations", "message"),
    [((0, 30), "multiples of 45"), ((90,), "at least two rotations"), (4, "multiples of 45")],
)
def test_impossible_rotations_are_named(rotations, message):
    with pytest.raises(UserError, match=message):
        RotationPrediction(training_runs.backbone(), rotations=rotations)
