"""Annotations in VOC's layout: what is read, and every fault by the name of its file."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import image_files, voc
from rfd_tf.errors import UserError

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>"
    "<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def xml(*objects, size=(20, 10)):
    body = "".join(
        OBJECT.format(*box, name=name, difficult=int(difficult)) for name, box, difficult in objects
    )
    return (
        f"<annotation><filename>x.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size>{body}</annotation>"
    )


@pytest.fixture
def folder(tmp_path):
    """A small development kit: four pictures, three of them listed."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    annotations = {
        "a": [("dog", (1, 1, 20, 10), False)],
        "b": [("cat", (2, 3, 5, 6), False), ("dog", (1, 1, 4, 4), True)],
        "c": [("cat", (2, 3, 5, 6), True)],
        "d": [("dog", (2, 3, 5, 6), False)],
    }
    for name, objects in annotations.items():
        Image.new("RGB", (20, 10)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml(*objects))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb  1\n\nc -1\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("d\n")
    return tmp_path


def test_boxes_classes_and_presence_are_read(folder):
    read = voc.voc_folder(folder, "train")
    assert [image.name for image in read.images] == ["a", "b", "c"]
    assert read.class_names == voc.VOC_CLASSES
    dog, cat = voc.VOC_CLASSES.index("dog"), voc.VOC_CLASSES.index("cat")
    whole, second, _ = read.images
    np.testing.assert_array_equal(whole.boxes, [[0, 0, 20, 10]])  # 1-based, corners included
    np.testing.assert_array_equal(second.boxes[0], [1, 2, 5, 6])
    assert second.labels.tolist() == [cat, dog] and second.difficult.tolist() == [False, True]
    assert (whole.width, whole.height) == (20, 10)
    clear, unclear = read.presence()
    assert clear[:, dog].tolist() == [True, False, False]
    assert clear[:, cat].tolist() == [False, True, False]
    assert unclear[:, cat].tolist() == [False, False, True] and unclear[1, dog]


def test_other_classes_and_the_plain_layout(folder):
    (folder / "JPEGImages").rename(folder / "images")
    (folder / "Annotations").rename(folder / "annotations")
    (folder / "annotations" / "a.xml").write_text(xml(("raccoon", (1, 1, 9, 9), False)))
    read = voc.voc_folder(folder)
    assert len(read.images) == 4 and read.class_names == ("cat", "dog", "raccoon")
    train, test = voc.split_by_name(read, 0.25)
    assert len(train.images) == 3 and len(test.images) == 1
    assert not {i.name for i in train.images} & {i.name for i in test.images}
    again, _ = voc.split_by_name(voc.VocSet("x", read.images[::-1], read.class_names), 0.25)
    assert [i.name for i in again.images] == [i.name for i in train.images]


def test_train_and_test_have_the_same_classes(folder):
    train, test = voc.train_and_test(folder, "train", "test")
    assert len(train.images) == 3 and len(test.images) == 1
    (folder / "Annotations" / "d.xml").write_text(xml(("lynx", (1, 1, 9, 9), False)))
    with pytest.raises(UserError, match="classes differ") as error:
        voc.train_and_test(folder, "train", "test")
    message = str(error.value)
    assert "/train' has cat ('b.xml'), dog ('a.xml'); only '" in message
    assert message.endswith("/test' has lynx ('d.xml')")
    with pytest.raises(UserError, match="both splits, or neither"):
        voc.train_and_test(folder, "train")


def test_masks(folder):
    (folder / "SegmentationClass").mkdir()
    (folder / "ImageSets/Segmentation").mkdir()
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")
    with pytest.raises(UserError, match="no mask '.*a.png'"):
        voc.voc_folder(folder, "val", masks=True)
    Image.new("P", (20, 10)).save(folder / "SegmentationClass" / "a.png")
    (image,) = voc.voc_folder(folder, "val", masks=True).images
    assert image.mask.name == "a.png" and image.image.name == "a.jpg" and len(image.boxes) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(), "a.xml' holds no object"),
        (xml(("dog", (5, 5, 4, 9), False)), "a.xml': the box of 'dog' is empty"),
        (xml(("dog", (0, 0, 0, 5), False)), "a.xml': the box of 'dog' is empty"),
        (xml(("dog", (5, 5, 21, 9), False)), "leaves the picture of 20 x 10"),
        (xml(("dog", ("x", 5, 6, 9), False)), "bndbox/xmin is 'x'"),
        (xml(("dog", ("nan", 5, 6, 9), False)), "bndbox/xmin is 'nan'"),
        (xml(("", (1, 1, 2, 2), False)), "an object without a name"),
        (xml(("dog", (1, 1, 2, 2), False), size=(0, 10)), "size as 0 x 10"),
        ("<annotation><object>", "a.xml' cannot be read as XML"),
        (
            '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
            "declares a document type or entities",
        ),
        (
            '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>',
            "declares a document type or entities",
        ),
    ],
)
def test_faults_of_an_annotation_name_the_file(folder, text, message):
    (folder / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match=message):
        voc.voc_folder(folder, "train")


def test_what_is_missing_is_named(folder):
    with pytest.raises(UserError, match="unknown class 'dog'.*options: cat"):
        voc.voc_folder(folder, "train", class_names=["cat"])
    with pytest.raises(UserError, match="no list '.*val.txt'; there are test, train"):
        voc.voc_folder(folder, "val")
    (folder / "ImageSets/Main/bad.txt").write_text("../../a\n")
    with pytest.raises(UserError, match="names '../../a', which is no file name"):
        voc.voc_folder(folder, "bad")
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match="no picture of 'b'"):
        voc.voc_folder(folder, "train")
    (folder / "Annotations" / "c.xml").unlink()
    with pytest.raises(UserError, match="no annotation '.*c.xml'"):
        voc.voc_folder(folder, "train")
    with pytest.raises(UserError, match="no such folder"):
        voc.voc_folder(folder / "gone")
    with pytest.raises(UserError, match="no folder of pictures: JPEGImages or images"):
        voc.voc_folder(folder / "ImageSets")


STORED = np.zeros((10, 20, 3), np.uint8)
STORED[2:5, 11:18] = 255
BOX = np.array([[11, 2, 18, 5]], np.float32)


def _oriented(folder, kind, code, pixels=STORED):
    """Writes a picture whose one bright rectangle lies at `BOX` of the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = code
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
    path = folder / f"{kind}_{code}"
    Image.fromarray(pixels).save(path, kind, exif=exif, **options.get(kind, {}))
    return path


def _annotated(path, size, boxes=BOX, mask=None):
    labels = np.zeros(len(boxes), np.int64)
    return voc.VocImage("x", path, *size, boxes, labels, labels.astype(bool), mask)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("code", range(1, 9))
def test_boxes_of_stored_pixels_are_rotated_with_their_picture(tmp_path, kind, code):
    path = _oriented(tmp_path, kind, code)
    pixels = image_files.read_rgb(path)
    seen = voc.upright(_annotated(path, (20, 10)))
    assert (seen.height, seen.width) == pixels.shape[:2]
    ((left, top, right, bottom),) = seen.boxes.astype(int)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(pixels[..., 0] > 127, inside)
    # Given for the picture as it is seen, they stay; a second call changes nothing either.
    if code >= 5:
        assert voc.upright(seen) is seen
        with pytest.raises(UserError, match="20 x 10 pixels, but its annotation says 10 x 21"):
            voc.upright(_annotated(path, (10, 21)))


@pytest.mark.parametrize("code", range(1, 9))
def test_a_mask_is_rotated_with_its_picture_where_it_has_the_stored_size(tmp_path, code):
    path = _oriented(tmp_path, "JPEG", code)
    image, pixels = _annotated(path, (0, 0)), image_files.read_rgb(path)
    mask = (STORED[..., 0] > 127).astype(np.uint8)
    seen = voc.upright_mask(mask, image)
    np.testing.assert_array_equal(seen == 1, pixels[..., 0] > 127)
    if code >= 5:
        np.testing.assert_array_equal(voc.upright_mask(seen, image), seen)
    with pytest.raises(UserError, match="the mask .* is 9 x 10 pixels, its image"):
        voc.upright_mask(mask[:, :9], image)


def test_pictures_of_every_format_are_found(folder):
    (folder / "JPEGImages" / "a.jpg").unlink()
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "a.webp")
    (folder / "JPEGImages" / "d.jpg").unlink()
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "d.TIF")
    names = [image.image.name for image in voc.voc_folder(folder).images]
    assert names == ["a.webp", "b.jpg", "c.jpg", "d.TIF"]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "latin-1", "gbk"])
def test_annotations_and_lists_in_other_encodings(folder, codec):
    """A byte order mark, or the encoding that the annotation declares."""
    name = "数" if codec == "gbk" else "caf\u00e9"
    text = xml((name, (1, 1, 20, 10), False))
    if codec in ("latin-1", "gbk"):
        text = f"<?xml version='1.0' encoding='{codec}'?>\n{text}"
    (folder / "Annotations" / "d.xml").write_bytes(text.replace("\n", "\r\n").encode(codec))
    read = voc.voc_folder(folder, "test")
    assert read.class_names == (name,)
    (folder / "ImageSets/Main/test.txt").write_bytes("d\r\n".encode("utf-16"))
    assert len(voc.voc_folder(folder, "test").images) == 1
    (folder / "ImageSets/Main/test.txt").write_bytes("d\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="the list '.*test.txt' .*no text in UTF-8"):
        voc.voc_folder(folder, "test")


def test_hidden_files_of_macos_are_no_annotations(folder):
    (folder / "Annotations" / "._a.xml").write_bytes(b"\0\5\x16\7")
    assert len(voc.voc_folder(folder).images) == 4


def test_classes_in_either_unicode_form_are_one(folder):
    for name, label in (("a", "cafe\u0301"), ("d", "caf\u00e9")):
        text = xml((label, (1, 1, 20, 10), False))
        (folder / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    (folder / "ImageSets/Main/train.txt").write_text("a\n")
    train, test = voc.train_and_test(folder, "train", "test")
    assert train.class_names == test.class_names == ("caf\u00e9",)


def test_pictures_are_found_in_the_form_of_another_file_system(folder):
    (folder / "JPEGImages" / "d.jpg").rename(folder / "JPEGImages" / "caf\u00e9.jpg")
    text = xml(("dog", (1, 1, 20, 10), False)).replace("x.jpg", "cafe\u0301.jpg")
    (folder / "Annotations" / "d.xml").write_text(text, encoding="utf-8")
    assert voc.voc_folder(folder, "test").images[0].image.name == "caf\u00e9.jpg"


@pytest.mark.parametrize("masks", [False, True])
def test_lists_name_files_in_any_form(folder, masks):
    odd = os.fsdecode(b"caf\xe9")
    (folder / "SegmentationClass").mkdir()
    (folder / "ImageSets/Segmentation").mkdir()
    names = ["cafe\u0301", "my photo", "my photo 1", odd]
    for name in names:
        shutil.copy(folder / "JPEGImages" / "a.jpg", folder / "JPEGImages" / f"{name}.jpg")
        Image.new("P", (20, 10)).save(folder / "SegmentationClass" / f"{name}.png")
        text = xml(("dog", (1, 1, 20, 10), False))
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    kind = "Segmentation" if masks else "Main"
    path = folder / "ImageSets" / kind / "cafe\u0301.txt"
    path.write_text("caf\u00e9\nmy photo\nmy photo -1\nmy photo 1\ncaf\\xe9  1\n", "utf-8")
    found = voc.voc_folder(folder, "caf\u00e9", masks=masks).images
    stems = [names[0], "my photo", "my photo", "my photo 1", odd]
    assert [image.image.stem for image in found] == stems
    path.write_text("her photo  1\n")
    with pytest.raises(UserError, match=r"her photo\.(xml|png)' of a picture that is listed"):
        voc.voc_folder(folder, "cafe\u0301", masks=masks)
