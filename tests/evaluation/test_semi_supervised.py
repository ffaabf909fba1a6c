"""RotNet's semi-supervised protocol."""

import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Result, Settings, Subject
from rfd_tf.evaluation.semi_supervised import SemiSupervised, first_of_each_class


@pytest.fixture(scope="module")
def nin(tmp_path_factory):
    keras.utils.set_random_seed(3)
    network = applications.build("network_in_network", 16, width=0.05)
    record = {"format": 1, "backbone": "network_in_network", "arguments": {"width": 0.05}}
    record["image_size"] = 16
    path = tmp_path_factory.mktemp("weights") / "nin.weights.h5"
    return Subject.pretrained(applications.save_backbone(network, path, record))


@pytest.fixture
def trainings(monkeypatch):
    """Records what is trained instead of training it."""
    calls = []

    def train(model, names, training, subject, data, settings, title, **options):
        calls.append((model, names, training, subject, title, options))
        yield Result(names[0], len(calls) / 100)

    monkeypatch.setattr(supervised, "train", train)
    return calls


def test_the_first_images_of_each_class_are_taken():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    places = first_of_each_class(labels, 5)
    expected = [i for i in range(200) if (labels[:i] == labels[i]).sum() < 5]
    assert places.tolist() == expected


def test_epochs_have_the_same_length_whatever_the_set(nin, small_digits, trainings):
    task = SemiSupervised(per_class=[5, 20])
    found = list(task.run(nin, small_digits, Settings()))
    assert [(r.feature, r.images) for r in found] == [
        ("block2", "5 per class"),
        ("supervised", "5 per class"),
        ("block2", "20 per class"),
        ("supervised", "20 per class"),
    ]
    fewest = np.bincount(small_digits.train.labels).min()
    assert fewest >= 20 and len(small_digits.train) == 300
    for (_, names, training, _, _, options), number in zip(trainings, (5, 5, 20, 20), strict=True):
        assert np.bincount(options["train_set"].labels).tolist() == [number] * 10
        # 300 images an epoch, in batches of at most 128 and no more than there are.
        assert training.steps_per_epoch == 300 // min(128, 10 * number)
        assert options["images"] == ("upright",)
        assert training.epochs == (200 if names == ["supervised"] else 100)
    protocol = task.protocol(small_digits)
    assert protocol["epoch_images"] == 300 and protocol["per_class"] == [5, 20]
    only = list(task.run(nin.random_twin(0), small_digits, Settings()))
    assert {r.feature for r in only} == {"block2"}


def test_the_classifier_is_rotnet_s_and_the_supervised_network_has_all_of_it(
    nin, small_digits, trainings
):
    list(SemiSupervised(per_class=[5]).run(nin, small_digits, Settings(seed=2)))
    (frozen, *_), (scratch, _, _, subject, *_) = trainings

    def size(weights):
        return sum(int(np.prod(weight.shape)) for weight in weights)

    channels = nin.network().get_layer("block2").output.shape[-1]
    head = 192 * (9 * channels + 192 + 192) + 3 * 2 * 192 + 192 * 10 + 10
    assert size(frozen.trainable_weights) == head
    trunk = applications.feature_extractor(nin.network(), ["block2"])
    assert size(scratch.trainable_weights) == head + size(trunk.trainable_weights)
    assert not subject.is_pretrained and scratch.output_shape == (None, 1, 10)
    kernels = [
        np.array(model.get_layer("block1_conv1").kernel)
        for model in (nin.network(), nin.random_twin(2).network(), scratch)
    ]
    np.testing.assert_array_equal(kernels[1], kernels[2])
    assert (kernels[0] != kernels[2]).any()


def test_the_classifier_learns_from_few_images(rfd_subject, small_digits):
    task = SemiSupervised(per_class=[20], endpoint="block4", epochs=3, epoch_images=1500)
    found = {(r.feature, r.when): r.value for r in task.run(rfd_subject, small_digits, Settings())}
    assert set(found) == {
        (name, when) for name in ("block4", "supervised") for when in ("last epoch", "best epoch")
    }
    assert found["block4", "best epoch"] > 0.15


def test_finished_trainings_are_not_repeated(nin, small_digits, tmp_path, monkeypatch):
    calls = []

    def train(model, names, training, subject, data, settings, title, **options):
        calls.append(title)
        if len(calls) == 2:
            raise KeyboardInterrupt
        yield Result(names[0], len(calls) / 10)

    monkeypatch.setattr(supervised, "train", train)
    task, settings = SemiSupervised(per_class=[2]), Settings(output=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        list(task.run(nin, small_digits, settings))
    found = list(task.run(nin, small_digits, settings))
    assert [title.split(", ")[-1] for title in calls] == ["block2", "supervised", "supervised"]
    assert [(r.feature, r.images, r.value) for r in found] == [
        ("block2", "2 per class", 0.1),
        ("supervised", "2 per class", 0.3),
    ]
    assert not (tmp_path / "out").exists()


def test_impossible_options_are_named(nin, small_digits):
    with pytest.raises(UserError, match="fewer than the 5000 a class"):
        SemiSupervised(per_class=[5000]).check(nin, small_digits)
    with pytest.raises(UserError, match="unknown endpoint 'conv4'.*block2"):
        SemiSupervised(per_class=[5], endpoint="conv4").check(nin, small_digits)
    with pytest.raises(UserError, match="1 image a class or more"):
        SemiSupervised(per_class=[0])
    with pytest.raises(UserError, match="epoch_images 0"):
        SemiSupervised(epoch_images=0)
    with pytest.raises(UserError, match="epochs are 1 or more"):
        SemiSupervised(epochs=0)
    assert SemiSupervised().protocol(small_digits)["left_out"] == [100, 400, 1000, 5000]
