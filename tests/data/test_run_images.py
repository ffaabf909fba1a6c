"""A run's images: its splits, classes and folders, and which of them it was trained on."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from rfd_tf import data
from rfd_tf.data.run_images import (
    RunImages,
    photo_options,
    shared,
    shared_images,
    warn_if_trained_on,
)
from rfd_tf.errors import UserError


def record(folder, **flags):
    folder.mkdir(exist_ok=True)
    content = {"flags": flags, "identity": {"image_size": 16}}
    (folder / "run.json").write_text(json.dumps(content))
    return RunImages.of_run(folder)


def test_recorded_splits_are_those_of_train_and_test(tmp_path):
    images = record(tmp_path, dataset="digits", train_split="all", eval_split="train")
    train, test = images.evaluation()
    assert (train.name, test.name) == ("digits", "digits/train")


def test_what_is_given_replaces_its_part_and_a_dataset_replaces_all(tmp_path):
    images = record(
        tmp_path,
        dataset="digits",
        train_split="all",
        eval_split="train",
        tfds_dir="there",
        tfds_classes=["cat"],
    )
    one = images.replaced(eval_split="test", train_split=None, tfds_classes=[])
    assert (one.train_split, one.eval_split, one.tfds_classes) == ("all", "test", ("cat",))
    other = images.replaced(dataset="digits")
    assert other == RunImages(dataset="digits", tfds_dir="there")
    folder = images.replaced(data_dir="photos")
    assert folder == RunImages(data_dir="photos", tfds_dir="there")
    both = RunImages(dataset="digits", eval_dir="photos")
    assert both.replaced(eval_split="all").test().name == "digits"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"dataset": "digits", "eval_dir": "x"}, "eval_dir goes with data_dir"),
        ({"data_dir": "x", "eval_split": "test"}, "eval_split goes with a dataset"),
        ({"data_dir": "x", "tfds_classes": ["cat"]}, "tfds_classes goes with a dataset"),
    ],
)
def test_what_does_not_go_together_is_named(given, message):
    with pytest.raises(UserError, match=message):
        RunImages().replaced(**given)


def test_a_folder_without_a_run_records_nothing_and_a_damaged_record_is_named(tmp_path):
    assert RunImages.of_run(tmp_path) == RunImages.of_run("six_layer.rfd_cifar10") == RunImages()
    assert not RunImages().named
    for text in ("{", "[]", '{"flags": 3}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UserError, match=r"run.json' cannot be read"):
            RunImages.of_run(tmp_path)


def test_a_weights_file_has_the_record_of_the_run_folder_that_it_lies_in(tmp_path):
    images = record(tmp_path, dataset="digits", train_split="all")
    (tmp_path / "backbone.weights.h5").touch()
    assert RunImages.of_run(tmp_path / "backbone.weights.h5") == images
    assert RunImages.of_run(tmp_path / "gone.weights.h5") == RunImages()


def test_a_record_that_an_editor_saved_is_read(tmp_path):
    for codec in ("utf-8-sig", "utf-16"):
        (tmp_path / "run.json").write_text('{"flags": {"dataset": "digits"}}', encoding=codec)
        assert RunImages.of_run(tmp_path).dataset == "digits"


def test_recorded_crops_are_made_again_as_they_were(tmp_path):
    flags = {"source_images": ["sklearn:china.jpg"], "source_crops": 5, "source_seed": 3}
    images = record(tmp_path, **flags)
    wanted = data.photo_crops(["sklearn:china.jpg"], num_crops=5, size=16, seed=3)
    assert images.train().fingerprint == wanted.fingerprint
    assert photo_options({"source_size": 7}, 16) == {"size": 7}
    with pytest.raises(UserError, match="give val_data"):
        images.evaluation()


def test_shared_images_of_digits_are_counted():
    every, train, test = (data.digits(split) for split in ("all", "train", "test"))
    assert shared(every.image_ids(), train) == 1500 and shared(every.image_ids(), test) == 297
    assert shared(train.image_ids(), test) == 0
    rows = np.array([0, 7, 1499])
    assert shared(train.subset([7, 8]).image_ids(), every, rows) == 1
    assert shared(train.image_ids(), data.ArraySource(test.images)) == 0


def test_copies_of_unlabelled_training_images_are_counted(tmp_path):
    for place, red in (("flat/a", 0), ("flat/b", 50), ("test/x/a", 0), ("test/y/c", 99)):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (red, 0, 0)).save(path)
    train, test = (data.image_folder(tmp_path / name) for name in ("flat", "test"))
    assert train.labels is None and shared_images(train, test) == 1
    assert shared_images(test, test) == 2


def test_training_images_among_those_evaluated_on_are_reported(tmp_path):
    images = record(tmp_path, dataset="digits", train_split="all")
    with pytest.warns(UserWarning, match="trained on 297 of the 297 test images of 'digits/test'"):
        assert warn_if_trained_on(images, data.digits("test")) == 297
    apart = record(tmp_path, dataset="digits", train_split="train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_if_trained_on(apart, data.digits("test")) == 0
        assert warn_if_trained_on(RunImages(data_dir="gone"), data.digits("test")) == 0


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_files_are_recognised_by_their_paths_through_links(tmp_path, cache_bytes):
    photos = tmp_path / "photos"
    for number in range(6):
        path = photos / ("a" if number < 4 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "x.png").symlink_to(photos / "b" / "5.png")
    (tmp_path / "mounted").symlink_to(photos)
    trained = RunImages(data_dir=str(tmp_path / "mounted"))
    for folder, count in (("photos/a", 4), ("photos", 6), ("links", 1)):
        source = data.image_folder(tmp_path / folder, cache_bytes=cache_bytes)
        assert shared(trained.train_ids(), source) == count
    part = RunImages(data_dir=str(photos / "a")).train_ids()
    assert shared(part, data.image_folder(photos, cache_bytes=cache_bytes)) == 4


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A TFDS dataset with the split train alone, and one with train and validation."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class RunImagesTrainOnly(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        SPLITS = {"train": 12}

        def _info(self):
            box = {"label": tfds.features.ClassLabel(names=["cat", "dog"])}
            features = {
                "image": tfds.features.Image(shape=(8, 8, 3)),
                "label": tfds.features.ClassLabel(names=["ant", "bee"]),
                "objects": tfds.features.Sequence(box),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {name: self._generate_examples(count) for name, count in self.SPLITS.items()}

        def _generate_examples(self, count):
            for number in range(count):
                image = np.full((8, 8, 3), number, np.uint8)
                shown = [{"label": "cat"}] if number % 3 == 0 else []
                yield number, {"image": image, "label": number % 2, "objects": shown}

    class RunImagesValidation(RunImagesTrainOnly):
        SPLITS = {"train": 12, "validation": 6}

    path = str(tmp_path_factory.mktemp("tfds"))
    for builder in (RunImagesTrainOnly, RunImagesValidation):
        builder(data_dir=path).download_and_prepare()
    return path


def test_without_a_test_split_a_part_of_train_is_held_out_with_a_warning(datasets):
    images = RunImages(dataset="run_images_train_only", tfds_dir=datasets, eval_split="test")
    with pytest.warns(UserWarning, match=r"has no split 'test' \(it has: train\)"):
        train, test = images.evaluation()
    assert train.num_images == 12 and test is None
    with pytest.raises(UserError, match="no split 'dev'.*options: train"):
        images.replaced(eval_split="dev").test()
    apart = images.replaced(train_split="train[:75%]", eval_split="train[75%:]")
    train, test = apart.evaluation()
    assert (train.num_images, test.num_images) == (9, 3)
    assert shared(apart.train_ids(), test) == 0 and shared(apart.train_ids(), train) == 9


def test_validation_takes_the_place_of_a_test_split(datasets):
    images = RunImages(dataset="run_images_validation", tfds_dir=datasets)
    with pytest.warns(UserWarning, match="evaluated on 'validation'"):
        assert images.test().num_images == 6


def test_recorded_classes_choose_the_images_of_both_sets(datasets, tmp_path):
    images = record(
        tmp_path,
        dataset="run_images_validation",
        tfds_dir=datasets,
        eval_split="validation",
        tfds_classes=["cat"],
    )
    train, test = images.evaluation()
    assert (train.num_images, test.num_images) == (4, 2)
    whole = images.replaced(dataset="run_images_validation").train()
    assert shared(images.train_ids(), whole) == 4
