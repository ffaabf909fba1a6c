"""Weights files: written, read, refused."""

import json

import h5py
import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.applications import (
    AlexNet,
    NetworkInNetwork,
    SixLayer,
    build,
    load_backbone,
    pretrained,
    read_record,
    save_backbone,
    weights,
)
from rfd_tf.errors import UserError

SMALL = {
    "six_layer": (16, {"filters": (2, 3, 4, 5, 6, 7)}),
    "network_in_network": (16, {"width": 0.05, "blocks": 3}),
    "alexnet": (95, {"width": 0.02}),
    "resnet18": (32, {"width": 0.1, "cifar_stem": True}),
}


def record_of(name, size, arguments, **more):
    return {"format": 1, "backbone": name, "arguments": arguments, "image_size": size, **more}


def shake(model):
    rng = np.random.default_rng(1)
    model.set_weights([w + 0.1 * np.abs(rng.standard_normal(w.shape)) for w in model.get_weights()])


def images_of(size):
    return np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """A small SixLayer and the file it was saved to."""
    size, options = SMALL["six_layer"]
    model = build("six_layer", size, **options)
    shake(model)
    path = tmp_path_factory.mktemp("weights") / "backbone.weights.h5"
    feature = {"endpoint": "block6", "pooling": "avg", "split": np.array([3, 4])}
    save_backbone(
        model,
        path,
        record_of(
            "six_layer", size, options, mean=(0.4, 0.5, 0.6), std=np.float32([0.1, 0.2, 0.3]),
            method="rfd", dataset="digits", epoch=np.int64(3), feature=feature,
            endpoints=["block1", "block6"],
        ),
    )  # fmt: skip
    return model, path


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded_models_give_the_same(name, tmp_path):
    size, options = SMALL[name]
    model = build(name, size, **options)
    shake(model)
    path = save_backbone(model, tmp_path / "x" / "a.weights.h5", record_of(name, size, options))
    loaded, record = load_backbone(path)
    assert record["backbone"] == name
    np.testing.assert_array_equal(loaded(images_of(size)), model(images_of(size)))
    constructed = applications.BACKBONES[name](
        include_top=False, weights=path, input_shape=(size, size, 3), **options
    )
    np.testing.assert_array_equal(constructed(images_of(size)), model(images_of(size)))
    assert [p.name for p in path.parent.iterdir()] == ["a.weights.h5"]


def test_record_survives_and_keras_reads_the_file(six):
    model, path = six
    record = read_record(path)
    assert record["arguments"] == {"filters": [2, 3, 4, 5, 6, 7]}
    assert record["feature"] == {"endpoint": "block6", "pooling": "avg", "split": [3, 4]}
    assert record["epoch"] == 3 and record["mean"] == [0.4, 0.5, 0.6]
    fresh = build("six_layer", 16, filters=(2, 3, 4, 5, 6, 7))
    fresh.load_weights(path)
    np.testing.assert_array_equal(fresh(images_of(16)), model(images_of(16)))


def test_run_folder_and_other_size(six):
    model, path = six
    assert read_record(path.parent) == read_record(path)
    larger, _ = load_backbone(str(path.parent), image_size=24)
    assert larger.input_shape == (None, 24, 24, 3)
    same = SixLayer(
        include_top=False, pooling="avg", weights=path.parent, filters=(2, 3, 4, 5, 6, 7)
    )
    np.testing.assert_allclose(
        same(images_of(16)), np.mean(model(images_of(16)), axis=(1, 2)), rtol=1e-5, atol=1e-6
    )


def test_file_without_record(tmp_path):
    model = build("six_layer", 16)
    path = tmp_path / "plain.weights.h5"
    model.save_weights(path)
    assert read_record(path) is None
    loaded = SixLayer(include_top=False, weights=path)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    with pytest.raises(UserError, match="carries no record of its backbone; name it"):
        load_backbone(path)
    with pytest.raises(UserError, match="does not fit backbone network_in_network"):
        NetworkInNetwork(include_top=False, weights=path)


def test_top(tmp_path):
    model = SixLayer(classes=4, input_shape=(16, 16, 3))
    path = tmp_path / "top.weights.h5"
    save_backbone(model, path, record_of("six_layer", 16, {}))
    without, _ = load_backbone(path)
    assert without.output_shape == (None, 4, 4, 128)
    np.testing.assert_array_equal(SixLayer(classes=4, weights=path).get_weights()[-1], 0)
    with pytest.raises(UserError, match="classifies 4 classes, not classes=10"):
        SixLayer(weights=path)
    save_backbone(without, path, record_of("six_layer", 16, {}))
    with pytest.raises(UserError, match="without a classification layer.*include_top=False"):
        SixLayer(classes=4, weights=path)


def test_other_architecture_is_named(six):
    _, path = six
    with pytest.raises(
        UserError,
        match=r"holds backbone six_layer\(filters=\[2, 3.*\), not network_in_network",
    ):
        NetworkInNetwork(include_top=False, weights=path)
    with pytest.raises(UserError, match=r"holds backbone six_layer\(.*\), not six_layer$"):
        SixLayer(include_top=False, weights=path)


def test_image_size_that_does_not_fit_dense_layers(tmp_path):
    path = tmp_path / "alexnet.weights.h5"
    save_backbone(build("alexnet", 63, width=0.02), path, record_of("alexnet", 63, {"width": 0.02}))
    with pytest.raises(UserError, match="for 63 pixels and does not fit backbone alexnet"):
        AlexNet(include_top=False, width=0.02, input_shape=(95, 95, 3), weights=path)
    with pytest.raises(UserError, match="holds backbone alexnet"):
        load_backbone(path, image_size=95)


def test_unreadable_files(tmp_path, six):
    _, path = six
    text = tmp_path / "text.weights.h5"
    text.write_text("not HDF5")
    with pytest.raises(UserError, match="is not a weights file"):
        load_backbone(text)
    cut = tmp_path / "cut.weights.h5"
    cut.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="not a weights file|damaged|no record|fit|read"):
        SixLayer(include_top=False, weights=cut, filters=(2, 3, 4, 5, 6, 7))
    other = tmp_path / "model.keras"
    other.write_text("")
    with pytest.raises(UserError, match="ending in .weights.h5"):
        read_record(other)
    with pytest.raises(UserError, match="holds no backbone.weights.h5"):
        read_record(tmp_path)
    with pytest.raises(UserError, match="no such weights file"):
        read_record(tmp_path / "missing.weights.h5")
    with pytest.raises(UserError, match="must be None, a path or a name, not int"):
        SixLayer(include_top=False, weights=3)
    with pytest.raises(UserError, match="must be None, a path or a name, not ''"):
        SixLayer(include_top=False, weights="")
    with pytest.raises(UserError, match="unknown weights 'six_layer.rfd_cifar' .did you mean 'six"):
        read_record("six_layer.rfd_cifar")


def test_a_weight_missing_in_the_file(tmp_path, six):
    _, path = six
    copy = tmp_path / "copy.weights.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        del file["layers/conv2d_3/vars/0"]
    with pytest.raises(UserError, match="1 of its 30 weights are not there"):
        load_backbone(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "vgg13"}, "unknown backbone 'vgg13'"),
        ({"backbone": ["six_layer"]}, "backbone must be a name"),
        ({"format": 2}, "update rfd_tf"),
        ({"format": "1"}, "format must be a whole number"),
        ({"arguments": {"weights": "/etc/passwd"}}, "option of backbone six_layer 'weights'"),
        ({"arguments": {"filters": "many"}}, "filters must be six positive whole numbers"),
        ({"arguments": {"filters": 3}}, "filters must be six positive whole numbers"),
        ({"arguments": []}, "arguments must be a dictionary"),
        ({"image_size": -3}, "image_size must be between"),
        ({"image_size": None}, "image_size must be between"),
        ({"mean": [0, 1]}, "mean must be three numbers"),
        ({"std": [0, 1, 1]}, "std must be positive"),
        ({"feature": {"pooling": "avg"}}, "feature.endpoint must be a name"),
        ({"feature": {"endpoint": "block9"}}, "names an endpoint 'block9'"),
        ({"feature": {"endpoint": "block6", "split": [3, 0]}}, "split must be two positive"),
        ({"endpoints": ["block1", 2]}, "endpoints must be names"),
        ({"endpoints": ["conv1"]}, "names an endpoint 'conv1'"),
    ],
)  # fmt: skip
def test_damaged_records(tmp_path, six, change, message):
    _, path = six
    copy = tmp_path / "copy.weights.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        record = json.loads(file.attrs["rfd_tf"])
        file.attrs["rfd_tf"] = json.dumps({**record, **change})
    with pytest.raises(UserError, match=message):
        load_backbone(copy)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "3", "NaN", b"\xff\xfe", 3.5, ""])
def test_records_that_are_none(tmp_path, six, text):
    _, path = six
    copy = tmp_path / "copy.weights.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        if isinstance(text, str) and len(text) > 60_000:
            text = text[:50_000]
        file.attrs["rfd_tf"] = text
    with pytest.raises(UserError, match="record"):
        read_record(copy)


def test_saving_refuses(tmp_path):
    model = build("six_layer", 16)
    record = record_of("six_layer", 16, {})
    with pytest.raises(UserError, match="ending in .weights.h5"):
        save_backbone(model, tmp_path / "model.h5", record)
    with pytest.raises(UserError, match="image_size must be"):
        save_backbone(model, tmp_path / "a.weights.h5", {**record, "image_size": "16"})
    with pytest.raises(UserError, match="cannot be written as JSON"):
        save_backbone(model, tmp_path / "a.weights.h5", {**record, "extra": model})
    with pytest.raises(UserError, match="larger than"):
        save_backbone(model, tmp_path / "a.weights.h5", {**record, "extra": "x" * 70_000})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write weights"):
        save_backbone(model, tmp_path / "file" / "a.weights.h5", record)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_shipped_weights(tmp_path, six, monkeypatch):
    model, path = six

    def ship(name, file=path.name, digest=None):
        digest = digest or weights.sha256(path)
        monkeypatch.setitem(
            pretrained.WEIGHTS, name, pretrained.PretrainedWeights(name, file, digest)
        )

    monkeypatch.setattr(pretrained, "PLACES", (tmp_path, path.parent))
    ship("six_layer.test")
    for name in ("six_layer.test", "test"):
        loaded, _ = load_backbone(name)
        np.testing.assert_array_equal(loaded(images_of(16)), model(images_of(16)))
    built = build("six_layer", 16, filters=[2, 3, 4, 5, 6, 7], weights="test")
    np.testing.assert_array_equal(built(images_of(16)), model(images_of(16)))
    with pytest.raises(UserError, match="unknown weights 'six'.*test, .*six_layer.test; or the"):
        load_backbone("six")
    with pytest.raises(UserError, match="weights 'test' ship for six_layer, not for alexnet"):
        build("alexnet", 64, weights="test")
    ship("six_layer.test", digest="0" * 64)
    with pytest.raises(UserError, match="is not the file that shipped"):
        load_backbone("six_layer.test")
    ship("six_layer.test", file="gone.weights.h5")
    with pytest.raises(UserError, match="is missing"):
        load_backbone("six_layer.test")


def test_a_tag_of_two_backbones_means_the_one_asked_for(monkeypatch):
    entries = [
        pretrained.PretrainedWeights(name, "file", "0")
        for name in ("network_in_network.both", "six_layer.both")
    ]
    monkeypatch.setattr(pretrained, "WEIGHTS", {entry.name: entry for entry in entries})
    assert pretrained.find("both", "six_layer") is entries[1]
    assert pretrained.find("both") is entries[0]
    assert pretrained.find("other") is None


def test_file_of_a_compiled_model(tmp_path):
    model = build("six_layer", 16, pooling="avg")
    model.compile("sgd", "mse")
    model.fit(images_of(16), np.zeros((2, 128)), verbose=0)
    path = save_backbone(model, tmp_path / "a.weights.h5", record_of("six_layer", 16, {}))
    loaded, _ = load_backbone(path)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_bfloat16_models_take_the_same_files(six):
    model, path = six
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        loaded, _ = load_backbone(path)
    finally:
        keras.config.set_dtype_policy("float32")
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
