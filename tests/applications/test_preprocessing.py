"""Pixels to normalised input, for each kind of array."""

import keras
import numpy as np
import pytest

from rfd_tf.applications import CIFAR10_MEAN, CIFAR10_STD, preprocess_input
from rfd_tf.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, size=(2, 5, 4, 3), dtype=np.uint8)


def expected(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    return (PIXELS.astype("float64") / 255 - np.asarray(mean)) / np.asarray(std)


def test_array_and_tensor_and_single_image():
    before = PIXELS.copy()
    result = preprocess_input(PIXELS)
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    np.testing.assert_allclose(result, expected(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(PIXELS, before)
    floats = PIXELS.astype("float32")
    preprocess_input(floats)
    np.testing.assert_array_equal(floats, before)
    tensor = preprocess_input(keras.ops.convert_to_tensor(PIXELS))
    np.testing.assert_allclose(tensor, expected(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(preprocess_input(PIXELS[0]), expected()[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(preprocess_input(PIXELS.tolist()), result)


def test_keras_tensor():
    symbol = preprocess_input(keras.Input((None, None, 3), dtype="uint8"))
    assert symbol.shape == (None, None, None, 3) and symbol.dtype == "float32"


def test_channels_first_and_other_constants():
    result = preprocess_input(
        PIXELS.transpose(0, 3, 1, 2), "channels_first", CIFAR10_MEAN, CIFAR10_STD
    )
    wanted = (PIXELS - np.array([125.3, 123.0, 113.9])) / np.array([63.0, 62.1, 66.7])
    np.testing.assert_allclose(result.transpose(0, 2, 3, 1), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_format": "NHWC"}, "unknown data_format 'NHWC'"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values for images of 3 channels"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be one positive number"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean must be one finite number"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        preprocess_input(PIXELS, **options)


def test_not_an_image():
    with pytest.raises(UserError, match="images need height, width and channels"):
        preprocess_input(np.zeros((4, 3)))
