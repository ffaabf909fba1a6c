"""Boxes in COCO's layout, against pycocotools, and every fault by the name of its file."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data.coco import coco_file
from rfd_tf.errors import UserError

CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 3, "file_name": "b.png", "width": 10, "height": 30},
        {"id": 5, "file_name": "c.png", "width": 10, "height": 10},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}, {"id": 1, "name": "man"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 10.5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        {"id": 3, "image_id": 3, "category_id": 17, "bbox": [0, 0, 10, 30.4], "iscrowd": 0},
    ],
}


@pytest.fixture
def write(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{name}.png")

    def written(change=lambda content: None):
        content = copy.deepcopy(CONTENT)
        change(content)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path, tmp_path

    return written


def test_boxes_are_those_that_pycocotools_reads(write):
    from pycocotools.coco import COCO

    path, folder = write()
    found = coco_file(path, folder)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(path))
    assert [image.name for image in found.images] == ["a", "b"], "c shows no object"
    for image in found.images:
        (number,) = [
            one["id"] for one in known.dataset["images"] if one["file_name"][0] == image.name
        ]
        expected = known.loadAnns(known.getAnnIds(imgIds=number))
        left, top, right, bottom = image.boxes.T
        boxes = np.stack([left, top, right - left, bottom - top], axis=1)
        size = [image.width, image.height] * 2
        cut = np.minimum([one["bbox"] for one in expected], size)
        np.testing.assert_allclose(boxes, cut)
        names = [known.cats[one["category_id"]]["name"] for one in expected]
        assert [found.class_names[label] for label in image.labels] == names
        assert image.difficult.tolist() == [bool(one["iscrowd"]) for one in expected]


def test_classes_may_be_chosen(write):
    found = coco_file(*write(), class_names=["cat", "dog"])
    assert found.class_names == ("cat", "dog")
    assert [image.labels.tolist() for image in found.images] == [[1], [0]]
    with pytest.raises(UserError, match="unknown class 'cow'; options: cat, dog, man"):
        coco_file(*write(), class_names=["cow"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "no COCO annotation file.*'annotations'"),
        (lambda c: c["annotations"].clear(), "holds no box"),
        (lambda c: c["annotations"][0].pop("bbox"), "'a.png'.*bbox"),
        (lambda c: c["annotations"][0].update(bbox=[30, 3, 20, 4]), "box of 'a.png'.*40 x 20"),
        (lambda c: c["annotations"][0].update(bbox=[3, 3, 0, 4]), "box of 'a.png'.*empty"),
        (lambda c: c["images"][0].update(file_name="no.png"), "no picture .*no.png"),
        (lambda c: c["images"][0].update(file_name="../a.png"), "no file name"),
    ],
)
def test_faults_are_named(write, change, message):
    with pytest.raises(UserError, match=f"instances.json.*{message}|{message}"):
        coco_file(*write(change))


def test_what_is_no_coco_file_is_named(tmp_path):
    path = tmp_path / "x.json"
    for text, message in (("{", "no JSON"), ("[]", "holds a list"), (None, "cannot read")):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(UserError, match=message):
            coco_file(path, tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        coco_file(path, tmp_path / "none")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_json(write, codec):
    path, folder = write(lambda content: content["categories"][0].update(name="cafe\u0301"))
    text = json.dumps(json.loads(path.read_text()), ensure_ascii=False)
    path.write_bytes(text.encode(codec))
    assert coco_file(path, folder, ["caf\u00e9"]).class_names == ("caf\u00e9",)
    path.write_bytes(text.replace("dog", "\xe9").encode("latin-1", "replace") + b"\xe9")
    with pytest.raises(UserError, match="instances.json' cannot be read as text: .* in UTF-8"):
        coco_file(path, folder)
