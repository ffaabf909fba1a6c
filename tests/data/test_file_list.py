import os

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import image_list, load_images
from rfd_tf.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        (tmp_path / "a" / "my class").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "a" / "my class" / f"{i}.png"
        Image.new("RGB", (8, 8), (i, 50 * i, 255)).save(path)
    return tmp_path


def test_order_labels_and_pixels_follow_the_list(folder):
    lines = ["/a/my class/3.png 7", "", "a/my class/0.png\t2", "a/my class/1.png  0"]
    (folder / "list.txt").write_text("\n".join(lines))
    source = image_list(folder / "list.txt")
    assert source.labels.tolist() == [7, 2, 0] and source.class_names is None
    assert load_images(source, 8)[:, 0, 0, 0].tolist() == [3, 0, 1]
    assert source.name == str(folder / "list.txt")
    (folder / "lists").mkdir()
    (folder / "lists" / "list.txt").write_text(lines[0])
    assert image_list(folder / "lists" / "list.txt", root=folder).labels.tolist() == [7]


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_other_systems(folder, codec):
    """Marks of encodings, line ends, and names in the form of another file system."""
    Image.new("RGB", (8, 8)).save(folder / "caf\u00e9.png")
    lines = "a/my class/3.png 7\r\n\r\ncafe\u0301.png 2\r\n"
    (folder / "list.txt").write_bytes(lines.encode(codec))
    source = image_list(folder / "list.txt")
    assert source.labels.tolist() == [7, 2] and source.names[1] == "caf\u00e9.png"


def test_names_that_are_no_text_are_listed_as_they_are_written(folder):
    os.rename(folder / "a" / "my class" / "0.png", os.fsencode(folder) + b"/\xe9.png")
    (folder / "list.txt").write_text("\\xe9.png 1\na/my class/1.png 0\n")
    assert image_list(folder / "list.txt").names == ["\\xe9.png", "a/my class/1.png"]


def test_names_of_classes_are_numbered(folder):
    (folder / "list.txt").write_text("a/my class/1.png wood\na/my class/0.png sea\n")
    source = image_list(folder / "list.txt", cache_bytes=0)
    assert source.class_names == ("sea", "wood") and source.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(load_images(source, 8)[:, 0, 0, 0], [1, 0])


def test_labels_stay_with_their_files_where_others_are_left_out(folder):
    (folder / "bad.png").write_bytes((folder / "a" / "my class" / "1.png").read_bytes()[:45])
    (folder / "notes.txt").write_text("no image")
    lines = ["notes.txt 3", "a/my class/1.png 1", "bad.png 2", "a/my class/2.png 0"]
    (folder / "list.txt").write_text("\n".join(lines))
    source = image_list(folder / "list.txt", max_skipped=0.5)
    assert source.labels.tolist() == [1, 0]
    assert [name for name, _ in source.skipped] == ["notes.txt", "bad.png"]
    with pytest.raises(UserError, match="bad.png"):
        image_list(folder / "list.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no images"),
        ("a/my class/1.png 0\nlonely.png", r"line 2: 'lonely.png' must be a path and a label"),
        ("a/my class/1.png 0\na/x.png 1", r"line 2: no file '.*a/x.png'"),
        ("a/my class/1.png -1", "label -1"),
    ],
)
def test_bad_lists_are_named(folder, text, message):
    (folder / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        image_list(folder / "list.txt")
    assert str(folder / "list.txt") in str(error.value)


def test_ids_that_are_no_numbers_of_classes_are_refused(folder):
    (folder / "list.txt").write_text("a/my class/1.png 999999999999\n")
    with pytest.raises(UserError, match="list.txt': label 999999999999; .*such as id999999999999"):
        image_list(folder / "list.txt")


def test_missing_and_binary_lists(folder):
    with pytest.raises(UserError, match="cannot read the image list"):
        image_list(folder / "none.txt")
    (folder / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text in UTF-8"):
        image_list(folder / "list.txt")
