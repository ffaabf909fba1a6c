"""Rotated views against `numpy.rot90`."""

import numpy as np
import pytest
from keras import ops

from rfd_tf.data.views import flatten_views, rotate, rotate_each
from rfd_tf.errors import UserError


def _images(dtype="uint8", batch=3, size=5):
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(dtype)


def test_a_quarter_turn_is_counter_clockwise():
    image = np.array([[1, 2], [3, 4]], np.int32).reshape(1, 2, 2, 1)
    views = np.asarray(rotate(image))[0, ..., 0]
    assert views.tolist() == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
    ]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_views_are_those_of_rot90(dtype, size):
    images = _images(dtype, size=size)
    views = np.asarray(rotate(images))
    assert views.dtype == images.dtype and views.shape == (3, 4, size, size, 3)
    for turn in range(4):
        np.testing.assert_array_equal(views[:, turn], np.rot90(images, turn, axes=(1, 2)))


def test_some_rotations_in_the_order_asked_for():
    images = _images()
    views = np.asarray(rotate(images, rotations=(2, 0)))
    np.testing.assert_array_equal(views[:, 0], np.rot90(images, 2, axes=(1, 2)))
    np.testing.assert_array_equal(views[:, 1], images)


def test_every_rotation_may_turn_its_own_crop():
    crops = np.random.default_rng(1).integers(0, 256, (2, 4, 3, 3, 3))
    turned = np.asarray(rotate(crops))
    for place in range(4):
        expected = np.rot90(crops[:, place], place, axes=(1, 2))
        np.testing.assert_array_equal(turned[:, place], expected)


def test_flattened_views_are_image_major():
    images = _images()
    views = rotate(images)
    flat = np.asarray(flatten_views(views))
    for image in range(3):
        for turn in range(4):
            np.testing.assert_array_equal(flat[4 * image + turn], np.rot90(images[image], turn))


def test_each_image_by_its_own_turn():
    images = _images(batch=8)
    turns = np.array([0, 1, 2, 3, 4, 7, -1, -2])
    turned = np.asarray(rotate_each(images, turns))
    assert turned.dtype == images.dtype
    for image, turn, result in zip(images, turns, turned, strict=True):
        np.testing.assert_array_equal(result, np.rot90(image, turn))


def test_the_batch_may_be_unknown():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 5, 5, 3], tf.uint8)])
    def views_of(images):
        flat = flatten_views(rotate(images))
        assert flat.shape == (None, 5, 5, 3)
        return flat

    assert views_of(_images()).shape == (12, 5, 5, 3)


def test_what_cannot_be_rotated_is_told():
    with pytest.raises(UserError, match="square, got 4x5"):
        rotate(np.zeros((1, 4, 5, 3)))
    with pytest.raises(UserError, match="square, got 4x5"):
        rotate_each(np.zeros((1, 4, 5, 3)), [0])
    with pytest.raises(UserError, match="rank 3"):
        rotate(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match=r"got \(4,\)"):
        rotate(_images(), rotations=(4,))
    with pytest.raises(UserError, match="3 crops of an image .* give 1 or 4 crops"):
        rotate(np.zeros((1, 3, 4, 4, 3)))
    with pytest.raises(UserError, match=r"\[batch, views, ...\]"):
        flatten_views(ops.zeros((4,)))
