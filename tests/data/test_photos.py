"""Crops of photographs: where they are cut, how they are changed, what identifies them."""

import math
import shutil

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import (
    ArraySource,
    PhotoSource,
    evaluation_dataset,
    load,
    load_images,
    photo_crops,
    training_dataset,
)
from rfd_tf.data.base import fingerprint
from rfd_tf.data.photo_draws import DRAWS, key_of, normal_draws, uniform_draws
from rfd_tf.data.photos import _path, sheet
from rfd_tf.errors import UserError

CHINA = "sklearn:china.jpg"
PLAIN = {"rotation": 0, "shear": 0, "scale": False, "color_jitter": 0, "hue": 0}
ANGLE, SHEAR = 24, 25  # of a crop's draws


@pytest.fixture
def places(tmp_path):
    """A photograph whose red is the row and whose green is the column."""
    rows, columns = np.meshgrid(np.arange(200), np.arange(240), indexing="ij")
    pixels = np.stack([rows, columns, np.full_like(rows, 255)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "places.png")
    return tmp_path / "places.png"


def crops(images, count=60, size=16, **settings):
    images = images if isinstance(images, list) else [images]
    return photo_crops(images, count, size, **settings).images


def maps_of(images):
    """Fits (row, column) shown = linear (row, column) + shift to crops of `places`."""
    size = images.shape[1]
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
    inputs = np.concatenate([grid.reshape(-1, 2), np.ones((size * size, 1))], axis=1)
    shown = images[..., :2].reshape(len(images), -1, 2).astype(float)
    fits = np.stack([np.linalg.lstsq(inputs, one, rcond=None)[0] for one in shown])
    return fits[:, :2].swapaxes(1, 2), fits[:, 2]


def test_crops_are_as_many_and_as_large_as_asked_and_differ():
    source = photo_crops([CHINA, "sklearn:flower.jpg"], 40, 24)
    assert source.num_images == 40 and source.labels is None
    assert source.images.shape == (40, 24, 24, 3) and source.images.dtype == np.uint8
    assert len({one.tobytes() for one in source.images}) == 40
    # The photographs take turns: one is greyish blue, the other orange and green.
    blue = source.images[..., 2].mean(axis=(1, 2))
    assert blue[::2].mean() > 2 * blue[1::2].mean()


def test_a_crop_follows_from_seed_and_number_alone():
    few, many = crops(CHINA, 10), crops(CHINA, 50)
    np.testing.assert_array_equal(few, many[:10])
    other = crops(CHINA, 10, seed=-1)
    assert (few != other).any(axis=(1, 2, 3)).all()


def test_random_numbers_are_those_of_splitmix64():
    state, expected = key_of(7), []
    for _ in range(3 * DRAWS):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) % 2**64
        expected.append(((z ^ z >> 31) >> 40) / 2**24)
    draws = uniform_draws(7, np.arange(3))
    np.testing.assert_array_equal(draws.ravel(), np.float32(expected))
    import tensorflow as tf

    from rfd_tf.data import photo_sampling

    numbers = np.array([0, 1, 2, 1_281_166, 3_000_000_000])
    tensor = photo_sampling.uniform_draws(7, tf.constant(numbers))
    np.testing.assert_array_equal(tensor, uniform_draws(7, numbers))


def test_without_changes_crops_are_windows_of_the_photograph(places):
    photo = np.asarray(Image.open(places))
    corners = set()
    for crop in crops(places, **PLAIN):
        top, left = map(int, crop[0, 0, :2])
        np.testing.assert_array_equal(crop, photo[top : top + 16, left : left + 16])
        corners.add((top, left))
    assert len(corners) > 50
    tops, lefts = np.array(sorted(corners)).T
    # The region of 100 can begin at row 0 to 100 and column 0 to 140.
    assert tops.min() < 40 and 140 < tops.max() <= 184
    assert lefts.min() < 40 and 180 < lefts.max() <= 224


def test_turns_and_shears_are_those_drawn(places):
    settings = PLAIN | {"rotation": 30, "shear": 20, "region": 0}
    # Far from the border of the window: no black.
    images = crops(places, 50, 96, **settings)[:, 20:76, 20:76]
    found, _ = maps_of(images)
    draws = uniform_draws(0, np.arange(50))
    angle = np.radians(30 * (2 * draws[:, ANGLE] - 1))
    shear = np.radians(20 * (2 * draws[:, SHEAR] - 1))
    assert np.abs(np.degrees(angle)).max() > 25 and np.abs(np.degrees(shear)).max() > 15
    for one, a, s in zip(found, angle, shear, strict=True):
        turn = [[np.cos(a), -np.sin(a + s)], [np.sin(a), np.cos(a + s)]]  # of (x, y)
        np.testing.assert_allclose(one[::-1, ::-1], np.linalg.inv(turn), atol=0.02)


def test_windows_have_the_areas_and_aspects_asked_for(places):
    settings = PLAIN | {"scale": True, "area_min": 0.04, "aspect": 1.5}
    found, _ = maps_of(crops(places, 200, 20, **settings))
    np.testing.assert_allclose(found[:, [0, 1], [1, 0]], 0, atol=0.02)
    height, width = found[:, 0, 0] * 20, found[:, 1, 1] * 20
    area, ratio = height * width / 100**2, width / height
    assert 0.03 < area.min() < 0.1 and 0.8 < area.max() <= 1.02 and 0.4 < area.mean() < 0.55
    assert 1 / 1.6 < ratio.min() < 0.72 and 1.4 < ratio.max() < 1.6
    square, _ = maps_of(crops(places, 40, 20, **settings | {"aspect": 1}))
    np.testing.assert_allclose(square[:, 0, 0], square[:, 1, 1], rtol=0.06)


def test_windows_lie_in_the_photograph_and_are_whole(places):
    settings = PLAIN | {"scale": True, "area_min": 1, "aspect": 1, "region": 1}
    # The largest square: all rows, at any place along the columns.
    linear, shift = maps_of(crops(places, 40, 20, **settings))
    np.testing.assert_allclose(linear, np.eye(2)[None] * 10 + np.zeros((40, 1, 1)), atol=0.2)
    np.testing.assert_allclose(shift[:, 0], 4.5, atol=1)
    assert shift[:, 1].min() < 10 and shift[:, 1].max() > 38


def test_shrinking_does_not_alias(tmp_path):
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    settings = PLAIN | {"scale": True, "area_min": 1, "aspect": 1, "region": 1}
    images = crops(tmp_path / "board.png", 5, 32, **settings).astype(int)
    assert np.abs(images - 128).max() <= 2


def test_pixels_are_interpolated_on_the_two_nearest_levels(tmp_path):
    photo = Image.open(_path(CHINA)).crop((100, 100, 356, 356))
    photo.save(tmp_path / "square.png")
    settings = PLAIN | {"scale": True, "area_min": 1, "aspect": 1, "region": 1}
    (found,) = crops(tmp_path / "square.png", 1, 150, **settings)
    share = math.log2(256 / 150)
    fine, coarse = (
        np.asarray(
            level.transform(
                (150, 150), Image.Transform.EXTENT, (0, 0, *level.size), Image.Resampling.BILINEAR
            )
        ).astype(float)
        for level in (photo, photo.reduce(2))
    )
    expected = (1 - share) * fine + share * coarse
    assert np.abs(fine - coarse).mean() > 3
    np.testing.assert_allclose(found[2:-2, 2:-2], expected[2:-2, 2:-2], atol=2)


def test_corners_are_black_only_where_a_shear_leaves_nothing(tmp_path):
    Image.new("RGB", (200, 150), "white").save(tmp_path / "white.png")
    still = PLAIN | {"scale": True, "area_min": 0.1, "rotation": 45}
    turned = crops(tmp_path / "white.png", 300, 33, **still)
    assert (turned == 255).all()
    sheared = crops(tmp_path / "white.png", 300, 33, **still | {"shear": 30})
    black = (sheared == 0).all(axis=-1)
    assert 0 < black.mean() < 0.1 and set(np.unique(sheared)) == {0, 255}
    assert not black[:, 10:23, 10:23].any()


@pytest.mark.parametrize(("flip", "axis"), [("vertical_flip", 1), ("horizontal_flip", 2)])
def test_half_of_the_crops_are_mirrored(places, flip, axis):
    as_seen = crops(places, 100)
    flipped = crops(places, 100, **{flip: True})
    mirrored = (flipped == np.flip(as_seen, axis)).mean(axis=(1, 2, 3)) > 0.95
    same = (flipped == as_seen).mean(axis=(1, 2, 3)) > 0.95
    assert (mirrored ^ same).all() and 35 < mirrored.sum() < 65


def test_colours_change_for_the_share_asked_for():
    plain = crops(CHINA, 200, color_probability=0)
    np.testing.assert_array_equal(plain, crops(CHINA, 200, color_jitter=0, hue=0))
    changed = (crops(CHINA, 200) != plain).any(axis=(1, 2, 3))
    assert 80 < changed.sum() < 120
    for setting in ({"color_jitter": 0}, {"hue": 0}):
        one = (crops(CHINA, 200, **setting) != plain).any(axis=(1, 2, 3))
        assert not (one & ~changed).any() and one.sum() > 60


def test_noise_is_gaussian_of_its_own_for_each_crop_and_pixel(tmp_path):
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((40, 40, 3), 128, np.uint8)).save(grey)
    plain = crops(grey, 50, 15, **PLAIN)
    noise = crops(grey, 50, 15, noise=0.05, **PLAIN).astype(float) - plain
    assert abs(noise.mean()) < 0.3
    # Rounding adds a twelfth to the variance.
    assert noise.std() == pytest.approx(np.sqrt((0.05 * 255) ** 2 + 1 / 12), rel=0.02)
    standard = noise / noise.std()
    assert abs(np.mean(standard**3)) < 0.1 and np.mean(standard**4) == pytest.approx(3, abs=0.15)
    # Neither crops, channels nor neighbouring pixels go together.
    for one, other in (
        (noise[:-1], noise[1:]),
        (noise[..., 0], noise[..., 1]),
        (noise[:, 1:], noise[:, :-1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03
    np.testing.assert_allclose(
        noise, np.round(255 * 0.05 * normal_draws(0, np.arange(50), 675)).reshape(noise.shape)
    )
    other = crops(grey, 50, 15, noise=0.05, seed=1, **PLAIN).astype(float) - plain
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.03
    # Bright and dark pixels stay in range.
    assert crops(grey, 5, noise=1, **PLAIN).std() > 80


def test_noise_follows_from_seed_and_number_alone():
    few, many = crops(CHINA, 10, 15, noise=0.1), crops(CHINA, 50, 15, noise=0.1)
    np.testing.assert_array_equal(few, many[:10])
    made = photo_crops([CHINA], 50, 15, noise=0.1, cache_bytes=0)
    np.testing.assert_array_equal(load_images(made, 15), many)
    part = made.subset([3, 41])
    np.testing.assert_array_equal(load_images(part, 15), many[[3, 41]])
    # All else is as without noise.
    plain = crops(CHINA, 10, 15).astype(float)
    assert abs((few - plain)[(plain > 100) & (plain < 150)].mean()) < 2


@pytest.mark.parametrize("settings", [{}, {"crop": "resized", "crops": 2, "color_jitter": 0.2}])
def test_crops_made_while_read_are_those_made_beforehand(settings):
    kept = photo_crops([CHINA], 50, 20)
    made = photo_crops([CHINA], 50, 20, cache_bytes=0)
    assert isinstance(kept, ArraySource) and isinstance(made, PhotoSource)
    assert kept.fingerprint == made.fingerprint and kept.name == made.name
    np.testing.assert_array_equal(load_images(made, 20), kept.images)
    settings = {"image_size": 16, "batch_size": 8, "seed": 3, "start_step": 5, **settings}
    pair = [training_dataset(source, shard=(1, 2), **settings) for source in (kept, made)]
    pair = [list(stream.take(3).as_numpy_iterator()) for stream in pair]
    for one, other in zip(*pair, strict=True):
        np.testing.assert_array_equal(one["index"], other["index"])
        np.testing.assert_array_equal(one["image"], other["image"])
    wanted = np.array([3, 8, 44])
    batches = evaluation_dataset(made, image_size=20, batch_size=2, indices=wanted)
    found = np.concatenate([batch["image"] for batch in batches.as_numpy_iterator()])
    np.testing.assert_array_equal(found, kept.images[wanted])


def test_a_part_has_the_same_crops():
    made = photo_crops([CHINA, "sklearn:flower.jpg"], 50, 20, cache_bytes=0)
    part = made.subset(np.arange(10, 40)).subset([0, 3, 29])
    np.testing.assert_array_equal(load_images(part, 20), load_images(made, 20)[[10, 13, 39]])
    assert part.num_images == 3 and part.fingerprint != made.fingerprint


def test_what_identifies_a_set(places, tmp_path):
    def mark(images=(places,), count=9, size=16, cache_bytes=0, **settings):
        return photo_crops(images, count, size, cache_bytes=cache_bytes, **settings).fingerprint

    again = tmp_path / "elsewhere.png"
    shutil.copy(places, again)
    assert mark() == mark() == mark([again]) == mark(cache_bytes=1 << 20)
    other = tmp_path / "other.png"
    Image.open(places).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    changes = {
        "region": 0.6,
        "scale": False,
        "area_min": 0.01,
        "aspect": 1.2,
        "rotation": 20,
        "shear": 20,
        "vertical_flip": True,
        "horizontal_flip": True,
        "color_jitter": 0.3,
        "hue": 0.05,
        "color_probability": 0.4,
        "noise": 0.1,
        "seed": 1,
        "count": 10,
        "size": 17,
    }
    marks = [mark(**{name: value}) for name, value in changes.items()]
    marks += [mark([other]), mark([places, other]), mark([other, places]), mark([places] * 2)]
    assert len({mark(), *marks}) == 1 + len(marks)


def test_crops_without_noise_are_identified_as_before_there_was_any():
    source = photo_crops([CHINA], 5, 8)
    contents = _path(CHINA).read_bytes()
    settings = (0.5, True, 1 / 500, 4 / 3, 30.0, 30.0, False, False, 0.4, 0.1, 0.5)
    parts = ["photo crops", 1, 5, 8, 0, 1, contents, repr(settings)]
    assert source.fingerprint == fingerprint(parts)


def test_load_takes_photographs():
    source = load(photos=[CHINA], photo_options={"num_crops": 5, "size": 8, "hue": 0})
    assert source.num_images == 5 and source.name == "crops of china.jpg"
    assert load(photos=[CHINA] * 3, photo_options={"num_crops": 5}).name.endswith("and 2 more")
    with pytest.raises(UserError, match="dataset and source_images were given"):
        load("digits", photos=[CHINA])


def test_a_sheet_shows_the_first_crops():
    source = photo_crops([CHINA], 5, 12)
    picture = sheet(source, 12, rows=2, columns=3)
    assert picture.shape == (26, 40, 3)
    np.testing.assert_array_equal(picture[14:, 14:26], source.images[4])
    assert (picture[14:, 28:] == 255).all()


def test_user_errors_are_reported(places, tmp_path):
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    small = tmp_path / "small.png"
    Image.new("RGB", (60, 40)).save(small)
    for images, settings, message in (
        ([], {}, "a photograph"),
        (["china.jpg"], {}, "no such photograph: 'china.jpg'; scikit-learn's is sklearn:china.jpg"),
        (["sklearn:chian.jpg"], {}, "did you mean 'china.jpg'"),
        ([tmp_path], {}, "is a folder"),
        ([text], {}, "notes.jpg' cannot be read as an image"),
        ([small], {}, "40 x 60 pixels, and crops are cut from 20.*smallest from 0.9: too small"),
        ([small], {"scale": False}, "less than the 45 that crops of 32 need"),
        ([small], {"area_min": 0}, "too small"),
        ([places], {"num_crops": 0}, "number of crops must be 1 or more, got 0"),
        ([places], {"size": 0}, "side of crops must be 1 or more, got 0"),
        ([places], {"region": 1.5}, "region of crops .* from 0 to 1, got 1.5"),
        ([places], {"shear": 90}, "shear of crops"),
        ([places], {"hue": math.nan}, "hue of crops"),
        ([places], {"rotations": 4}, "unknown setting of crops 'rotations'.*'rotation'"),
    ):
        with pytest.raises(UserError, match=message):
            photo_crops(images, **settings)
