"""A TFDS detection dataset becomes files in VOC's layout."""

import numpy as np
import pytest
import tensorflow_datasets

from rfd_tf import data
from rfd_tf.data import voc, voc_tfds
from rfd_tf.errors import UserError


class RfdTestBoxes(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Pictures with boxes, the third without any."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = tensorflow_datasets.features
        objects = features.Sequence(
            {
                "bbox": features.BBoxFeature(),
                "label": features.ClassLabel(names=["dog", "cat"]),
                "is_difficult": np.bool_,
            }
        )
        described = features.FeaturesDict(
            {
                "image": features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "image/filename": features.Text(),
                "objects": objects,
            }
        )
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=described)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            box = tensorflow_datasets.features.BBox(ymin=0.1, xmin=0.25, ymax=0.5, xmax=1.0)
            objects = [{"bbox": box, "label": number % 2, "is_difficult": number == 1}]
            yield (
                number,
                {
                    "image": np.full((20, 40, 3), 60 * number, np.uint8),
                    "image/filename": f"../{count}_{number}.jpg",
                    "objects": objects if number != 2 else [],
                },
            )


def test_pictures_boxes_and_splits_are_written_once(tmp_path):
    RfdTestBoxes(data_dir=tmp_path / "tfds").download_and_prepare()
    folder = tmp_path / "out"
    arguments = "rfd_test_boxes", folder, tmp_path / "tfds"
    assert voc_tfds.unpack(*arguments) == {"train": 3, "test": 2}
    train = voc.voc_folder(folder, "train")
    assert sorted(image.name for image in train.images) == ["4_0", "4_1", "4_3"]
    assert train.class_names == voc.VOC_CLASSES
    by_name = {image.name: image for image in train.images}
    np.testing.assert_allclose(by_name["4_0"].boxes, [[10, 2, 40, 10]], atol=1e-3)
    assert by_name["4_1"].difficult.tolist() == [True]
    assert (by_name["4_3"].width, by_name["4_3"].height) == (40, 20)
    before = (folder / "Annotations" / "4_0.xml").stat().st_mtime_ns
    assert voc_tfds.unpack(*arguments) == {"train": 3, "test": 2}
    assert (folder / "Annotations" / "4_0.xml").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("4_*"))  # nothing beside the folder


def test_archives_that_cannot_be_unpacked_are_an_error(tmp_path):
    with pytest.raises(UserError, match="unknown dataset 'nonesuch'"):
        voc_tfds.unpack("nonesuch", tmp_path, tmp_path)
    with pytest.raises(UserError, match="not prepared.*tfds_download"):
        voc_tfds.unpack("rfd_test_boxes", tmp_path, tmp_path / "empty")


def test_a_source_of_the_pictures_that_show_a_class(tmp_path):
    RfdTestBoxes(data_dir=tmp_path).download_and_prepare()
    whole = data.load("rfd_test_boxes", tfds_dir=tmp_path)
    cats = data.load("rfd_test_boxes", tfds_dir=tmp_path, classes=["cat"])
    # Pictures 1 and 3 show a cat; their shades tell them.
    shades = sorted(int(image.mean()) for image in data.load_images(cats, 8))
    np.testing.assert_allclose(shades, [60, 180], atol=2)
    assert (whole.num_images, cats.num_images, cats.labels) == (4, 2, None)
    assert cats.fingerprint != whole.fingerprint and "cat" in cats.name
    both = data.load("rfd_test_boxes", tfds_dir=tmp_path, classes=["cat", "dog"])
    assert both.num_images == 3, "the picture without objects is left out"


def test_a_class_that_a_source_lacks_is_named(tmp_path):
    RfdTestBoxes(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(UserError, match="unknown class .* 'cow'.*options: dog, cat"):
        data.load("rfd_test_boxes", tfds_dir=tmp_path, classes=["cow"])
    with pytest.raises(UserError, match="tfds_classes"):
        data.load("digits", classes=["cat"])


def test_only_the_objects_of_some_classes_are_written(tmp_path):
    RfdTestBoxes(data_dir=tmp_path / "tfds").download_and_prepare()
    arguments = "rfd_test_boxes", tmp_path / "out", tmp_path / "tfds"
    with pytest.raises(UserError, match="unknown class 'cow'"):
        voc_tfds.unpack(*arguments, class_names=["cow"])
    assert voc_tfds.unpack(*arguments, class_names=["cat"]) == {"train": 2, "test": 1}
    found = voc.voc_folder(tmp_path / "out", "train")
    assert sorted(image.name for image in found.images) == ["4_1", "4_3"]
