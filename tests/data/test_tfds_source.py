"""TFDS datasets, with small ones prepared on the spot in several files."""

import itertools
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import (
    ArraySource,
    TfdsSource,
    evaluation_dataset,
    load,
    load_images,
    tfds,
    training_dataset,
)
from rfd_tf.errors import UserError

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

COUNT = 53


def _pixels(number, height, width, channels=3):
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), np.uint8)


class RfdTestImages(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Images of one size, with labels."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    SHAPE = (12, 12, 3)

    def _info(self):
        features = tensorflow_datasets.features.FeaturesDict(
            {
                "image": tensorflow_datasets.features.Image(shape=self.SHAPE),
                "label": tensorflow_datasets.features.ClassLabel(names=["ant", "bee", "cow"]),
                "number": np.int64,
            }
        )
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(COUNT), "test": self._generate_examples(5)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"image": self._image(number), "label": number % 3, "number": number}

    def _image(self, number):
        return _pixels(number, *self.SHAPE)


class RfdTestPhotos(RfdTestImages):
    """Images of all sizes, as JPEG."""

    SHAPE = (None, None, 3)

    def _info(self):
        features = tensorflow_datasets.features.FeaturesDict(
            {"photo": tensorflow_datasets.features.Image(shape=self.SHAPE, encoding_format="jpeg")}
        )
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"photo": _pixels(number, 20 + number, 30)}


class RfdTestTransparent(RfdTestImages):
    """Images with an alpha channel."""

    SHAPE = (12, 12, 4)


class RfdTestNumbers(RfdTestImages):
    """No images."""

    def _info(self):
        features = tensorflow_datasets.features.FeaturesDict({"number": np.int64})
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"number": number}


BUILDERS = (RfdTestImages, RfdTestPhotos, RfdTestTransparent, RfdTestNumbers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tfds"))
    config = tensorflow_datasets.download.DownloadConfig(num_shards=4)
    for builder in BUILDERS:
        builder(data_dir=path).download_and_prepare(download_config=config)
    return path


@pytest.fixture(scope="module")
def truth(folder):
    """What TFDS itself says: per TFDS id in order, the image, the label and the number."""
    config = tensorflow_datasets.ReadConfig(add_tfds_id=True)
    dataset = RfdTestImages(data_dir=folder).as_dataset(split="train", read_config=config)
    examples = sorted(dataset.as_numpy_iterator(), key=lambda example: _place(example["tfds_id"]))
    assert _place(examples[-1]["tfds_id"])[0] == 3
    return examples


def _place(tfds_id):
    found = re.search(r"-(\d+)-of-\d+__(\d+)$", tfds_id.decode())
    return int(found[1]), int(found[2])


def _batches(source, count, **arguments):
    settings = {"image_size": 12, "batch_size": 8, "seed": 3, "crop": "none"} | arguments
    dataset = training_dataset(source, **settings)
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_the_index_is_the_tfds_id_counted_over_the_files(folder, truth, cache_bytes):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=cache_bytes)
    assert isinstance(source, ArraySource if cache_bytes else TfdsSource)
    assert source.num_images == COUNT and source.class_names == ("ant", "bee", "cow")
    np.testing.assert_array_equal(load_images(source, 12), [one["image"] for one in truth])
    np.testing.assert_array_equal(source.labels, [one["label"] for one in truth])
    assert source.labels.dtype == np.int64


def test_kept_in_memory_or_not_the_set_is_the_same(folder):
    kept = tfds("rfd_test_images", tfds_dir=folder)
    streamed = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=COUNT * 12 * 12 * 3 - 1)
    assert isinstance(streamed, TfdsSource)
    assert kept.fingerprint == streamed.fingerprint and kept.name == streamed.name
    assert kept.fingerprint != tfds("rfd_test_images", "test", tfds_dir=folder).fingerprint


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
@pytest.mark.parametrize(
    "split,part", [("train[:50%]", slice(0, 26)), ("train[9:40]", slice(9, 40))]
)
def test_a_part_of_a_split_counts_from_its_own_start(folder, truth, split, part, cache_bytes):
    source = tfds("rfd_test_images", split, tfds_dir=folder, cache_bytes=cache_bytes)
    expected = truth[part]
    assert source.num_images == len(expected)
    np.testing.assert_array_equal(load_images(source, 12), [one["image"] for one in expected])
    np.testing.assert_array_equal(source.labels, [one["label"] for one in expected])


def test_splits_can_be_joined(folder):
    source = tfds("rfd_test_images", "train+test", tfds_dir=folder, cache_bytes=0)
    assert source.num_images == COUNT + 5
    train = tfds("rfd_test_images", "train", tfds_dir=folder)
    np.testing.assert_array_equal(load_images(source, 12)[:COUNT], train.images)


@pytest.mark.parametrize("settings", [{}, {"crop": "resized"}])
def test_a_stream_is_shuffled_and_keeps_the_index(folder, truth, settings):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=0)
    batches = _batches(source, 12, horizontal_flip=False, **settings)
    epochs = [np.concatenate([one["index"] for one in batches[i : i + 6]]) for i in (0, 6)]
    for epoch in epochs:
        assert len(set(epoch)) == 48 and set(epoch) <= set(range(COUNT))
        assert abs(np.corrcoef(epoch, np.arange(48))[0, 1]) < 0.5
    assert (epochs[0] != epochs[1]).any()
    if not settings:
        for batch in batches:
            expected = [truth[index]["image"] for index in batch["index"]]
            np.testing.assert_array_equal(batch["image"], expected)


def test_one_file_is_shuffled_too(folder):
    source = tfds("rfd_test_images", "train[:10]", tfds_dir=folder, cache_bytes=0)
    first, second = (batch["index"] for batch in _batches(source, 2, batch_size=10))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != list(range(10)) and (first != second).any()


def test_a_stream_can_be_entered_at_any_step_and_divided(folder):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=0)
    whole = _batches(source, 9, crop="resized")
    for worker, start in enumerate((2, 7)):
        later = _batches(source, 9 - start, crop="resized", start_step=start, shard=(worker, 2))
        for half, both in zip(later, whole[start:], strict=True):
            for key in ("index", "image"):
                np.testing.assert_array_equal(half[key], both[key][4 * worker : 4 * worker + 4])


@pytest.mark.parametrize("part", [False, True])
def test_separate_views_of_records_are_shuffled_over_an_epoch(folder, part):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=0)
    if part:
        source = source.subset(np.arange(3, 43, 2))
    count = source.num_images
    settings = {"views": 4, "batch_size": 4, "horizontal_flip": False}
    batches = _batches(source, count, **settings)
    pairs = [pair for b in batches for pair in zip(b["index"], b["view"], strict=True)]
    assert sorted(pairs) == [(index, view) for index in range(count) for view in range(4)]
    assert np.mean([len(set(b["index"].tolist())) for b in batches]) > 2.5
    images = load_images(source, 12)
    np.testing.assert_array_equal(batches[5]["image"], images[batches[5]["index"]])
    right = _batches(source, 2, shard=(1, 2), start_step=5, **settings)
    for key in ("image", "index", "view"):
        np.testing.assert_array_equal(right[1][key], batches[6][key][2:])


def test_images_come_as_often_as_they_stand_in_an_order(folder, truth):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=0)
    order = np.array([5] * 9 + [50] * 2 + [0] + [1] * 4)
    options = {"crop": "none", "horizontal_flip": False}
    batches = _batches(source, 9, start_step=3, order=order, **options)
    assert len(batches) == 2
    index = np.concatenate([batch["index"] for batch in batches])
    assert sorted(index) == sorted(order) and list(index) != sorted(index)
    pixels = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_array_equal(pixels, np.stack([truth[i]["image"] for i in index]))
    later = _batches(source, 9, start_step=5, order=order, **options)
    assert [list(batch["index"]) for batch in later] != [list(batch["index"]) for batch in batches]


def test_images_of_all_sizes_stream(folder):
    source = load("rfd_test_photos", tfds_dir=folder)
    assert isinstance(source, TfdsSource) and source.labels is None
    assert len(load_images(source, 16)) == COUNT
    batch = _batches(source, 1, image_size=16, crop="resized")[0]
    assert batch["image"].shape == (8, 16, 16, 3)
    sizes = [
        len(batch["index"]) for batch in evaluation_dataset(source, image_size=8, batch_size=50)
    ]
    assert sizes == [50, 3]


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_what_is_transparent_turns_white(folder, cache_bytes):
    source = tfds("rfd_test_transparent", tfds_dir=folder, cache_bytes=cache_bytes)
    images = load_images(source, 12).astype(float)
    dataset = RfdTestTransparent(data_dir=folder).as_dataset(split="train")
    truth = np.array([one["image"] for one in dataset.as_numpy_iterator()]).astype(float)
    alpha = truth[..., 3:] / 255
    expected = truth[..., :3] * alpha + 255 * (1 - alpha)
    # TFDS gives its own order here: each image is to be found again in the other set.
    for image in images:
        assert np.abs(expected - image).max(axis=(1, 2, 3)).min() <= 1


def test_a_broken_record_is_replaced_and_remembered(folder):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=0)
    records = source.records

    def with_a_broken_one(*arguments):
        return records(*arguments).map(lambda i, image: (i, tf.where(i == 7, b"\x89PNG no", image)))

    source.records = with_a_broken_one
    indices = np.concatenate([batch["index"] for batch in _batches(source, 18)])
    assert 7 not in indices and len(indices) == 18 * 8
    assert source.failed_while_reading() == [("7", "cannot be decoded")]


def test_missing_splits_and_features_are_reported(folder, tmp_path):
    with pytest.raises(UserError, match="not prepared in '.*tfds_dir.*tfds_download"):
        tfds("rfd_test_images", tfds_dir=str(tmp_path))
    with pytest.raises(UserError, match="unknown dataset 'rfd_test_imagez' .did you mean"):
        load("rfd_test_imagez", tfds_dir=folder)
    with pytest.raises(UserError, match="no split 'validation'.*options: t.*, t.*"):
        tfds("rfd_test_images", "validation", tfds_dir=folder)
    with pytest.raises(UserError, match="no image feature; it has: number"):
        tfds("rfd_test_numbers", tfds_dir=folder)
    with pytest.raises(UserError, match="holds no images"):
        tfds("rfd_test_images", "train[:0]", tfds_dir=folder)


def test_download_prepares(tmp_path):
    source = tfds("rfd_test_images", "test", tfds_dir=str(tmp_path), download=True)
    assert source.num_images == 5


def test_a_stream_in_a_given_order_can_be_entered_at_any_step(folder):
    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=0)
    order = np.random.default_rng(0).integers(0, source.num_images, 5 * 8)
    whole = _batches(source, 9, start_step=10, order=order)
    for start in (11, 14):
        later = _batches(source, 9, start_step=start, order=order, order_step=10)
        assert len(later) == 15 - start
        for one, other in zip(later, whole[start - 10 :], strict=True):
            for key in ("index", "image"):
                np.testing.assert_array_equal(one[key], other[key])
    with pytest.raises(UserError, match="start_step 15 must lie in the order's steps, 10 to 14"):
        _batches(source, 9, start_step=15, order=order, order_step=10)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_deepcluster_resumes_within_an_epoch_bit_for_bit(folder, cache_bytes, tmp_path):
    from rfd_tf import applications, methods
    from rfd_tf.training import checkpoint
    from rfd_tf.training.pretraining import Optimization, Pretraining

    source = tfds("rfd_test_images", tfds_dir=folder, cache_bytes=cache_bytes)

    def backbone():
        """The first blocks of a network: tests that train mostly wait for its graph."""
        whole = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
        return keras.Model(whole.input, whole.get_layer("block2").output)

    def session():
        return Pretraining(
            build_backbone=backbone,
            build_method=lambda backbone: methods.DeepCluster(
                backbone, source.num_images, num_clusters=4
            ),
            source=source,
            image_size=16,
            optimization=Optimization(epochs=2, batch_size=8, steps_per_epoch=4),
        )

    path = tmp_path / "c.npz"

    class SaveAfter(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == 6:
                checkpoint.save(path, straight.method, straight.optimizer, {"step": 6})

    straight, resumed = session(), session()
    straight.train(callbacks=[SaveAfter()])
    checkpoint.load(path, resumed.method, resumed.optimizer)
    resumed.train(start_step=6)
    for one, other in zip(
        checkpoint.snapshot(straight.method, straight.optimizer),
        checkpoint.snapshot(resumed.method, resumed.optimizer),
        strict=True,
    ):
        np.testing.assert_array_equal(one[1], other[1], one[0])


def _shards(folder):
    return sorted((Path(folder) / "rfd_test_images" / "1.0.0").glob("*train*tfrecord*"))


def _cut(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


DAMAGE = {
    "cut off": lambda path: _cut(path, path.stat().st_size // 2),
    "without content": lambda path: _cut(path, 0),
    "a record less": lambda path: _cut(path, _second(path)),
    "missing": lambda path: path.unlink(),
    "other bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
}


def _second(path):
    return 12 + int.from_bytes(path.read_bytes()[:8], "little") + 4


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_missing_record_files_are_named(folder, tmp_path, damage, cache_bytes):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    DAMAGE[damage](_shards(tmp_path)[1])
    with pytest.raises(UserError) as error:
        tfds("rfd_test_images", tfds_dir=str(tmp_path), cache_bytes=cache_bytes)
    message = str(error.value)
    assert f"'{_shards(folder)[1].name}'" in message.replace(f"'{tmp_path}/", "'").replace(
        "rfd_test_images/1.0.0/", ""
    )
    assert "tfds_download" in message and "\n" not in message
    # Splits that need no such file are still of use.
    assert tfds("rfd_test_images", "test", str(tmp_path)).num_images == 5


def test_content_that_changed_is_named_when_it_is_read(folder, tmp_path):
    """Lengths are right: only the checksum tells."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with open(_shards(tmp_path)[2], "r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2\3")
    with pytest.raises(UserError, match="-00002-of-00004' is damaged: corrupted record at"):
        tfds("rfd_test_images", tfds_dir=str(tmp_path))
    source = tfds("rfd_test_images", tfds_dir=str(tmp_path), cache_bytes=0)
    for read in (lambda: source.labels, lambda: load_images(source, 12)):
        with pytest.raises(UserError, match="-00002-of-00004' is damaged"):
            read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("dataset_info.json", "{", "dataset_info.json' is damaged"),
     ("dataset_info.json", "", "dataset_info.json' is damaged"),
     ("dataset_info.json", "[]", "dataset_info.json' is damaged"),
     ("dataset_info.json", None, "has no dataset_info.json")],
)  # fmt: skip
def test_damaged_and_missing_descriptions_are_named(folder, tmp_path, name, content, message):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "rfd_test_images" / "1.0.0" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=f"{message}.*tfds_download"):
        tfds("rfd_test_images", tfds_dir=str(tmp_path))
