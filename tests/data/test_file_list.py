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
        ("a/my class/1.png 0\nlonely.png", r"line 2: no file '.*/lonely.png'"),
        ("a/my class/1.png 0\na/x.png 1", r"line 2: no file '.*a/x.png'"),
        ("a/my class/1.png 0\n/gone/x.png 1", r"no file '/gone/x.png', nor '.+/gone/x.png'"),
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
    with pytest.raises(
        UserError, match="list.txt', line 1: label 999999999999; .*such as id999999999999"
    ):
        image_list(folder / "list.txt")


def test_missing_and_binary_lists(folder):
    with pytest.raises(UserError, match="cannot read the image list"):
        image_list(folder / "none.txt")
    (folder / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no text in UTF-8"):
        image_list(folder / "list.txt")


CLASS = "a/my class"


def listed(folder, name, text, **options):
    path = folder / name
    path.write_text(text)
    return image_list(path, cache_bytes=0, **options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", f"id,Label,File Path,PATH\n1,cup,no,{CLASS}/1.png\n\n2,,no,{CLASS}/0.png\n"),
        ("x.csv", f'"path";"label"\n"{CLASS}/1.png";"cup"\n{CLASS}/0.png\n'),
        ("x.tsv", f"filename\tclass\n{CLASS}/1.png\tcup\n{CLASS}/0.png\t\n"),
        ("x.jsonl", f'{{"image": "{CLASS}/1.png", "label": "cup"}}\n{{"image": "{CLASS}/0.png"}}'),
        ("x.txt", f"{CLASS}/1.png\tcup\n{CLASS}/0.png\t\n"),
        ("x.txt", f"{CLASS}/1.png cup\n{CLASS}/0.png\n"),
    ],
)
def test_lists_of_every_kind_with_a_label_missing(folder, name, text):
    source = listed(folder, name, text)
    assert source.names == [f"{CLASS}/1.png", f"{CLASS}/0.png"]
    assert source.labels.tolist() == [0, -1] and source.class_names == ("cup",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", f"path\n{CLASS}/1.png\n"),
        ("x.csv", f"path,label\n{CLASS}/1.png,\n"),
        ("x.jsonl", f'{{"path": "{CLASS}/1.png", "label": null}}\n'),
        ("x.txt", f"{CLASS}/1.png\n"),
    ],
)
def test_lists_without_labels_give_none(folder, name, text):
    source = listed(folder, name, text)
    assert source.labels is None and source.class_names is None and source.num_images == 1


def test_numbers_are_labels_however_programs_write_them(folder):
    text = f"path,label\n{CLASS}/1.png,1.0\n{CLASS}/0.png,\n{CLASS}/2.png,0.0\n"
    source = listed(folder, "x.csv", text)
    assert source.labels.tolist() == [1, -1, 0] and source.class_names is None
    text = f'{{"path": "{CLASS}/1.png", "label": 7}}\n{{"path": "{CLASS}/0.png", "label": 2.0}}\n'
    assert listed(folder, "x.jsonl", text).labels.tolist() == [7, 2]
    # The lists of Places205 are called .csv and are none.
    assert listed(folder, "x.csv", f"{CLASS}/1.png 3\n").labels.tolist() == [3]
    assert listed(folder, "x.txt", "a\\my class\\1.png 3\n").names == [f"{CLASS}/1.png"]


def test_rows_that_cannot_be_used_are_counted_named_and_left_out(folder):
    (folder / "empty.png").touch()
    rows = [
        (f"{CLASS}/0.png", "5"),
        ("", "1"),
        ("gone.png", "2"),
        ("empty.png", "2"),
        (f"{CLASS}/1.png", "-1"),
        (f"{CLASS}/2.png", "cup"),
        (f"{CLASS}/0.png", "5"),
        (f"{CLASS}/0.png", "6"),
        (f"{CLASS}/3.png", "7,8"),
        *((f"{CLASS}/{i}.png", "5") for i in (3,) * 200),
    ]
    text = "path,label\n" + "".join(f"{name},{label}\n" for name, label in rows)
    with pytest.warns(UserWarning, match="200 rows of .* name a file .* line 8, 12, 13, 14, 15, "):
        source = listed(folder, "x.csv", text, max_skipped=0.9)
    assert source.names == [f"{CLASS}/0.png", f"{CLASS}/3.png"] and source.labels.tolist() == [5, 5]
    assert (
        dict(source.skipped)
        == {
            "a row": "line 10: 3 cells under 2 names; quote cells with a ','",
            "gone.png": f"line 4: no file '{folder}/gone.png'",
            "empty.png": "empty file",
            f"{CLASS}/1.png": "line 6: label -1; labels are numbers from 0",
            f"{CLASS}/2.png": "line 7: label 'cup' is no whole number, as the others are",
            f"{CLASS}/0.png": "line 9: label '6', and '5' in line 2",
        }
        and ("a row", "line 3: no path") in source.skipped
    )
    with pytest.raises(UserError, match="x.csv', line 3: no path; line 4: .*: 6 of 209 rows can"):
        listed(folder, "x.csv", text, max_skipped=0.02)
    with pytest.raises(UserError, match="7 of 9 images in '.*/x.csv' cannot .* raise max_skipped"):
        listed(folder, "x.csv", text, max_skipped=0.03)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "a,b\n1,2", "line 1: no column is called path, .*; there are: a, b; begin"),
        ("x.tsv", f"\n{CLASS}/1.png\t3", "line 2: no column is called path"),
        ("x.csv", 'path,label\n"a.png,1\nb.png,2', "line 3: unexpected end of data; quote cells"),
        ("x.csv", 'path\na.png\n"a"b.png\n', "line 3: .*; quote cells as CSV does"),
        ("x.csv", "path,label\n", "names no images"),
        ("x.jsonl", '\n{"file id": 3}', "line 2: no entry is called .*; there are: file id;"),
        ("x.jsonl", "[1]\n{", "line 1: no entry is called path, .* there are: none; write"),
        ("x.jsonl", '{"path": 3}', "line 1: its path is of type int, no text"),
        ("x.jsonl", '{"path": "\\ud800.png"}', "line 1: no valid Unicode"),
        ("x.jsonl", '{"path": "a.png"}\n{"path"', r"line 2: no JSON \(Expecting"),
    ],
)
def test_malformed_lists_are_one_line_with_the_way_out(folder, name, text, message):
    with pytest.raises(UserError, match=message) as error:
        listed(folder, name, text)
    assert str(folder / name) in str(error.value) and "\n" not in str(error.value)
