"""Lists, annotations in XML and JSON, and PU weights that somebody else wrote."""

import io
import json
import warnings

import numpy as np
import pytest
from fuzzing import anything, refused
from hypothesis import example, given
from hypothesis.strategies import from_regex, sampled_from, text
from PIL import Image

from rfd_tf.data import digits, image_list, pu_weights
from rfd_tf.data import given as given_images
from rfd_tf.data.coco import coco_file
from rfd_tf.data.file_list import list_splits
from rfd_tf.data.voc import voc_folder
from rfd_tf.errors import UserError

XML = b"""<annotation><filename>a.png</filename>
<size><width>20</width><height>16</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object></annotation>"""
LAUGHS = b"<!DOCTYPE lolz [<!ENTITY a0 'lol'>%s]>" % b"".join(
    b"<!ENTITY a%d '%s'>" % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 11)
) + XML.replace(b"dog", b"&a10;")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (20, 16)).save(folder / "images" / f"{name}.png")
    (folder / "secret.txt").write_text("a word that is nobody's business")
    return folder


def _external(folder):
    system = f"<!DOCTYPE a [<!ENTITY b SYSTEM '{(folder / 'secret.txt').as_uri()}'>]>".encode()
    return system + XML.replace(b"dog", b"&b;")


def test_entities_are_neither_expanded_nor_fetched(folder):
    path = folder / "annotations" / "a.xml"
    parameter = b"<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/a.dtd'>" + XML
    for content in (LAUGHS, _external(folder), parameter):
        for encoded in (content, b"\xef\xbb\xbf" + content, content.decode().encode("utf-16")):
            path.write_bytes(encoded)
            with pytest.raises(UserError, match="declares a document type or entities") as error:
                voc_folder(folder)
            assert "nobody's business" not in str(error.value)


@given(content=anything(XML, LAUGHS))
@example(content=b"<a>" * 200_000)
@example(content=XML.replace(b"20", b"9" * 400).replace(b"16", b"1e308"))
@example(content=XML.replace(b"a.png", b"a\x01.png"))
@example(content=XML.replace(b"a.png", b"../secret.txt"))
def test_voc_xml(folder, content):
    (folder / "annotations" / "a.xml").write_bytes(content)
    found = refused(lambda: voc_folder(folder))
    if found is not None:
        assert all(image.image.parent == folder / "images" for image in found.images)
        assert all(np.isfinite(image.boxes).all() for image in found.images)


@given(content=anything(b"a\nb\n", b"a 1\nb -1\n"))
def test_voc_lists(folder, content):
    (folder / "annotations" / "a.xml").write_bytes(XML)
    (folder / "annotations" / "b.xml").write_bytes(XML.replace(b"a.png", b"b.png"))
    (folder / "ImageSets" / "Main" / "train.txt").write_bytes(content)
    refused(lambda: voc_folder(folder, "train"))


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 16}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 5, 6], "iscrowd": 0}],
}


def _coco(**changed):
    return json.dumps({**COCO, **changed}).encode()


@given(content=anything(_coco()))
@example(content=b"[" * 100_000)
@example(content=_coco(images=[[1]]))
@example(content=_coco(images=[{**COCO["images"][0], "width": 1e999}]))
@example(content=_coco(images=[{**COCO["images"][0], "id": float("inf")}]))
@example(content=_coco(images=[{**COCO["images"][0], "file_name": "a\0.png"}]))
@example(content=_coco(images=[{**COCO["images"][0], "file_name": "a" * 5000}]))
@example(content=_coco(images=[{**COCO["images"][0], "file_name": "../secret.txt"}]))
@example(content=_coco(images=[{**COCO["images"][0], "width": 10**400}]))
@example(content=_coco(annotations=[{**COCO["annotations"][0], "bbox": [float("nan")] * 4}]))
@example(content=_coco(annotations=[{**COCO["annotations"][0], "bbox": [0, 0, 10**400, 1]}]))
@example(content=_coco(annotations=[3]))
@example(content=_coco(annotations=None))
def test_coco_json(folder, content):
    (folder / "coco.json").write_bytes(content)
    found = refused(lambda: coco_file(folder / "coco.json", folder / "images"))
    if found is not None:
        assert all(image.image.parent == folder / "images" for image in found.images)
        assert all(np.isfinite(image.boxes).all() for image in found.images)


@given(content=anything(b"images/a.png 0\nimages/b.png 1\n", b"images/a.png dog\n/b.png cat\n"))
@example(content=b"images/a.png 99999999999999999999\n")
@example(content=b"images/a.png " + b"9" * 5000)
@example(content=b"images/a\0.png 1\n")
@example(content=b"images 1\n")
@example(content=b"a" * 300 + b" 1\n")
@example(content=b"/dev/zero 1\n")
@example(content="images/a.png 1\u0661\n".encode())
def test_lists_of_images(folder, content):
    (folder / "list.txt").write_bytes(content)
    found = refused(lambda: image_list(folder / "list.txt"))
    if found is not None:
        assert len(found.labels) == found.num_images


TABLE = b'path,label,split\nimages/a.png,dog,train\n"images/b.png",,test\n'
ENTRIES = (
    b'{"path": "images/a.png", "label": 1, "split": "train"}\n{"file": "images/b.png", "x": []}\n'
)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_tables_of_images(folder, ending):
    path = folder / f"list.{ending}"
    good = {"csv": TABLE, "tsv": TABLE.replace(b",", b"\t"), "jsonl": ENTRIES}[ending]

    @given(content=anything(good), split=sampled_from(["all", "train", "test+train", "x"]))
    @example(content=good.replace(b"dog", b"9" * 5000), split="all")
    @example(content=good.replace(b'"label": 1', b'"label": 1e400'), split="all")
    @example(content=good.replace(b'"label": 1', b'"label": "\\ud800"'), split="all")
    @example(content=good.replace(b"a.png", b"a.png" + b"x" * 200_000), split="all")
    @example(content=good.replace(b"images/a.png", b"../secret.txt"), split="train")
    @example(content=good.replace(b"images/a.png", b"/dev/zero"), split="train")
    @example(content=b'"' * 1001 + good, split="all")
    @example(content=b"[" * 100_000 + b"\n" + good, split="all")
    def check(content, split):
        path.write_bytes(content)
        refused(lambda: list_splits(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = refused(lambda: image_list(path, max_skipped=1.0, split=split))
        if found is not None:
            assert found.labels is None or len(found.labels) == found.num_images
            assert not any("\n" in text for pair in found.skipped for text in pair)

    check()


@given(text=text(max_size=40) | from_regex(r"[a-c ,{}~./]{0,12}", fullmatch=True))
@example(text="~nobody/a,b")
@example(text="a\0,b")
@example(text="," * 300)
def test_what_data_names(folder, text):
    place = refused(lambda: given_images.place_of(text))
    if place is not None:
        assert given_images.parts(text) and set(place.values()) == {text}
        refused(lambda: given_images.absolute(text))


SOURCE = digits("test")
WEIGHTS = "".join("0.25\n" for _ in range(4 * SOURCE.num_images)).encode()


def _npz(tmp, **changed):
    file = io.BytesIO()
    values = np.full((297, 4), 0.25)
    pu_weights.write(tmp / "good.npz", values, SOURCE, classifier="softmax", overwrite=True)
    with np.load(tmp / "good.npz") as good:
        np.savez(file, **{**good, **changed})
    return file.getvalue()


@given(content=anything(WEIGHTS))
@example(content=WEIGHTS.replace(b"0.25", b"nan", 2))
@example(content=WEIGHTS.replace(b"0.25", b"1_0", 9))
def test_pu_weights_as_text(folder, content):
    (folder / "prob.dat").write_bytes(content)
    found = refused(lambda: pu_weights.read(folder / "prob.dat", SOURCE))
    if found is not None:
        assert found.shape == (297, 4) and ((found >= 0) & (found <= 1)).all()


class _Runs:
    """Unpickled, it would leave a mark."""

    def __reduce__(self):
        return (open, ("fuzz_was_here", "w"))


def test_pu_weights_as_npz(folder):
    good = _npz(folder)
    pickled = _npz(folder, upright_probability=np.array([_Runs()], object))
    text = _npz(folder, fingerprint=np.array([_Runs()], object))
    vast = good.replace(b"(297, 4)", b"(9999999999999, 4)"[:18])
    odd = [
        pickled, text, vast, good.replace(b"'<f4'", b"'<c8'"), good.replace(b"<f4", b"|O8"),
        _npz(folder, settings=np.array("[" * 100_000)), _npz(folder, fingerprint=np.zeros(3)),
        _npz(folder, upright_probability=np.float32(3)),
        _npz(folder, upright_probability=np.zeros((297, 4), "<M8[s]")),
    ]  # fmt: skip

    @given(content=anything(good))
    def check(content):
        (folder / "pu.npz").write_bytes(content)
        found = refused(lambda: pu_weights.read(folder / "pu.npz", SOURCE))
        if found is not None:
            assert found.shape == (297, 4) and ((found >= 0) & (found <= 1)).all()

    for content in odd:
        check = example(content=content)(check)
    check()
