import keras
import numpy as np
import pytest
from export_helpers import FILTERS, numpy_embedding, randomize

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.export import deployable
from rfd_tf.export.features import feature_range


def run(model, pixels):
    outputs = model(pixels.astype("float32"), training=False)
    return {name: np.asarray(value) for name, value in outputs.items()}


def test_embedding_is_the_pooled_feature_and_its_halves(backbone, record, pixels):
    expected = numpy_embedding(backbone, record, pixels)
    assert expected.shape == (5, 64)
    for feature, columns in (("f", slice(None)), ("f1", slice(0, 24)), ("f2", slice(24, 64))):
        outputs = run(deployable(backbone, record, feature=feature), pixels)
        assert list(outputs) == ["embedding"]
        np.testing.assert_allclose(outputs["embedding"], expected[:, columns], atol=1e-5)


def test_endpoints_are_given_by_name_unpooled(backbone, record, pixels):
    outputs = run(deployable(backbone, record, endpoints=["block4", "block6"]), pixels)
    assert set(outputs) == {"embedding", "block4", "block6"}
    assert outputs["block4"].shape[:3] == (5, 8, 8)
    pooled = outputs["block6"].mean(axis=(1, 2))
    np.testing.assert_allclose(pooled, outputs["embedding"], atol=1e-5)


def test_maximum_pooling_is_kept(backbone, record, pixels):
    highest = {**record, "feature": {"endpoint": "block3", "pooling": "max"}}
    outputs = run(deployable(backbone, highest, endpoints=["block3"]), pixels)
    np.testing.assert_array_equal(outputs["block3"].max(axis=(1, 2)), outputs["embedding"])


def test_a_vector_endpoint_is_taken_as_it_is(record):
    model = applications.build("alexnet", 63, width=0.02)
    vector = {**record, "feature": {"endpoint": "fc7", "pooling": "avg", "split": [30, 52]}}
    pixels = np.full((2, 63, 63, 3), 100, "uint8")
    outputs = run(deployable(model, vector, feature="f2", endpoints=["fc7"]), pixels)
    assert outputs["fc7"].shape == (2, 82)
    np.testing.assert_array_equal(outputs["embedding"], outputs["fc7"][:, 30:])


def test_layers_are_stock_and_float32_whatever_the_backbone_computes_in(record, pixels):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = randomize(applications.build("six_layer", 32, filters=FILTERS))
    finally:
        keras.config.set_dtype_policy(policy)
    plain = applications.build("six_layer", 32, filters=FILTERS)
    plain.set_weights(mixed.get_weights())
    model = deployable(mixed, record)
    expected = numpy_embedding(plain, record, pixels)
    np.testing.assert_allclose(run(model, pixels)["embedding"], expected, atol=1e-5)

    def layers(model):
        for layer in model.layers:
            yield from layers(layer) if isinstance(layer, keras.Model) else [layer]

    norms = [v for v in layers(model) if isinstance(v, keras.layers.BatchNormalization)]
    assert norms and all(type(v) is keras.layers.BatchNormalization for v in norms)
    assert {v.compute_dtype for v in layers(model)} == {"float32"}


def test_unknown_names_are_reported_with_the_valid_ones(backbone, record):
    with pytest.raises(UserError, match="unknown endpoint 'block9'.*block1, block2"):
        deployable(backbone, record, endpoints=["block9"])
    with pytest.raises(UserError, match="unknown feature 'f3'.*options: f, f1, f2"):
        deployable(backbone, record, feature="f3")
    whole = {**record, "method": "rotnet", "feature": {"endpoint": "block6", "pooling": "avg"}}
    with pytest.raises(UserError, match="'f1' does not exist.*rotnet.*options: f$"):
        deployable(backbone, whole, feature="f1")
    assert feature_range(whole, "f") == (0, None)
