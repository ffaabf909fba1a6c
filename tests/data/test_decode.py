"""Decoding inside TensorFlow against Pillow, and the evaluation transform against both."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import decode
from rfd_tf.data.image_files import BMP, JPEG, PNG, TRANSPARENT_PNG


def _pixels(height=30, width=40, channels=3):
    small = np.random.default_rng(2).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def _encode(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    JPEG: _encode(_pixels(), "JPEG", quality=90),
    PNG: _encode(_pixels(), "PNG"),
    TRANSPARENT_PNG: _encode(_pixels(channels=4), "PNG"),
    BMP: _encode(_pixels(), "BMP"),
}


def _by_pillow(contents):
    image = Image.open(io.BytesIO(contents))
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("kinds", ["one", "all"])
def test_pixels_are_those_of_pillow(kind, kinds):
    possible = (kind,) if kinds == "one" else decode.KINDS
    result = decode.decode(tf.constant(FILES[kind]), tf.constant(kind), possible).numpy()
    assert result.dtype == np.uint8
    assert np.abs(result - _by_pillow(FILES[kind])).max() <= (kind == TRANSPARENT_PNG)


@pytest.mark.parametrize("kind", FILES)
def test_kind_and_shape_are_read_from_the_bytes(kind):
    contents = tf.constant(FILES[kind])
    found = decode.kind_of(contents, transparent=kind == TRANSPARENT_PNG)
    assert found == kind
    assert decode.shape_of(contents, found, decode.KINDS).numpy().tolist() == [30, 40]


def _resized(pixels, window, size):
    top, left, height, width = window
    crop = pixels[top : top + height, left : left + width].astype(np.float32)
    return tf.image.resize(crop, [size, size], antialias=True).numpy()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("windows", [[[5, 9, 20, 16]], [[5, 9, 20, 16], [2, 20, 13, 19]]])
def test_windows_are_cut_before_they_are_resized(kind, windows):
    contents = tf.constant(FILES[kind])
    result = decode.decode_windows(contents, kind, tf.constant(windows), 12, decode.KINDS)
    assert result.shape == (len(windows), 12, 12, 3) and result.dtype == np.uint8
    for window, pixels in zip(windows, result.numpy(), strict=True):
        expected = _resized(_by_pillow(FILES[kind]), window, 12)
        assert np.abs(pixels - expected).max() <= 1.5


def test_each_window_is_mirrored_by_itself():
    windows = tf.constant([[5, 9, 20, 16], [2, 20, 13, 19], [0, 0, 30, 40]])
    arguments = (tf.constant(FILES[PNG]), PNG, windows, 12, (PNG,))
    plain = decode.decode_windows(*arguments).numpy()
    mirrored = [[False, False], [True, False], [False, True]]
    turned = decode.decode_windows(*arguments, tf.constant(mirrored)).numpy()
    np.testing.assert_array_equal(turned, [plain[0], plain[1][::-1], plain[2][:, ::-1]])


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_large_windows_are_shrunk_while_decoding(shrink, options):
    size = 16
    side = decode._SPARE * size * shrink
    # Odd sizes and places: nothing falls on the shrunk image's pixels by itself.
    windows = [[7, 13, side + 5, side + 11], [3, 1, 2 * side, 2 * side], [11, 5, side, side + 1]]
    contents = _encode(_pixels(2 * side + 9, 2 * side + 15), "JPEG", quality=95, **options)
    assert decode.shrink_factor(tf.constant(side), size) == shrink
    whole = _by_pillow(contents)
    for some in (windows, windows[:1]):
        result = decode.decode_windows(
            tf.constant(contents), JPEG, tf.constant(some), size, (JPEG,)
        ).numpy()
        for (top, left, height, width), pixels in zip(some, result, strict=True):
            # The corners nearest to the window's that are pixels of the shrunk image, too.
            corners = np.array([top, left, top + height, left + width])
            top, left, bottom, right = (corners + shrink // 2) // shrink * shrink
            expected = _resized(whole, (top, left, bottom - top, right - left), size)
            assert np.abs(pixels - expected).mean() <= 1.0


def test_what_is_shrunk_stays_twice_as_large_as_the_result():
    for image_size in (32, 224):
        for side in (1, 2 * image_size, 4 * image_size - 1, 4 * image_size, 99 * image_size):
            shrink = int(decode.shrink_factor(tf.constant(side), image_size))
            assert shrink == 1 or side >= 2 * image_size * shrink
            assert shrink == 8 or side < 4 * image_size * shrink


@pytest.mark.parametrize("size,target", [(8, 8), (95, 95), (96, 110), (224, 256)])
def test_the_shorter_side_before_the_centre_crop(size, target):
    assert decode.evaluation_resize(size) == target


@pytest.mark.parametrize("height,width", [(60, 90), (90, 60), (61, 133), (20, 31)])
@pytest.mark.parametrize("size", [32, 112])
def test_evaluation_transform_is_resize_then_centre_crop(height, width, size):
    pixels = _pixels(height, width)
    result = decode.evaluation_transform(tf.constant(pixels), size).numpy()
    shorter = decode.evaluation_resize(size)
    scale = shorter / min(height, width)
    new = (int(width * scale + 1e-9), int(height * scale + 1e-9))
    resized = np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BILINEAR))
    top, left = round((new[1] - size) / 2), round((new[0] - size) / 2)
    expected = resized[top : top + size, left : left + size].astype(int)
    assert result.shape == (size, size, 3)
    assert np.abs(result - expected).max() <= 2


def test_images_of_the_right_size_are_left_alone():
    pixels = _pixels(40, 40)
    np.testing.assert_array_equal(decode.evaluation_transform(tf.constant(pixels), 40), pixels)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def of_unknown_size(image):
        return decode.evaluation_transform(image, 40)

    np.testing.assert_array_equal(of_unknown_size(pixels), pixels)


def test_a_batch_is_transformed_as_its_images():
    batch = np.stack([_pixels(50, 70), _pixels(50, 70)[::-1]])
    result = decode.evaluation_transform(tf.constant(batch), 32)
    for image, one in zip(batch, result, strict=True):
        np.testing.assert_array_equal(one, decode.evaluation_transform(tf.constant(image), 32))


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 2), (1, 1)])
def test_strips_and_dots_do_not_fill_the_memory(shape):
    strip = tf.fill([*shape, 3], tf.constant(77, tf.uint8))
    result = decode.evaluation_transform(strip, 224).numpy()
    assert result.shape == (224, 224, 3) and (result == 77).all()


def test_sixteen_bits_keep_the_upper_eight():
    values = np.random.default_rng(0).integers(0, 65536, (9, 9)).astype(np.uint16)
    result = decode.decode(tf.constant(_encode(values, "PNG")), PNG, (PNG,)).numpy()
    np.testing.assert_array_equal(result, np.repeat((values >> 8)[..., None], 3, -1))


@pytest.mark.parametrize("shape", [(37, 50, 3), (2, 30, 7, 3), (1, 1, 3)])
@pytest.mark.parametrize("size", [(22, 64), (37, 50), (90, 5)])
def test_resizing_gives_the_pixels_of_tensorflow(shape, size):
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    images[..., :2, :] = 255
    expected = decode.to_uint8(tf.cast(tf.image.resize(images, size, antialias=True), tf.float32))
    np.testing.assert_array_equal(decode.resize(tf.constant(images), *size), expected)
    anything = tf.TensorSpec([None] * (len(shape) - 1) + [3], tf.uint8)
    number = tf.TensorSpec([], tf.int32)
    compiled = tf.function(decode.resize, input_signature=[anything, number, number])
    np.testing.assert_array_equal(compiled(images, *size), expected)
    known = tf.function(lambda h, w: decode.resize(tf.constant(images), h, w))
    np.testing.assert_array_equal(known(tf.constant(size[0]), tf.constant(size[1])), expected)
