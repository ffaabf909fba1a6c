"""Parts of sources: their index, their streams, the files that go bad; and the folds."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import ArraySource, FolderSource, image_folder, load_images, training_dataset
from rfd_tf.data.subset import folds
from rfd_tf.data.tfds_source import RecordSource
from rfd_tf.errors import UserError

COUNT = 23


def pixels_of(number):
    """An image of one colour that tells its number, also after JPEG or resizing."""
    return np.full((20, 20, 3), 10 * number, np.uint8)


def numbers_in(images):
    return np.rint(np.asarray(images, np.float32).mean(axis=(1, 2, 3)) / 10).astype(int)


class Records(RecordSource):
    """What a TFDS split gives, without TFDS: (index, encoded image) pairs."""

    def __init__(self):
        encoded = [tf.io.encode_png(pixels_of(i)).numpy() for i in range(COUNT)]
        self._records = tf.data.Dataset.from_tensor_slices((np.arange(COUNT), encoded))
        described = {"name": "records", "num_images": COUNT, "fingerprint": "records"}
        super().__init__(False, COUNT, [], labels=np.arange(COUNT) % 3, **described)

    def records(self, seed=None, times=None, views=1):
        assert views == 1
        if seed is None:
            return self._records
        single = tf.random.stateless_uniform([], seed, minval=None, maxval=None, dtype=tf.int64)
        records = self._records
        if times is not None:
            records = records.flat_map(
                lambda index, contents: tf.data.Dataset.from_tensors((index, contents)).repeat(
                    tf.cast(tf.gather(times, index), tf.int64)
                )
            )
        return records.shuffle(COUNT, seed=single, reshuffle_each_iteration=False)


@pytest.fixture(params=["array", "folder", "records"])
def source(request, tmp_path):
    if request.param == "array":
        images = np.stack([pixels_of(i) for i in range(COUNT)])
        return ArraySource(images, np.arange(COUNT) % 3, ["a", "b", "c"], "numbers")
    if request.param == "records":
        return Records()
    for i in range(COUNT):
        folder = tmp_path / "abc"[i % 3]
        folder.mkdir(exist_ok=True)
        # Of two sizes, so that the folder stays a folder.
        Image.fromarray(pixels_of(i)).resize((20 + i % 2, 20)).save(folder / f"{i:02}.png")
    found = image_folder(tmp_path)
    assert isinstance(found, FolderSource)
    return found


def test_a_part_holds_its_images_under_a_dense_index(source):
    whole = numbers_in(load_images(source, 20))
    chosen = np.array([0, 2, 3, 11, 17, 22])
    part = source.subset(chosen, "some")
    assert part.name == "some" and part.num_images == 6
    np.testing.assert_array_equal(part.labels, source.labels[chosen])
    if source.names is not None:
        assert list(part.names) == [source.names[i] for i in chosen]
    np.testing.assert_array_equal(numbers_in(load_images(part, 20)), whole[chosen])

    seen = []
    for batch in training_dataset(
        part, image_size=20, batch_size=3, seed=0, crop="none", horizontal_flip=False
    ).take(4):
        index = batch["index"].numpy()
        np.testing.assert_array_equal(numbers_in(batch["image"]), whole[chosen[index]])
        seen.extend(index)
    # Two epochs of two steps: every image twice.
    assert sorted(seen) == sorted([*range(6)] * 2)


def test_an_order_of_a_part_is_followed(source):
    part = source.subset([2, 3, 11, 22])
    plain = {"crop": "none", "horizontal_flip": False, "order": np.array([3, 0, 3, 3, 1, 0])}
    batches = list(training_dataset(part, image_size=20, batch_size=3, seed=0, **plain))
    seen = np.concatenate([batch["index"].numpy() for batch in batches])
    assert sorted(seen) == [0, 0, 1, 3, 3, 3]
    shown = numbers_in(np.concatenate([batch["image"].numpy() for batch in batches]))
    whole = numbers_in(load_images(source, 20))
    np.testing.assert_array_equal(shown, whole[np.array([2, 3, 11, 22])[seen]])


def test_fingerprints_tell_parts_apart():
    source = ArraySource(np.zeros((5, 4, 4, 3), np.uint8))
    prints = {source.subset(rows).fingerprint for rows in ([0, 1], [0, 2], [0, 1, 2])}
    assert len(prints | {source.fingerprint}) == 4
    assert source.subset([0, 2]).fingerprint in prints


def test_the_whole_hears_of_files_that_go_bad(tmp_path):
    for i in range(8):
        Image.fromarray(pixels_of(i)).resize((20 + i % 2, 20)).save(tmp_path / f"{i}.png")
    source = image_folder(tmp_path)
    part = source.subset([1, 4, 5, 7])
    (tmp_path / "5.png").unlink()
    batches = training_dataset(part, image_size=20, batch_size=4, seed=0)
    assert 2 not in next(iter(batches))["index"].numpy()
    assert [name for name, _ in part.failed_while_reading()] == ["5.png"]
    assert [name for name, _ in source.failed_while_reading()] == ["5.png"]


@pytest.mark.parametrize("indices", [[], [3, 2], [1, 1], [-1, 2], [0, 5], [[0]]])
def test_refuses(indices):
    with pytest.raises(UserError, match="part of 'array'"):
        ArraySource(np.zeros((5, 4, 4, 3), np.uint8)).subset(indices)


@pytest.mark.parametrize("count, number", [(2, 2), (10, 3), (1797, 5)])
def test_folds_are_balanced_and_scattered(count, number):
    fold = folds(count, number)
    sizes = np.bincount(fold, minlength=number)
    assert sizes.max() - sizes.min() <= 1 and sizes.min() > 0
    if count > 100:
        # No neighbour, and no class in sorted folders, goes into one fold.
        assert all(np.bincount(part, minlength=number).min() > 0 for part in np.split(fold, 3))


def test_folds_refused():
    for number, message in ((1, "folds=2"), (0, "folds=2"), (11, "folds=10 or fewer")):
        with pytest.raises(UserError, match=message):
            folds(10, number)
