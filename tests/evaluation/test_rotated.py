import warnings

import keras
import numpy as np
import pytest

from rfd_tf import applications, data
from rfd_tf.evaluation import LinearProbes, supervised
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.rotated import RotatedClassification


def test_train_and_test_images_are_rotated(rfd_subject, small_digits):
    task = RotatedClassification(probe_epochs=3)
    settings = Settings(endpoints=["block2"])
    found = {
        r.feature: r.value
        for r in task.run(rfd_subject, small_digits, settings)
        if r.when == "last epoch"
    }
    assert set(found) == {"block2", "pooled", "f", "f1", "f2"}
    # The same by hand: images turned first, then their upright features.
    backbone = rfd_subject.network()
    tensors = {"f2": rfd_subject.feature_tensors(backbone)["f2"]}
    extract = FeatureExtractor(
        keras.Model(backbone.inputs, tensors), rfd_subject.mean, rfd_subject.std, ["f2"]
    )
    features = []
    for part in (small_digits.train, small_digits.test):
        turns = part.turns[part.rows]
        assert len(set(turns)) == 4
        pairs = zip(part.images(), turns, strict=True)
        features.append(extract(np.stack([np.rot90(image, k) for image, k in pairs])))
    labels = small_digits.train.labels, small_digits.test.labels
    expected = LinearProbes(epochs=3).evaluate(features[0], labels[0], features[1], labels[1], 10)
    assert found["f2"] == pytest.approx(next(iter(expected)).value, abs=0.01)


def test_options_of_dense_layers_that_are_not_there_are_warned_of(rfd_subject, small_digits):
    with pytest.warns(UserWarning, match="six_layer has no layers fc6 and fc7, so epochs"):
        RotatedClassification(epochs=3).check(rfd_subject, small_digits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RotatedClassification(probe_epochs=3).check(rfd_subject, small_digits)


def test_dense_layers_are_trained_on_frozen_convolutions(tmp_path, monkeypatch):
    network = applications.build("alexnet", 67, width=0.05)
    record = {
        "format": 1, "backbone": "alexnet", "arguments": {"width": 0.05}, "image_size": 67,
    }  # fmt: skip
    path = applications.save_backbone(network, tmp_path / "alex.weights.h5", record)
    subject = Subject.pretrained(path)
    digits = Data(data.digits(), data.digits("test"), 67, max_train_images=60)
    models, train = [], supervised.train

    def spy(model, names, *arguments, **options):
        assert options["train_rotated"] and options["images"] == ("rotated",)
        models.append(model)
        return train(model, names, *arguments, **options)

    monkeypatch.setattr(supervised, "train", spy)
    task = RotatedClassification(probe_epochs=1, epochs=1, batch_size=30)
    settings = Settings(endpoints=["fc7"])
    found = [r for r in task.run(subject, digits, settings) if r.feature == "fc6-8"]
    assert [(r.images, r.when) for r in found] == [
        ("rotated", "last epoch"),
        ("rotated", "best epoch"),
    ]
    (model,) = models
    names = [layer.name for layer in model.layers if layer.trainable_weights]
    assert names[:4] == ["fc6_dense", "fc6_bn", "fc7_dense", "fc7_bn"] and len(names) == 5
    for old, new in zip(network.layers, model.layers, strict=False):
        same = all(
            np.array_equal(np.array(a), np.array(b))
            for a, b in zip(old.weights, new.weights, strict=True)
        )
        assert same == (not old.name.startswith("fc") or not old.weights), old.name
