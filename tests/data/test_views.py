"""Rotated views against `numpy.rot90`."""

import numpy as np
import pytest
from keras import ops

from rfd_tf.data.views import flatten_views, rotate, rotate_degrees, rotate_each
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


def test_quarter_turns_in_degrees_are_exact():
    images = _images()
    for degrees in ([0, 180], (90, 270), (0, 90, 180, 270)):
        views = np.asarray(rotate_degrees(images, degrees))
        assert views.dtype == images.dtype
        for place, angle in enumerate(degrees):
            expected = np.rot90(images, angle // 90, axes=(1, 2))
            np.testing.assert_array_equal(views[:, place], expected)


EIGHT = tuple(range(0, 360, 45))


@pytest.mark.parametrize("size", [9, 16])
def test_eighth_turns_are_those_of_scipy(size):
    from scipy import ndimage

    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    views = np.asarray(rotate_degrees(images, EIGHT))
    assert views.shape == (2, 8, size, size, 3)
    for place, angle in enumerate(EIGHT):
        a = np.deg2rad(angle)
        # Output to input coordinates, both from the centre, in (row, column).
        matrix = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) / np.sqrt(2)
        centre = np.full(2, (size - 1) / 2)
        for image in range(2):
            for channel in range(3):
                expected = ndimage.affine_transform(
                    images[image, ..., channel],
                    matrix,
                    centre - matrix @ centre,
                    order=1,
                    mode="nearest",
                )
                got = views[image, place, ..., channel]
                np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=str(angle))


def test_no_eighth_turn_shows_an_empty_corner():
    # White images stay white, and a photograph's frame is out of sight.
    white = np.full((1, 16, 16, 1), 255, "uint8")
    np.testing.assert_allclose(rotate_degrees(white, EIGHT), 255, rtol=1e-6)
    framed = np.zeros((1, 16, 16, 1), "float32")
    framed[:, :2], framed[:, -2:], framed[:, :, :2], framed[:, :, -2:] = 1, 1, 1, 1
    assert np.asarray(rotate_degrees(framed, EIGHT))[:, ::2].max() == 0


def test_every_eighth_turn_may_turn_its_own_crop():
    crops = np.random.default_rng(1).normal(size=(2, 3, 8, 8, 3)).astype("float32")
    turned = np.asarray(rotate_degrees(crops, (0, 45, 225)))
    for place, angle in enumerate((0, 45, 225)):
        alone = np.asarray(rotate_degrees(crops[:, place], (angle, 135)))[:, 0]
        np.testing.assert_allclose(turned[:, place], alone, atol=1e-6)


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


def test_images_that_cannot_be_rotated_are_an_error():
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
    for degrees in ([0, 30], [90, 90], [], [360], 4):
        with pytest.raises(UserError, match="different multiples of 45 degrees"):
            rotate_degrees(_images(), degrees)
    with pytest.raises(UserError, match="3 crops of an image .* give 1 or 2 crops"):
        rotate_degrees(np.zeros((1, 3, 4, 4, 3)), (0, 45))
    with pytest.raises(UserError, match=r"\[batch, views, ...\]"):
        flatten_views(ops.zeros((4,)))
