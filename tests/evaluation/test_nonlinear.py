import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Settings, Subject
from rfd_tf.evaluation.nonlinear import NonlinearProbes


def subject_of(backbone, size, folder, **arguments):
    network = applications.build(backbone, size, **arguments)
    record = {"format": 1, "backbone": backbone, "arguments": arguments, "image_size": size}
    path = applications.save_backbone(network, folder / "b.weights.h5", record)
    return Subject.pretrained(path)


@pytest.fixture
def built(monkeypatch):
    """Catches the model that would be trained."""
    caught = []
    monkeypatch.setattr(
        supervised, "train", lambda model, names, *_, **__: caught.append((model, names)) or []
    )
    return caught


def trained_parameters(model):
    return sum(weight.shape.num_elements() for weight in model.trainable_weights)


def test_rotnet_s_heads_have_the_published_shapes(tmp_path, built, small_digits):
    subject = subject_of("network_in_network", 32, tmp_path, blocks=3)
    for protocol, expected in (
        # 3x3 and two 1x1 convolutions of 192 channels, their batch normalisation, 10 classes.
        ("rotnet_cifar10_conv", 192 * 192 * (9 + 1 + 1) + 3 * 2 * 192 + 192 * 10 + 10),
        # 192 x 8 x 8 numbers, two hidden layers of 20 x 10.
        ("rotnet_cifar10_hidden", 12288 * 200 + 200 * 200 + 2 * 2 * 200 + 200 * 10 + 10),
        # AET's are the same, with one hidden layer less or none.
        ("aet_cifar10_conv", 192 * 192 * (9 + 1 + 1) + 3 * 2 * 192 + 192 * 10 + 10),
        ("aet_cifar10_two_hidden", 12288 * 200 + 200 * 200 + 2 * 2 * 200 + 200 * 10 + 10),
        ("aet_cifar10_hidden", 12288 * 200 + 2 * 200 + 200 * 10 + 10),
        ("aet_cifar10_linear", 12288 * 10 + 10),
    ):
        list(NonlinearProbes(protocol).run(subject, small_digits, Settings()))
        model, names = built.pop()
        assert names == ["block2"] and model.output_shape == (None, 1, 10)
        assert trained_parameters(model) == expected


def test_rfd_s_heads_have_the_published_shapes(tmp_path, built, small_digits):
    subject = subject_of("alexnet", 67, tmp_path, width=0.125)
    list(NonlinearProbes("rfd_imagenet", hidden=64).run(subject, small_digits, Settings()))
    model, names = built.pop()
    assert names == ["conv4", "conv5"] and model.output_shape == (None, 2, 10)
    channels = 32
    side = subject.network().get_layer("conv5").output.shape[1]
    pooled = (side - 3) // 2 + 1
    dense = channels * pooled**2 * 64 + 64 * 64 + 2 * 2 * 64 + 64 * 10 + 10
    extra = 9 * channels**2 + 2 * channels  # of conv4, and without bias: one follows in the BN
    assert trained_parameters(model) == 2 * dense + extra


def test_aet_s_heads_are_trained_as_published_and_begin_there(tmp_path, built, small_digits):
    task = NonlinearProbes("aet_cifar10_hidden")
    described = task.protocol(None)
    assert described["epochs"] == 200 and described["batch_size"] == 128
    assert described["learning_rate"] == [[100, 0.1], [150, 0.01], [200, 0.001]]
    subject = subject_of("network_in_network", 32, tmp_path, blocks=3)
    list(task.run(subject, small_digits, Settings()))
    model, _ = built.pop()
    first, last = [each for each in model.trainable_weights if each.path.endswith("/kernel")][-2:]
    assert np.std(first) == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    assert np.std(last) == pytest.approx(np.sqrt(2 / 10), rel=0.1)
    with pytest.raises(UserError, match="hidden 5 has no effect .*, aet_cifar10_hidden"):
        NonlinearProbes("aet_cifar10_linear", hidden=5)


def test_heads_learn_on_a_frozen_map(tmp_path, small_digits):
    subject = subject_of("six_layer", 16, tmp_path)
    task = NonlinearProbes("rotnet_cifar10_hidden", epochs=15, endpoints=["block3"])
    found = {(r.images, r.when): r for r in task.run(subject, small_digits, Settings())}
    assert set(found) == {
        (images, when) for images in ("upright", "rotated") for when in ("last epoch", "best epoch")
    }
    assert found["upright", "last epoch"].value > 0.4
    assert found["upright", "last epoch"].feature == "block3"


def test_mistakes_are_named(tmp_path, monkeypatch):
    alexnet = subject_of("alexnet", 67, tmp_path, width=0.05)
    with pytest.raises(UserError, match="look at 'block2', which this network lacks; .*conv1"):
        NonlinearProbes().check(alexnet, None)
    with pytest.raises(UserError, match="'fc6' gives vectors"):
        NonlinearProbes(endpoints=["fc6"]).check(alexnet, None)
    pixels = keras.Input((64, 64, 3))
    network = keras.Model(pixels, keras.layers.Conv2D(32, 1, name="wide")(pixels))
    monkeypatch.setattr(Subject, "network", lambda self: network)
    with pytest.raises(UserError, match="131072 numbers"):
        NonlinearProbes("rotnet_cifar10_hidden", endpoints=["wide"]).check(alexnet, None)
    with pytest.raises(UserError, match="unknown nonlinear protocol 'x'"):
        NonlinearProbes("x")
    with pytest.raises(UserError, match="1 unit or more"):
        NonlinearProbes(hidden=0)
    with pytest.raises(UserError, match="hidden 64 has no effect in .*'rotnet_cifar10_conv'"):
        NonlinearProbes("rotnet_cifar10_conv", hidden=64)
