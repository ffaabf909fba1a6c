"""Frozen up to an endpoint, trained anew from there."""

import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.evaluation import supervised
from rfd_tf.evaluation.base import Result, Settings, Subject
from rfd_tf.evaluation.retrain import RetrainedLayers, retrained


def subject_of(backbone, size, folder, **arguments):
    keras.utils.set_random_seed(3)
    network = applications.build(backbone, size, **arguments)
    record = {"format": 1, "backbone": backbone, "arguments": arguments, "image_size": size}
    path = applications.save_backbone(network, folder / f"{backbone}.weights.h5", record)
    return Subject.pretrained(path)


def layers_of(model):
    """Every layer with weights of a model of models, by name."""
    found = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= layers_of(layer)
        elif layer.weights:
            found[layer.name] = layer
    return found


@pytest.mark.parametrize(
    ("backbone", "size", "arguments", "endpoint", "frozen"),
    [
        ("alexnet", 67, {"width": 0.05}, "conv1", {"conv1_conv", "conv1_bn"}),
        ("resnet18", 32, {"width": 0.1}, "stem", {"stem_conv", "stem_conv_bn"}),
    ],
)  # fmt: skip
def test_layers_up_to_the_endpoint_are_the_network_s_and_the_rest_random(
    backbone, size, arguments, endpoint, frozen, tmp_path
):
    subject = subject_of(backbone, size, tmp_path, **arguments)
    own, twin = subject.network(), subject.random_twin(0)
    model = retrained(subject, endpoint, 5, seed=0)
    beside = layers_of(retrained(twin, endpoint, 5, seed=0))
    layers = layers_of(model)
    of_twin = {layer.name: layer for layer in twin.network().layers}
    kernels = 0
    for layer in own.layers:
        for weight, first, second, mine, random in zip(
            layer.weights,
            layers[layer.name].weights if layer.weights else (),
            beside[layer.name].weights if layer.weights else (),
            layer.get_weights(),
            of_twin[layer.name].get_weights(),
            strict=True,
        ):
            first, second = np.array(first), np.array(second)
            if layer.name in frozen:
                np.testing.assert_array_equal(first, mine)
                np.testing.assert_array_equal(second, random)
            else:
                np.testing.assert_array_equal(first, second)
                if weight.name == "kernel":
                    kernels += 1
                    assert (first != mine).any() and (first != random).any()
    assert kernels > 5
    trained = {id(weight) for weight in model.trainable_weights}
    for name, layer in layers.items():
        changes = any(id(weight) in trained for weight in layer.weights)
        assert changes == (name not in frozen), name


def test_frozen_layers_compute_in_inference_mode(tmp_path):
    subject = subject_of("six_layer", 16, tmp_path, filters=[4] * 6)
    model = retrained(subject, "block6", 3, seed=0)
    assert [weight.name for weight in model.trainable_weights] == ["kernel", "bias"]
    dense = next(layer for name, layer in layers_of(model).items() if name.startswith("dense"))
    dense.kernel.assign(np.ones((4, 3)))
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(model(x, training=True), model(x, training=False))


def test_every_endpoint_is_evaluated_and_trains(tmp_path, small_digits):
    subject = subject_of("six_layer", 16, tmp_path, filters=[16] * 6)
    task = RetrainedLayers(epochs=10, learning_rate=0.1, batch_size=30)
    settings = Settings(endpoints=["block1", "block6"])
    task.check(subject, small_digits)
    found = {
        (r.feature, r.images, r.when): r.value for r in task.run(subject, small_digits, settings)
    }
    assert set(found) == {
        (name, images, when)
        for name in ("block1", "block6")
        for images in ("upright", "rotated")
        for when in ("last epoch", "best epoch")
    }
    last = [found[name, "upright", "last epoch"] for name in ("block1", "block6")]
    assert last[0] > 0.3 and last[0] > last[1]


def test_an_interrupted_task_takes_up_finished_endpoints(tmp_path, small_digits, monkeypatch):
    subject = subject_of("six_layer", 16, tmp_path, filters=[4] * 6)
    calls = []

    def train(model, names, *arguments, **options):
        calls.append(names[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        yield Result(names[0], len(calls) / 10)

    monkeypatch.setattr(supervised, "train", train)
    settings = Settings(output=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        list(RetrainedLayers().run(subject, small_digits, settings))
    found = list(RetrainedLayers().run(subject, small_digits, settings))
    names = [f"block{number}" for number in range(1, 7)]
    assert [result.feature for result in found] == names
    assert calls == [*names[:3], *names[2:]]
    assert [round(result.value, 1) for result in found[:3]] == [0.1, 0.2, 0.4]
    assert not (tmp_path / "out").exists()


def test_impossible_options_are_named(tmp_path):
    with pytest.raises(UserError, match="epochs are 1 or more; got 0"):
        RetrainedLayers(epochs=0)
    with pytest.raises(UserError, match="learning rate is above 0"):
        RetrainedLayers(learning_rate=0)
    with pytest.raises(UserError, match="unknown endpoint 'conv9'"):
        retrained(subject_of("six_layer", 16, tmp_path), "conv9", 5, 0)
