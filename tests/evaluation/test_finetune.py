import keras
import numpy as np
import pytest

from rfd_tf import applications, data
from rfd_tf.applications import building
from rfd_tf.errors import UserError
from rfd_tf.evaluation import multi_label
from rfd_tf.evaluation.base import Data, Settings, Subject
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.finetune import FineTuning, classifier
from rfd_tf.evaluation.pyramid import feature_pyramid
from rfd_tf.evaluation.segmentation import Segmentation, segmentation_network
from rfd_tf.layers import BatchNormalization


def test_the_whole_network_is_trained_from_its_weights(rfd_subject):
    model = classifier(rfd_subject, 10)
    backbone = rfd_subject.network()
    assert len(model.trainable_weights) == len(backbone.trainable_weights) + 2
    for ours, theirs in zip(model.weights, backbone.weights, strict=False):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    assert not np.array(model(x, training=False)).any()  # the classifier starts from zero
    scratch = classifier(rfd_subject.random_twin(0), 10)
    assert np.abs(np.array(scratch.weights[0]) - np.array(model.weights[0])).max() > 0.01


def test_moving_statistics_arrive_in_short_trainings(tmp_path, monkeypatch):
    # A small network with the momentum of those of `keras.applications`.
    monkeypatch.setattr(
        building, "batch_norm", lambda x, name: BatchNormalization(momentum=0.99, name=name)(x)
    )
    arguments = {"filters": [4] * 6}
    network = applications.build("six_layer", 64, **arguments)
    record = {"format": 1, "backbone": "six_layer", "arguments": arguments, "image_size": 64}
    path = applications.save_backbone(network, tmp_path / "backbone.weights.h5", record)
    subject = Subject.pretrained(path)

    def momenta(model):
        for layer in model.layers:
            yield from momenta(layer) if hasattr(layer, "layers") else []
            if isinstance(layer, keras.layers.BatchNormalization):
                yield layer.momentum

    assert set(momenta(subject.network())) == {0.99}
    for model in (
        classifier(subject, 3),
        multi_label.classifier(subject, "all layers", 3),
        segmentation_network(subject, 3, 64),
        feature_pyramid(subject, 96).model,
    ):
        assert set(momenta(model)) == {0.9}, model.name
    for task in (FineTuning(), Segmentation("x")):
        assert "at most 0.9" in task.protocol(None)["batch_normalisation"]


@pytest.mark.parametrize("rate", [0.003, 0.03])
def test_fine_tuning_learns_at_a_low_and_a_high_rate(rfd_subject, rate):
    """The feature's numbers are small: without standardising them 0.003 reaches 36 %."""
    backbone = applications.pooled_feature_model(rfd_subject.network())
    extract = FeatureExtractor(backbone, rfd_subject.mean, rfd_subject.std)
    digits = Data(data.digits(), data.digits("test"), 16)
    assert digits.test.features(extract)[0]["features"].std(axis=0).max() < 0.01
    keras.utils.set_random_seed(0)
    task = FineTuning(epochs=4, learning_rate=rate, batch_size=50)
    found = {(r.images, r.when): r for r in task.run(rfd_subject, digits, Settings())}
    assert found["upright", "last epoch"].value > 0.8
    assert found["rotated", "last epoch"].value < found["upright", "last epoch"].value
    assert {r.feature for r in found.values()} == {"all layers"}


def test_trained_networks_are_saved_and_load(rfd_subject, small_digits, tmp_path):
    task = FineTuning(epochs=1, learning_rate=0.03, batch_size=100, save_dir=tmp_path / "trained")
    twin = rfd_subject.random_twin(0)
    for subject, name in ((rfd_subject, "fine_tuned"), (twin, "from_scratch")):
        list(task.run(subject, small_digits, Settings()))
        saved = Subject.pretrained(tmp_path / "trained" / f"{name}.weights.h5")
        assert saved.record["method"] == "supervised" and saved.record["epoch"] == 1
        assert "split" not in saved.record["feature"] and saved.image_size == 16
        before, after = subject.network().weights, saved.network().weights
        changed = [(np.array(a) != np.array(b)).any() for a, b in zip(before, after, strict=True)]
        assert all(changed)
    assert task.protocol(None)["saved_in"].endswith("trained")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        FineTuning(save_dir=tmp_path / "file" / "x")


def test_mistakes_are_named(rfd_subject, small_digits):
    with pytest.raises(UserError, match="epochs are 1 or more; got 0"):
        FineTuning(epochs=0)
    with pytest.raises(UserError, match="learning rate is above 0"):
        FineTuning(learning_rate=0)
    with pytest.raises(UserError, match="unknown endpoint 'block9'"):
        FineTuning(endpoint="block9").check(rfd_subject, small_digits)
