"""Weights to start from: ImageNet's of Keras, files, and what is frozen of them."""

import keras
import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.applications import keras_applications, preprocess_input, start
from rfd_tf.errors import UserError

OPTIONS = {"alpha": 0.35}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Keras' own network and the file that it would have downloaded."""
    keras.utils.set_random_seed(2)
    model = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), **OPTIONS
    )
    path = tmp_path_factory.mktemp("keras") / "mobilenet.weights.h5"
    model.save_weights(path)
    return model, str(path)


@pytest.fixture(scope="module")
def network():
    """The same network as this package builds it."""
    return applications.build("mobilenet_v2", 32, **OPTIONS)


@pytest.fixture
def downloaded(theirs, monkeypatch):
    from keras.src.applications import mobilenet_v2

    monkeypatch.setattr(mobilenet_v2.file_utils, "get_file", lambda *a, **k: theirs[1])
    return theirs[0]


@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined")
def test_imagenet_weights_give_what_keras_gives_of_the_same_pixels(downloaded, network):
    found = start.load("imagenet", "mobilenet_v2", network, {**OPTIONS, "fused_batch_norm": True})
    assert found.origin["weights"] == "imagenet" and len(found.origin["sha256"]) == 64
    assert found.normalization == {"mean": [0.5] * 3, "std": [0.5] * 3}
    found.load_into(network)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    expected = downloaded(keras.applications.mobilenet_v2.preprocess_input(pixels.copy()))
    given = network(preprocess_input(pixels, **found.normalization))
    np.testing.assert_allclose(np.asarray(given), np.asarray(expected), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined")
def test_weights_for_bgr_are_mirrored(downloaded, network, monkeypatch):
    monkeypatch.setattr(keras_applications, "_expected_pixels", lambda function: (True, None))
    values, _ = keras_applications.imagenet("mobilenet_v2", network, OPTIONS)
    np.testing.assert_array_equal(values[0][:, :, ::-1], downloaded.get_weights()[0])
    np.testing.assert_array_equal(values[1], downloaded.get_weights()[1])


@pytest.mark.parametrize(
    ("function", "mirrored", "mean", "std"),
    [
        ("ResNet50", True, np.array([123.68, 116.779, 103.939]) / 255, [1 / 255] * 3),
        ("Xception", False, [0.5] * 3, [0.5] * 3),
        ("DenseNet121", False, applications.IMAGENET_MEAN, applications.IMAGENET_STD),
        ("EfficientNetB0", False, None, None),
    ],
)
def test_the_pixels_that_imagenet_weights_expect(function, mirrored, mean, std):
    found, own = keras_applications._expected_pixels(getattr(keras.applications, function))
    assert found is mirrored
    assert (own is None) is (mean is None)
    if own:
        np.testing.assert_allclose(own["mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(own["std"], std, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined")
def test_a_failed_download_is_named(network, monkeypatch):
    from keras.src.applications import mobilenet_v2

    def fail(*arguments, **options):
        raise Exception("URL fetch failure on https://example.org: None")

    monkeypatch.setattr(mobilenet_v2.file_utils, "get_file", fail)
    with pytest.raises(
        UserError, match="cannot be loaded .URL fetch failure.*check the connection"
    ):
        start.load("imagenet", "mobilenet_v2", network, OPTIONS)
    with pytest.raises(UserError, match="not for six_layer"):
        start.load("imagenet", "six_layer", applications.build("six_layer", 32), {})


def test_a_keras_file_gives_weights_by_the_names_of_layers(tmp_path, shallow):
    given = applications.build("efficientnet_b0", 32)
    path = tmp_path / "given.keras"
    # As a run writes it: stock layers, the normalisation inside as constants.
    applications.portable(given).save(path)
    network = applications.build("efficientnet_b0", 32)
    found = start.load(path, "efficientnet_b0", network, {})
    for one, other in zip(found.values, given.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    other = applications.build("six_layer", 32)
    with pytest.raises(UserError, match="does not fit backbone six_layer.*'block1_conv'"):
        start.load(path, "six_layer", other, {})


def test_freezing_keeps_weights_and_statistics():
    network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    network.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    applications.freeze(network, "block2")
    network.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    before = {weight.path: np.array(weight) for weight in network.weights}
    shape = (8, *network.output_shape[1:])
    network.fit(np.random.normal(size=(8, 16, 16, 3)), np.ones(shape), verbose=0)
    for weight in network.weights:
        same = np.array_equal(before[weight.path], np.array(weight))
        assert same is weight.path.startswith(("block1", "block2")), weight.path
    fresh = applications.build("six_layer", 16)
    with pytest.raises(UserError, match="unknown endpoint 'block9'"):
        applications.freeze(fresh, "block9")
    with pytest.raises(UserError, match="freezes the whole backbone"):
        applications.freeze(fresh, "block6")
    with pytest.raises(UserError, match="freezes nothing"):
        applications.freeze(fresh, fresh.layers[0].name)
