"""Warps against Pillow and against equations solved in double precision."""

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import warps
from rfd_tf.errors import UserError

SIZE = 17


def _images(batch, channels=3):
    return np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, channels)).astype("uint8")


def _random_affine(count, rng):
    return (
        rng.uniform(-180, 180, count),
        rng.uniform(-4, 4, (count, 2)),
        rng.uniform(0.7, 1.3, count),
        rng.uniform(-30, 30, count),
    )


def _random_corners(count, rng):
    square = SIZE * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "float64")
    turned = np.stack([np.roll(square, k, axis=0) for k in rng.integers(0, 4, count)])
    scale = rng.uniform(0.8, 1.2, (count, 1, 1))
    return SIZE / 2 + scale * (turned - SIZE / 2) + rng.integers(-2, 3, (count, 4, 2))


def _solved(corners):
    """The eight coefficients that bring given points to the image's corners."""
    square = SIZE * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "float64")
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, square, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.linalg.solve(np.array(rows), np.array(right))


def test_projections_solve_the_corner_equations():
    corners = _random_corners(50, np.random.default_rng(1))
    found = np.asarray(warps.projective_coefficients(corners, SIZE))
    expected = np.stack([_solved(each) for each in corners])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_affine_coefficients_invert_the_stated_matrix():
    rng = np.random.default_rng(2)
    angle, translation, scale, shear = _random_affine(20, rng)
    found = np.asarray(warps.affine_coefficients(angle, translation, scale, shear, SIZE))
    for k in range(20):
        a, s = np.radians(angle[k]), np.radians(shear[k])
        matrix = scale[k] * np.array([[np.cos(a), -np.sin(a + s)], [np.sin(a), np.cos(a + s)]])
        point = rng.uniform(0, SIZE, 2)
        lands = matrix @ (point - SIZE / 2) + SIZE / 2 + translation[k]
        back = np.asarray(warps.warp_points(lands[None], found[k : k + 1]))[0, 0]
        np.testing.assert_allclose(back, point, atol=1e-4)


@pytest.mark.parametrize("kind", ["affine", "projective"])
def test_warps_are_those_of_pillow(kind):
    rng = np.random.default_rng(3)
    images = _images(12)
    if kind == "affine":
        coefficients = warps.affine_coefficients(*_random_affine(12, rng), SIZE)
    else:
        coefficients = warps.projective_coefficients(_random_corners(12, rng), SIZE)
    coefficients = np.asarray(coefficients, "float64")
    warped = np.asarray(warps.warp(images, coefficients, fill=128))
    assert warped.dtype == np.float32
    assert 0.05 < (warped == 128).all(-1).mean() < 0.5
    for image, each, mine in zip(images, coefficients, warped, strict=True):
        pillow = Image.fromarray(image).transform(
            (SIZE, SIZE),
            Image.Transform.PERSPECTIVE,
            each.tolist(),
            Image.Resampling.BILINEAR,
            fillcolor=(128, 128, 128),
        )
        np.testing.assert_allclose(mine, np.asarray(pillow), atol=1.01)


def test_quarter_turns_and_mirrors_are_exact():
    images = _images(1)
    turned = warps.warp(images, warps.affine_coefficients([90.0], [[0.0, 0.0]], [1.0], [0.0], SIZE))
    np.testing.assert_allclose(turned[0], np.rot90(images[0], -1), atol=1e-2)
    corners = SIZE * np.array([[[1, 0], [0, 0], [0, 1], [1, 1]]])
    mirrored = warps.warp(images, warps.projective_coefficients(corners, SIZE))
    np.testing.assert_allclose(mirrored[0], images[0, :, ::-1], atol=1e-2)


def test_what_lies_behind_the_horizon_is_filled():
    # Depth 1 - x / 4.5 is zero at the centres of the fifth column, and negative beyond.
    coefficients = np.array([[1.0, 0, 0, 0, 1, 0, -1 / 4.5, 0]])
    warped = np.asarray(warps.warp(_images(1), coefficients, fill=7))
    assert np.isfinite(warped).all()
    assert (warped[0, :, 4:] == 7).all()


def test_the_batch_may_be_unknown():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
    def moved(images):
        count = tf.shape(images)[0]
        same = tf.tile([[1.0, 0, 0, 0, 1, 0, 0, 0]], (count, 1))
        shifts = tf.zeros((count, 3, 2), tf.int32)
        return warps.warp(images, same), warps.shift_channels(images, shifts)

    images = _images(3)
    for result in moved(images):
        np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_channels_move_by_themselves(dtype):
    images = _images(4).astype(dtype)
    shifts = np.random.default_rng(4).integers(-2, 3, (4, 3, 2))
    moved = np.asarray(warps.shift_channels(images, shifts))
    assert moved.dtype == images.dtype
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    for image in range(4):
        for channel in range(3):
            down, right = shifts[image, channel]
            expected = padded[image, 2 - down :, 2 - right :, channel][:SIZE, :SIZE]
            np.testing.assert_array_equal(moved[image, :, :, channel], expected)


def test_images_must_be_square():
    for function in (warps.warp, warps.shift_channels):
        with pytest.raises(UserError, match=r"\(1, 6, 7, 3\)"):
            function(np.zeros((1, 6, 7, 3)), np.zeros((1, 8)))
