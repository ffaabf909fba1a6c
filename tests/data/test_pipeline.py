"""The training stream and the evaluation pass, on arrays and on folders."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import (
    ArraySource,
    augment,
    evaluation_dataset,
    image_folder,
    load_images,
    steps_per_epoch,
    training_dataset,
)
from rfd_tf.data.recipe import Recipe
from rfd_tf.errors import UserError

COUNT = 22
SETTINGS = {
    "pad": {"crop": "pad"},
    "resized": {"crop": "resized", "crop_area": (0.3, 1.0)},
    "none": {"crop": "none", "horizontal_flip": False},
    "colours": {"crop": "resized", "color_jitter": 0.4, "hue": 0.1, "grayscale": 0.3},
    "crops": {"crop": "resized", "crops": 3},
}


def _picture(seed, height, width):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def array():
    return ArraySource(np.stack([np.asarray(_picture(i, 16, 16)) for i in range(COUNT)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        kind = ("jpg", "png")[i % 2]
        _picture(i, 20 + i, 30 - i // 2).save(path / f"{i:02}.{kind}")
    return image_folder(path)


@pytest.fixture(params=["array", "folder"])
def source(request):
    return request.getfixturevalue(request.param)


# A stream takes a while to build, hence not every pair.
@pytest.fixture(
    scope="module",
    params=[
        "array pad",
        "array resized",
        "array none",
        "array colours",
        "array crops",
        "folder pad",
        "folder resized",
        "folder crops",
    ],
)
def case(request):
    """A source and settings."""
    source, settings = request.param.split()
    return request.getfixturevalue(source), SETTINGS[settings]


@pytest.fixture(scope="module")
def whole(case):
    """The first eight batches of a case."""
    source, settings = case
    return _batches(source, 8, **settings)


def _batches(source, count, **arguments):
    settings = {"image_size": 16, "batch_size": 6, "seed": 7} | arguments
    dataset = training_dataset(source, **settings)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def _assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["image"], b["image"])


def test_batches_hold_pixels_and_index_and_nothing_else(source):
    dataset = training_dataset(source, image_size=16, batch_size=6, seed=0)
    assert dataset.element_spec == {
        "image": tf.TensorSpec([6, 16, 16, 3], tf.uint8),
        "index": tf.TensorSpec([6], tf.int64),
    }


def test_the_index_belongs_to_the_image(source):
    images = load_images(source, 16)
    for batch in _batches(source, 8, crop="none", horizontal_flip=False):
        np.testing.assert_array_equal(batch["image"], images[batch["index"]])


def test_an_epoch_visits_each_image_at_most_once_in_a_fresh_order(source):
    assert steps_per_epoch(source, 6) == 3
    indices = [batch["index"] for batch in _batches(source, 12)]
    epochs = [np.concatenate(indices[start : start + 3]) for start in range(0, 12, 3)]
    for epoch in epochs:
        assert len(set(epoch)) == 18 and set(epoch) <= set(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_whole_epochs_are_permutations(array):
    indices = np.concatenate([batch["index"] for batch in _batches(array, 2, batch_size=11)])
    assert sorted(indices) == list(range(COUNT))


def test_an_order_given_is_followed_and_ends(source):
    order = np.array([3, 3, 21, 0, 3, 9, *range(10, 16), 1, 2])
    batches = _batches(source, 9, order=order, start_step=4)
    assert [list(batch["index"]) for batch in batches] == [list(order[:6]), list(order[6:12])]
    assert not np.array_equal(batches[0]["image"][0], batches[0]["image"][1])
    # Its augmentation is the step's, whatever the order, in every shard.
    parts = [_batches(source, 9, order=order[6:], start_step=5, shard=(i, 2)) for i in range(2)]
    both = np.concatenate([part[0]["image"] for part in parts])
    np.testing.assert_array_equal(both, batches[1]["image"])


def test_separate_views_are_shuffled_over_an_epoch(source):
    kind = "none" if isinstance(source, ArraySource) else "resized"
    settings = {**SETTINGS[kind], "views": 4, "batch_size": 8}
    steps = steps_per_epoch(source, 8, views=4)
    assert steps == COUNT * 4 // 8
    batches = _batches(source, 2 * steps, **settings)
    epochs = [batches[:steps], batches[steps:]]
    orders = []
    for epoch in epochs:
        pairs = [pair for b in epoch for pair in zip(b["index"], b["view"], strict=True)]
        assert sorted(pairs) == [(index, view) for index in range(COUNT) for view in range(4)]
        orders.append(pairs)
        # An image's views are apart: far fewer are together than with all four in one batch.
        alone = [len(set(b["index"].tolist())) for b in epoch]
        assert np.mean(alone) > 6
    assert orders[0] != orders[1]
    if settings["crop"] == "none":
        images = load_images(source, 16)
        for batch in batches[:3]:
            np.testing.assert_array_equal(batch["image"], images[batch["index"]])
    parts = [_batches(source, 2, shard=(i, 2), start_step=steps + 1, **settings) for i in range(2)]
    for step, whole in enumerate(batches[steps + 1 : steps + 3]):
        for key in ("image", "index", "view"):
            halves = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(halves, whole[key])


def test_the_seed_decides(array):
    for settings in (SETTINGS["pad"], SETTINGS["colours"]):
        one = _batches(array, 2, **settings)
        _assert_same(one, _batches(array, 2, **settings))
        other = _batches(array, 2, **settings | {"seed": -1})
        assert (one[0]["index"] != other[0]["index"]).any()


def test_the_same_image_is_augmented_anew_at_each_step(array):
    one = ArraySource(array.images[:1])
    batches = _batches(one, 20, batch_size=1, horizontal_flip=False, padding=4)
    assert len({batch["image"].tobytes() for batch in batches}) > 10


def test_shards_entered_at_any_step_are_together_the_whole_batch(case, whole):
    source, settings = case
    # Five is inside the second epoch of three steps.
    parts = [_batches(source, 3, start_step=5, shard=(i, 2), **settings) for i in range(2)]
    assert len(parts[0][0]["image"]) == 3
    together = [
        {key: np.concatenate([part[key] for part in step]) for key in ("image", "index")}
        for step in zip(*parts, strict=True)
    ]
    _assert_same(together, whole[5:])


def test_padded_crops_are_windows_of_the_padded_image(source):
    images = np.pad(load_images(source, 16), ((0, 0), (3, 3), (3, 3), (0, 0)))
    seen = set()
    for batch in _batches(source, 9, padding=3):
        for image, index in zip(batch["image"], batch["index"], strict=True):
            matches = [
                (top, left, flip)
                for top, left, flip in itertools.product(range(7), range(7), (1, -1))
                if (images[index, top : top + 16, left : left + 16][:, ::flip] == image).all()
            ]
            assert len(matches) == 1
            seen.add(matches[0])
    assert len(seen) > 30 and {flip for _, _, flip in seen} == {1, -1}


def test_padding_is_an_eighth_by_default(array):
    _assert_same(_batches(array, 2), _batches(array, 2, padding=2))


def test_resized_crops_differ_between_epochs_and_look_like_their_image(source):
    images = load_images(source, 16).astype(float)
    similar, first = [], {}
    settings = {"crop_area": (0.6, 0.9), "crop_ratio": (0.6, 1.7), "horizontal_flip": False}
    for batch in _batches(source, 9, crop="resized", **settings):
        for image, index in zip(batch["image"], batch["index"], strict=True):
            distances = np.abs(images - image).mean(axis=(1, 2, 3))
            similar.append(distances.argmin() == index)
            if index in first:
                assert (first[index] != image).any()
            first[index] = image
    assert np.mean(similar) > 0.95


def test_successive_epochs_are_not_alike():
    """TensorFlow's default shuffle gives 0.74 here."""
    recipe = Recipe(
        image_size=1,
        batch_size=50_000,
        seed=0,
        start_step=0,
        steps_per_epoch=1,
        crop="none",
        crop_area=(1, 1),
        crop_ratio=(1, 1),
        padding=0,
        horizontal_flip=False,
        color_jitter=0.0,
        hue=0.0,
        grayscale=0.0,
        crops=1,
        shard=(0, 1),
        deterministic=True,
    )
    orders = [recipe.indices(tf.constant(i, tf.int64), 50_000).numpy() for i in range(4)]
    assert all(len(set(order)) == 50_000 for order in orders)
    for one, other in itertools.pairwise(orders):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_each_crop_is_cut_anew_from_the_image_of_its_index(source):
    settings = {"crop": "resized", "crop_area": (0.1, 0.3), "horizontal_flip": False}
    (batch,) = _batches(source, 1, crops=3, **settings)
    assert batch["image"].shape == (6, 3, 16, 16, 3)
    several = batch["image"].astype(float)
    assert (np.abs(several[:, 0] - several[:, 1]).mean(axis=(1, 2, 3)) > 1).all()
    # Without a crop, all three are the image itself.
    (batch,) = _batches(source, 1, crop="none", crops=3, horizontal_flip=False)
    whole = load_images(source, 16)[batch["index"]]
    np.testing.assert_array_equal(batch["image"], np.repeat(whole[:, None], 3, axis=1))


def test_order_may_be_given_up(folder):
    batches = _batches(folder, 3, deterministic=False, crop="none", horizontal_flip=False)
    images = load_images(folder, 16)
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], images[batch["index"]])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (
            {"batch_size": 23},
            "batch_size 23 is more than the 22 images .*batch_size=22 or less",
        ),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"image_size": 0}, "image_size must be 1 or more, got 0"),
        ({"start_step": -1}, "start_step must be 0 or more, got -1"),
        ({"crop": "random"}, "unknown crop 'random'.*pad, resized, window, stretch, none"),
        ({"crop_area": (0.0, 1.0)}, r"crop_area .* at most 1, got \(0.0, 1.0\)"),
        ({"crop_area": (0.5, 1.5)}, "crop_area"),
        ({"crop_ratio": (2.0, 1.0)}, r"crop_ratio .* got \(2.0, 1.0\)"),
        ({"padding": -1}, "padding must be 0 or more pixels, got -1"),
        ({"color_jitter": -0.1}, "color_jitter must be 0 or more, got -0.1"),
        ({"hue": 0.6}, "hue is a share of the colour circle from 0 to 0.5, got 0.6"),
        ({"crops": 0}, "crops must be 1 or more, got 0"),
        ({"grayscale": 1.1}, "grayscale is a probability from 0 to 1, got 1.1"),
        ({"shard": (2, 2)}, r"shard must be \(i, n\) with 0 <= i < n, got \(2, 2\)"),
        ({"shard": (0, 4)}, "batch_size 6 cannot be divided by the 4 shards"),
        ({"order": np.arange(5)}, "an order of 5 images is less than a batch of 6"),
        ({"order": np.arange(17, 23)}, "from 0 to 21 of '.*', not 17 to 22"),
        ({"order": np.ones(6)}, r"order must be integers \[n\], not float64 \[6\]"),
    ],
)
def test_arguments_out_of_range(array, arguments, message):
    with pytest.raises(UserError, match=message):
        _batches(array, 1, **arguments)


def test_evaluation_is_one_pass_in_order(source):
    batches = list(evaluation_dataset(source, image_size=8, batch_size=5).as_numpy_iterator())
    assert [len(batch["index"]) for batch in batches] == [5, 5, 5, 5, 2]
    index = np.concatenate([batch["index"] for batch in batches])
    assert index.tolist() == list(range(COUNT)) and index.dtype == np.int64
    images = np.concatenate([batch["image"] for batch in batches])
    assert images.shape == (COUNT, 8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, load_images(source, 8))


def test_evaluation_reports_values_out_of_range(array):
    with pytest.raises(UserError, match="image_size must be 1 or more"):
        evaluation_dataset(array, image_size=0, batch_size=1)
    with pytest.raises(UserError, match="batch_size must be 1 or more"):
        evaluation_dataset(array, image_size=8, batch_size=0)


def test_a_folder_in_memory_is_cropped_as_one_on_disk(tmp_path):
    for i in range(6):
        _picture(i, 24, 24).save(tmp_path / f"{i}.png")
    kept, on_disk = image_folder(tmp_path), image_folder(tmp_path, cache_bytes=0)
    for settings in ({"crop": "pad", "image_size": 24}, {"crop": "resized"}):
        for one, other in zip(
            _batches(kept, 2, **settings), _batches(on_disk, 2, **settings), strict=True
        ):
            np.testing.assert_array_equal(one["index"], other["index"])
            difference = np.abs(one["image"].astype(int) - other["image"])
            assert difference.max() <= 1 and difference.mean() < 0.1


@pytest.mark.parametrize("crop", ["resized", "none"])
def test_exif_orientation_is_applied(tmp_path, crop):
    """One scene, taken with the camera held in all eight ways: all batches look the same."""
    scene = np.zeros((40, 60, 3), np.uint8)
    scene[:13] = [255, 0, 0]
    scene[:, :20, 2] = 255
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene),
        7: scene[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }
    for code, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = code
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.save(tmp_path / f"{code}.jpg", exif=exif, quality=95, subsampling=0)
    source = image_folder(tmp_path)
    for image in load_images(source, 32):
        assert image[2, 2].argmax() in (0, 2) and image[2, 2, 0] > 200  # top left: red and blue
        assert image[2, 29, 0] > 200 and image[2, 29, 2] < 60  # top right: red
        assert image[29, 29].max() < 60  # bottom right: black
    settings = {"crop": crop, "crop_area": (0.95, 1.0), "crop_ratio": (1.4, 1.6)}
    batch = _batches(source, 1, batch_size=8, image_size=32, horizontal_flip=False, **settings)[0]
    for image in batch["image"].astype(int):
        assert image[2, 29, 0] > 200 and image[2, 29, 2] < 60 and image[29, 29].max() < 60
        assert image[29, 6, 2] > 200 and image[29, 6, 0] < 60  # left third: blue, to its border

    # Mirrored pictures are mirrored as they are seen, however they are stored.
    mirrored = 0
    for batch in _batches(source, 4, batch_size=8, image_size=32, **settings):
        for image in batch["image"].astype(int):
            if image[2, 2, 2] < 60:
                mirrored += 1
                image = image[:, ::-1]
            assert image[2, 29, 0] > 200 and image[2, 29, 2] < 60 and image[29, 29].max() < 60
            assert image[29, 6, 2] > 200 and image[29, 6, 0] < 60
    assert 5 <= mirrored <= 27  # of 32


def _break(source, positions):
    for position in positions:
        with open(source.paths[position], "wb") as file:
            file.write(b"\xff\xd8\xff broken")


def test_a_file_that_goes_bad_is_replaced_and_remembered(tmp_path):
    for i in range(8):
        _picture(i, 24 + i, 24).save(tmp_path / f"{i}.jpg")
    source = image_folder(tmp_path)
    before = _batches(source, 3, batch_size=8, crop="none", horizontal_flip=False)
    images = load_images(source, 16)
    assert source.failed_while_reading() == []
    _break(source, [2, 5])
    after = _batches(source, 3, batch_size=8, crop="none", horizontal_flip=False)
    for one, other in zip(before, after, strict=True):
        good = ~np.isin(one["index"], [2, 5])
        # The others keep their places; the broken ones' are taken by others, with their index.
        np.testing.assert_array_equal(one["index"][good], other["index"][good])
        assert not np.isin(other["index"], [2, 5]).any()
        np.testing.assert_array_equal(other["image"], images[other["index"]])
    assert source.failed_while_reading() == [("2.jpg", "broken header"), ("5.jpg", "broken header")]
    batches = list(evaluation_dataset(source, image_size=16, batch_size=3).as_numpy_iterator())
    assert np.concatenate([batch["index"] for batch in batches]).tolist() == [0, 1, 3, 4, 6, 7]
    with pytest.raises(UserError, match="2 of 8 images .*2.jpg .broken header., 5.jpg"):
        load_images(source, 16)


def test_when_no_file_can_be_read_training_stops(tmp_path):
    for i in range(4):
        _picture(i, 24 + i, 24).save(tmp_path / f"{i}.jpg")
    source = image_folder(tmp_path)
    _break(source, range(4))
    with pytest.raises(tf.errors.InvalidArgumentError, match="no image of a training step"):
        _batches(source, 1, batch_size=4)


def test_windows_are_squares_of_the_evaluations_scale_anywhere():
    height, width = tf.fill([4000], 128), tf.fill([4000], 200)
    draws = tf.random.stateless_uniform([4000, 22], [1, 2])
    windows = augment.square_windows(draws, height, width, 224 / 256).numpy()
    assert (windows[:, 2:] == 112).all()
    assert (windows[:, 0].min(), windows[:, 0].max()) == (0, 16)
    assert (windows[:, 1].min(), windows[:, 1].max()) == (0, 88)
    assert abs(windows[:, 1].mean() - 44) < 2


@pytest.mark.parametrize("kept", [True, False])
def test_window_crops_are_parts_of_the_image(tmp_path, kept):
    ramp = np.linspace(0, 255, 110).astype(np.uint8)
    image = np.stack([*np.meshgrid(ramp, ramp), np.zeros((110, 110), np.uint8)], axis=-1)
    for name in ("a.png", "b.png"):
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / name)
    source = image_folder(tmp_path, cache_bytes=1 << 30 if kept else 0)
    assert isinstance(source, ArraySource) == kept
    lefts = set()
    for batch in _batches(source, 8, crop="window", image_size=96, batch_size=2):
        for crop in batch["image"].astype(int):
            # A window of 96/110 of the side: so much of the ramp, whichever way round.
            assert abs(abs(crop[0, -1, 0] - crop[0, 0, 0]) - 255 * 95 / 109) < 4
            lefts.add(crop[0, 0, 0])
    assert len(lefts) > 4


def test_ten_crops_are_corners_centre_and_mirrors(tmp_path):
    def five_crops(pixels, size):
        bottom, right = pixels.shape[0] - size, pixels.shape[1] - size
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        places.append((round(bottom / 2), round(right / 2)))  # torchvision's five_crop
        return [pixels[top : top + size, left : left + size] for top, left in places]

    images = [_picture(i, 40, 60).resize((60, 40)) for i in range(3)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    on_disk = image_folder(tmp_path, cache_bytes=0)
    in_memory = ArraySource(np.stack([np.asarray(image) for image in images]))
    for source in (on_disk, in_memory):
        batches = evaluation_dataset(source, image_size=35, batch_size=2, ten_crops=True)
        found = np.concatenate([batch["image"] for batch in batches.as_numpy_iterator()])
        assert found.shape == (3, 10, 35, 35, 3)
        for image, crops in zip(images, found, strict=True):
            # 40 x 60 is its own resized form: 35 * 256 / 224 = 40.
            pixels = np.asarray(image)
            expected = [*five_crops(pixels, 35), *five_crops(pixels[:, ::-1], 35)]
            np.testing.assert_array_equal(crops, expected)


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_a_stretched_image_is_all_of_the_image(tmp_path, kind):
    pictures = [_picture(number, 20, 40) for number in range(2)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    # In memory, or from the files.
    source = image_folder(tmp_path, cache_bytes=1 << 20 if kind == "array" else 0)
    settings = {"image_size": 16, "batch_size": 2}
    expected = [picture.resize((16, 16), Image.Resampling.BILINEAR) for picture in pictures]
    expected = np.stack([np.asarray(picture, np.int16) for picture in expected])
    (seen,) = evaluation_dataset(source, **settings, stretch=True).as_numpy_iterator()
    # (Pillow rounds after each axis.)
    assert np.abs(seen["image"] - expected).max() <= 1
    for batch in _batches(source, 2, crop="stretch", horizontal_flip=False, **settings):
        np.testing.assert_array_equal(batch["image"], seen["image"][batch["index"]])
