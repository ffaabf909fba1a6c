import keras
import numpy as np
import pytest

from rfd_tf import applications, data
from rfd_tf.errors import UserError
from rfd_tf.evaluation.features import FeatureExtractor, extract_features, feature_tensors

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    return applications.build("six_layer", 32)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)


def test_equals_predict(backbone, images):
    model = applications.feature_extractor(backbone, ["block2", "block6"])
    expected = model.predict(applications.preprocess_input(images, mean=MEAN, std=STD), verbose=0)
    for batch_size in (4, 100):
        found = extract_features(model, images, batch_size, MEAN, STD)
        assert set(found) == {"block2", "block6"}
        for name, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_a_model_with_one_output_gives_features(images):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()])
    found = extract_features(model, images, mean=MEAN, std=STD)["features"]
    expected = applications.preprocess_input(images, mean=MEAN, std=STD).reshape(len(images), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_each_image_is_rotated_by_its_own_turns(images):
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()])
    turns = np.arange(len(images)) % 4
    rotated = np.stack([np.rot90(image, k) for image, k in zip(images, turns, strict=True)])
    found = extract_features(model, images, 4, rotations=turns)["features"]
    np.testing.assert_array_equal(found, extract_features(model, rotated)["features"])


def test_a_dataset_gives_what_its_images_give(backbone):
    source = data.digits("test")
    model = applications.feature_extractor(backbone, ["block1"])
    turns = np.random.default_rng(0).integers(0, 4, source.num_images)
    batches = data.evaluation_dataset(source, image_size=32, batch_size=100)
    np.testing.assert_allclose(
        extract_features(model, batches, rotations=turns)["block1"],
        extract_features(model, source.images, rotations=turns)["block1"],
        atol=1e-5,
    )


def test_batch_normalisation_stays_in_inference_mode(backbone, images):
    before = [np.array(weight) for weight in backbone.weights]
    extract_features(applications.feature_extractor(backbone, ["block6"]), images)
    for old, new in zip(before, backbone.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


def test_an_extractor_reads_weights_as_they_are():
    model = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    extract = FeatureExtractor(model, (0, 0, 0), (1, 1, 1))
    image = np.full((1, 2, 2, 3), 255, np.uint8)
    model.layers[-1].set_weights([np.ones((12, 1)), np.zeros(1)])
    assert extract(image)["features"] == pytest.approx(12)
    model.layers[-1].set_weights([np.ones((12, 1)), np.ones(1)])
    assert extract(image)["features"] == pytest.approx(13)


def test_compact_features_are_half_precision_where_they_fit():
    inputs = keras.Input((2, 2, 3))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, {"small": flat, "large": flat * 1e6, "other": flat})
    extract = FeatureExtractor(model, (0, 0, 0), (1, 1, 1), compact=["small", "large"])
    found = extract(np.full((3, 2, 2, 3), 255, np.uint8))
    assert {name: str(values.dtype) for name, values in found.items()} == {
        "small": "float16",
        "large": "float32",
        "other": "float32",
    }


def test_names_and_widths(backbone):
    feature = {"endpoint": "block6", "pooling": "avg", "split": [96, 32]}
    widths = {n: t.shape[-1] for n, t in feature_tensors(backbone, feature).items()}
    channels = [backbone.get_layer(f"block{i}").output.shape[-1] for i in range(1, 7)]
    blocks = dict(zip([f"block{i}" for i in range(1, 7)], channels, strict=True))
    assert widths == {**blocks, "f": 128, "f1": 96, "f2": 32}
    probes = {n: t.shape[-1] for n, t in feature_tensors(backbone, feature, ("max", 4)).items()}
    wide = {name: 16 * width for name, width in blocks.items()}
    assert probes == {**wide, "pooled": 128, "f": 128, "f1": 96, "f2": 32}
    # Maps smaller than the probe's size are taken as they are.
    assert feature_tensors(backbone, None, ("max", 99), ["block6"])["block6"].shape[-1] == 128 * 64
    # Without a split there is nothing decoupled to evaluate.
    plain = feature_tensors(backbone, {"endpoint": "block6", "pooling": "avg"}, names=["block2"])
    assert set(plain) == {"block2", "pooled"}


def test_f_is_its_parts_and_the_pooled_endpoint(backbone, images):
    feature = {"endpoint": "block5", "pooling": "avg", "split": [40, 8]}
    model = keras.Model(backbone.inputs, feature_tensors(backbone, feature, ("max", 4)))
    found = extract_features(model, images)
    np.testing.assert_array_equal(found["f"], np.hstack([found["f1"], found["f2"]]))
    maps = extract_features(applications.feature_extractor(backbone, "block5"), images)["block5"]
    np.testing.assert_allclose(found["f"], maps.mean(axis=(1, 2)), atol=1e-5)


def test_bad_input_is_named(backbone):
    with pytest.raises(UserError, match="unknown endpoint 'blok2'.*block2"):
        feature_tensors(backbone, names=["blok2"])
    with pytest.raises(UserError, match="unknown pooling 'mean'.*average"):
        feature_tensors(backbone, pooling=("mean", 1))
    with pytest.raises(UserError, match="splits the feature 3 \\+ 4.*128"):
        feature_tensors(backbone, {"endpoint": "block6", "split": [3, 4]})
    with pytest.raises(UserError, match="no images"):
        extract_features(backbone, np.zeros((0, 32, 32, 3), np.uint8))
