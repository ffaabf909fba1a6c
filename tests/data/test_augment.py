"""Batched augmentations against a loop over the images, in NumPy or Pillow."""

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from rfd_tf.data import augment

SEED = tf.constant([3, 5], tf.int64)
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def _images(batch=6, height=12, width=12):
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def _smooth_images(batch=6, size=24):
    small = _images(batch, 6, 6)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size))) for one in small])


def _window_by_loop(draws, height, width, area, ratio):
    """RandomResizedCrop.get_params of torchvision, fed with given uniform numbers."""
    for attempt in range(10):
        target = height * width * (area[0] + draws[attempt] * (area[1] - area[0]))
        log_ratio = math.log(ratio[0]) + draws[10 + attempt] * math.log(ratio[1] / ratio[0])
        aspect = math.exp(log_ratio)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(draws[20] * (height - h + 1)), int(draws[21] * (width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("area", [AREA, (0.5, 1.0), (1.0, 1.0)])
def test_windows_are_those_of_torchvision(area):
    rng = np.random.default_rng(0)
    height, width = rng.integers(1, 400, 500), rng.integers(1, 400, 500)
    draws = augment.window_draws(500, SEED)
    windows = augment.resized_crop_windows(
        draws, tf.constant(height, tf.int32), tf.constant(width, tf.int32), area, RATIO
    ).numpy()
    expected = [
        _window_by_loop(*row, area, RATIO)
        for row in zip(draws.numpy().astype(np.float64), height, width, strict=True)
    ]
    # float32 against float64: a number that falls on a half may be rounded to either side.
    same = (windows == np.array(expected)).all(axis=1)
    assert same.mean() > 0.99
    assert np.abs(windows - expected)[~same].max(initial=0) <= 1


def test_windows_lie_inside_and_have_the_areas_asked_for():
    height, width = tf.fill([4000], 300), tf.fill([4000], 200)
    draws = augment.window_draws(4000, SEED)
    top, left, h, w = augment.resized_crop_windows(draws, height, width, (0.2, 0.6)).numpy().T
    assert min(top.min(), left.min()) == 0 and min(h.min(), w.min()) > 0
    assert (top + h).max() == 300 and (left + w).max() == 200
    fraction = h * w / (300 * 200)
    assert 0.19 < fraction.min() < 0.22 and 0.58 < fraction.max() < 0.61
    assert abs(fraction.mean() - 0.4) < 0.02
    logs = np.log(w / h) / math.log(4 / 3)
    assert -1.02 < logs.min() < -0.95 and 0.95 < logs.max() < 1.02 and abs(logs.mean()) < 0.05


def test_a_strip_gets_the_largest_centred_window():
    draws = augment.window_draws(1, SEED)
    tall = augment.resized_crop_windows(draws, tf.constant([1000]), tf.constant([9]), (0.9, 1.0))
    assert tall.numpy().tolist() == [[494, 0, 12, 9]]
    wide = augment.resized_crop_windows(draws, tf.constant([1]), tf.constant([1000]), (0.9, 1.0))
    assert wide.numpy().tolist() == [[0, 499, 1, 1]]


@pytest.mark.parametrize("size", [7, 24, 40])
def test_crop_and_resize_is_crop_then_resize(size):
    images = _images(40, 24, 20)
    draws = augment.window_draws(40, SEED)
    windows = augment.resized_crop_windows(draws, tf.fill([40], 24), tf.fill([40], 20))
    result = augment.crop_and_resize(images, windows, size).numpy()
    assert result.dtype == np.uint8
    for image, (top, left, h, w), one in zip(images, windows.numpy(), result, strict=True):
        crop = image[top : top + h, left : left + w].astype(np.float32)
        expected = tf.image.resize(crop, [size, size], antialias=True).numpy()
        assert np.abs(one - expected).max() < 0.51


def test_the_whole_window_at_its_own_size_changes_nothing():
    images = _images()
    whole = tf.tile([[0, 0, 12, 12]], [6, 1])
    np.testing.assert_array_equal(augment.crop_and_resize(images, whole, 12), images)


@pytest.mark.parametrize("padding", [1, 3])
def test_pad_and_crop(padding):
    images = _images(50, 6, 8)
    offsets = augment.pad_and_crop_offsets(50, SEED, padding)
    assert set(offsets.numpy().ravel()) == set(range(2 * padding + 1))
    mirrored = augment.flip_draws(50, SEED)
    plain = augment.pad_and_crop(images, offsets, padding).numpy()
    both = augment.pad_and_crop(images, offsets, padding, mirrored).numpy()
    edges = ((padding, padding), (padding, padding), (0, 0))
    for i, (top, left) in enumerate(offsets.numpy()):
        expected = np.pad(images[i], edges)[top : top + 6, left : left + 8]
        np.testing.assert_array_equal(plain[i], expected)
        np.testing.assert_array_equal(both[i], expected[:, ::-1] if mirrored[i] else expected)


def test_flip_mirrors_the_chosen_left_to_right():
    images = _images(4, 5, 7)
    flipped = augment.flip(images, tf.constant([True, False, False, True])).numpy()
    np.testing.assert_array_equal(flipped[1:3], images[1:3])
    np.testing.assert_array_equal(flipped[[0, 3]], images[[0, 3], :, ::-1])


def test_half_are_flipped():
    assert abs(augment.flip_draws(4000, SEED).numpy().mean() - 0.5) < 0.03
    assert abs(augment.grayscale_draws(4000, SEED, 0.2).numpy().mean() - 0.2) < 0.03


def test_purposes_draw_apart():
    draws = [augment.flip_draws(100, augment.seed_for(SEED, i)).numpy() for i in range(3)]
    assert (draws[0] != draws[1]).any() and (draws[1] != draws[2]).any()


def test_upright_is_exif_transpose():
    image = _images(1)[0]
    result = augment.upright(np.stack([image] * 8), tf.range(1, 9)).numpy()
    for code in range(1, 9):
        tagged = Image.fromarray(image)
        tagged.getexif()[0x0112] = code
        np.testing.assert_array_equal(result[code - 1], np.asarray(ImageOps.exif_transpose(tagged)))


def test_colour_jitter_is_that_of_pillow():
    images = _smooth_images()
    factors = augment.color_jitter_factors(6, SEED, 0.4)
    assert factors.numpy().min() >= 0.6 and factors.numpy().max() <= 1.4
    result = augment.color_jitter(images, factors).numpy().astype(int)
    for i, (brightness, contrast, saturation) in enumerate(factors.numpy()):
        image = ImageEnhance.Brightness(Image.fromarray(images[i])).enhance(brightness)
        image = ImageEnhance.Contrast(image).enhance(contrast)
        image = ImageEnhance.Color(image).enhance(saturation)
        # Pillow cuts to whole numbers after each of the three.
        assert np.abs(result[i] - np.asarray(image)).max() <= 4
    unchanged = augment.color_jitter(images, tf.ones([6, 3]))
    np.testing.assert_array_equal(unchanged, images)


def test_strong_jitter_never_turns_negative():
    assert augment.color_jitter_factors(1000, SEED, 3.0).numpy().min() >= 0.0


def test_hue_turns_as_colorsys_does():
    import colorsys

    images = tf.constant(np.random.default_rng(5).integers(0, 256, (3, 4, 4, 3), np.uint8))
    turns = np.array([0.0, 0.25, -0.4], np.float32)
    result = augment.turn_hue(images, tf.constant(turns)).numpy().astype(int)
    np.testing.assert_array_equal(result[0], images[0])
    for image, turned, turn in zip(images.numpy(), result, turns, strict=True):
        for pixel, got in zip(image.reshape(-1, 3) / 255, turned.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            np.testing.assert_allclose(got, 255 * np.array(expected), atol=0.51)
    draws = augment.hue_draws(2000, SEED, 0.1).numpy()
    assert abs(draws).max() <= 0.1 and abs(draws.mean()) < 0.01 and draws.std() > 0.05


def test_grayscale_is_that_of_pillow():
    images = _images(4)
    result = augment.grayscale(images, tf.constant([True, True, False, False])).numpy()
    np.testing.assert_array_equal(result[2:], images[2:])
    for image, one in zip(images[:2], result[:2], strict=True):
        grey = np.asarray(Image.fromarray(image).convert("L")).astype(int)
        assert np.abs(one - grey[..., None]).max() <= 1
        assert (one[..., :1] == one).all()
