"""Estimating PU weights: out of fold, resumable, and right about which digits look upright."""

import dataclasses

import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.data import ArraySource, digits, load_images
from rfd_tf.data.subset import folds
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.methods.upright_classifier import UprightClassifier
from rfd_tf.training import pu_estimation
from rfd_tf.training.pretraining import Augmentation, Optimization
from rfd_tf.training.pu_estimation import Estimation, estimate, estimate_fold

COUNT = 24
TINY = Estimation(
    "six_layer",
    {"filters": [4] * 6},
    image_size=16,
    num_folds=2,
    optimization=Optimization(epochs=1, batch_size=6, learning_rate=0.1),
)


def make_source(changed=None):
    blocks = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
    pixels = np.repeat(np.repeat(blocks, 4, axis=1), 4, axis=2)
    if changed is not None:
        pixels[changed] = 255 - pixels[changed]
    return ArraySource(pixels, name="noise")


def test_an_image_is_predicted_by_a_network_that_never_saw_it():
    fold = folds(COUNT, 2)
    longer = dataclasses.replace(
        TINY, optimization=dataclasses.replace(TINY.optimization, epochs=5)
    )
    own, other = np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)

    def evaluate(changed=None):
        part = estimate_fold(make_source(changed), fold, 0, longer)
        np.testing.assert_array_equal(part.indices, own)
        return part.upright_probability

    before = evaluate()
    # Another picture in the held-out fold changes what is said of itself, and nothing else.
    after = evaluate(changed=own[3])
    rest = np.arange(len(own)) != 3
    np.testing.assert_allclose(after[rest], before[rest], atol=1e-5)
    assert np.abs(after[3] - before[3]).max() > 1e-4
    # Another picture in the other fold changes the network.
    assert np.abs(evaluate(changed=other[3]) - before).max() > 1e-4


def test_folds_are_put_together_and_kept(tmp_path):
    source, keep = make_source(), tmp_path / "kept"
    lines = []
    result = estimate(source, TINY, keep_dir=keep, report=lines.append)
    assert result.upright_probability.shape == (COUNT, 4)
    assert 0 < result.upright_probability.min() and result.upright_probability.max() < 1
    np.testing.assert_array_equal(result.fold, folds(COUNT, 2))
    assert result.accuracy == pytest.approx(np.mean(result.fold_accuracies))
    assert result.num_upright == (result.upright_probability[:, 1:] > 0.5).sum()
    assert not len(result.unread)
    assert len(lines) == 2 and not any("kept" in line for line in lines)

    # One fold is gone, one is broken, then both are there.
    files = sorted(keep.iterdir())
    assert [file.name for file in files] == ["fold_0.npz", "fold_1.npz"]
    files[1].write_bytes(files[1].read_bytes()[:100])
    lines.clear()
    again = estimate(source, TINY, keep_dir=keep, report=lines.append)
    assert "kept" in lines[0] and "kept" not in lines[1]
    np.testing.assert_allclose(again.upright_probability, result.upright_probability, atol=1e-5)
    assert again.fold_accuracies[0] == result.fold_accuracies[0]

    # Those of other images or settings do not count.
    kept = pu_estimation._Kept(keep, source, TINY)
    assert kept.read(0, result.fold) is not None
    for other in (
        pu_estimation._Kept(keep, make_source(changed=0), TINY),
        pu_estimation._Kept(keep, source, dataclasses.replace(TINY, seed=1)),
    ):
        assert other.read(0, result.fold) is None

    (keep / "mine.txt").write_text("")
    pu_estimation.remove_kept(keep)
    assert [file.name for file in keep.iterdir()] == ["mine.txt"]
    (keep / "mine.txt").unlink()
    pu_estimation.remove_kept(keep)
    pu_estimation.remove_kept(keep)
    assert not keep.exists()


def test_predictions_are_those_of_the_heads():
    backbone = applications.build("six_layer", 16, filters=[4] * 6)
    images = load_images(make_source(), 16)[:5]
    batch = {"image": images, "index": np.arange(5)}
    turned = np.stack([np.rot90(images, k, axes=(1, 2)) for k in range(4)], axis=1)
    features = [
        np.asarray(applications.pooled_feature_model(backbone, "block6")(view, training=False))
        for view in np.swapaxes(applications.preprocess_input(turned), 0, 1)
    ]

    rotations = RotationFeatureDecoupling(
        backbone, 5, lambda_distance=0, lambda_instance=0, decoupled=False
    )
    part = pu_estimation._predict(rotations, [_Tensors(batch)])
    kernel, bias = (w.numpy() for w in rotations.rotation_head.weights)
    logits = np.stack([view @ kernel + bias for view in features], axis=1)
    weights = np.exp(logits)
    np.testing.assert_allclose(
        part.upright_probability, (weights / weights.sum(-1, keepdims=True))[..., 0], rtol=1e-4
    )
    np.testing.assert_array_equal(part.right, logits.argmax(-1) == np.arange(4))

    upright = UprightClassifier(backbone)
    part = pu_estimation._predict(upright, [_Tensors(batch)])
    kernel, bias = (w.numpy() for w in upright.upright_head.weights)
    logits = np.stack([view @ kernel + bias for view in features], axis=1)[..., 0]
    np.testing.assert_allclose(part.upright_probability, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    np.testing.assert_array_equal(part.right[:, 0], logits[:, 0] > logits[:, 1:].max(1))

    # The losses of the same logits.
    probability = 1 / (1 + np.exp(-logits))
    outputs = upright(batch)
    cross_entropy = -np.log(np.c_[probability[:, :1], 1 - probability[:, 1:]]).mean()
    np.testing.assert_allclose(outputs["upright_loss"], cross_entropy, rtol=1e-4)
    assert float(outputs["upright_accuracy"]) == pytest.approx(part.accuracy)
    positive = UprightClassifier(backbone, loss="non_negative_pu", positive_prior=0.3)
    positive.upright_head.set_weights([kernel, bias])
    # A quarter of all views is upright, and 0.3 of the other three quarters looks so.
    upright, every, share = probability[:, 0].mean(), probability.mean(), 0.25 + 0.75 * 0.3
    risk = share * (1 - upright) + every - share * upright
    np.testing.assert_allclose(positive(batch)["upright_loss"], risk, rtol=1e-4)


class _Tensors(dict):
    """A batch of NumPy arrays that answers `.numpy()` as tensors do."""

    def __init__(self, batch):
        import tensorflow as tf

        super().__init__({name: tf.constant(value) for name, value in batch.items()})


def test_mistakes():
    with pytest.raises(UserError, match="did you mean 'softmax'"):
        dataclasses.replace(TINY, classifier="softmaxx")
    with pytest.raises(UserError, match="unknown backbone 'six'"):
        Estimation("six")
    with pytest.raises(UserError, match="positive prior 1"):
        dataclasses.replace(TINY, classifier="non_negative_pu", positive_prior=1)
    with pytest.raises(UserError, match="folds=2 or more"):
        dataclasses.replace(TINY, num_folds=1)
    with pytest.raises(UserError, match="more than the 24 images"):
        estimate(make_source(), dataclasses.replace(TINY, num_folds=25))
    large = dataclasses.replace(TINY, optimization=Optimization(epochs=1, batch_size=20))
    with pytest.raises(UserError, match="more than the 12 images of 'noise without fold 0'"):
        estimate(make_source(), large)


def test_digits_that_look_upright_upside_down_are_found():
    source = digits("train")
    result = estimate(
        source,
        Estimation(
            "six_layer",
            {"filters": [8, 16, 16, 32, 32, 64]},
            image_size=16,
            num_folds=2,
            optimization=Optimization(epochs=12, batch_size=50, learning_rate=0.1),
            augmentation=Augmentation(horizontal_flip=False),
        ),
    )
    assert result.accuracy > 0.88
    turned = result.upright_probability[:, 2]
    mean = [turned[source.labels == digit].mean() for digit in range(10)]
    ambiguous, clear = np.mean([mean[0], mean[8]]), np.mean([mean[4], mean[7]])
    assert ambiguous > 0.1
    assert ambiguous > 3 * clear
    assert min(mean[0], mean[8]) > 2 * max(mean[4], mean[7])
    # Lying on its side no digit looks upright.
    assert result.upright_probability[:, [1, 3]].mean() < 0.02
