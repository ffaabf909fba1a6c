"""Several folders as one set, lists of images to train on, and which of them `data` names."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfd_tf.config import PretrainConfig
from rfd_tf.data import copies, given, image_folder, image_list, load, load_images
from rfd_tf.data.run_images import RunImages, shared
from rfd_tf.errors import UserError
from rfd_tf.training import image_list as names_of_run


def fill(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (number, 200 - number, 7)).save(path)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders `a` and `more/b,c` with the class dog in common, as paths relative to here."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "a", "cat/1.png", "dog/1.png", "dog/2.png")
    fill(tmp_path / "more" / "b,c", "dog/1.png", "elk/1.png")
    return tmp_path


# -- several folders ------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_several_folders_are_one_set_with_one_dense_index(folders, cache_bytes):
    source = image_folder(["a", "more/b,c"], cache_bytes=cache_bytes)
    names = ["a/cat/1.png", "a/dog/1.png", "a/dog/2.png"]
    names += ["more/b,c/dog/1.png", "more/b,c/elk/1.png"]
    assert source.names == names and source.name == "a,b,c"
    assert source.class_names == ("cat", "dog", "elk")
    assert source.labels.tolist() == [0, 1, 1, 1, 2]
    pixels = load_images(source, 8)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1]
    batch = next(iter(source.train_dataset(image_size=8, batch_size=5, crop="none")))
    order = batch["index"].numpy()
    assert sorted(order) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(batch["image"].numpy(), pixels[order])


def test_classes_are_found_over_all_folders_and_remarks_name_each(folders):
    fill(folders / "x", "cat/1.png", "loose.png")
    fill(folders / "y", "dog/1.png", "test/1.png", "train/1.png", "@eaDir/1.png")
    with pytest.warns(UserWarning) as seen:
        source = load(["x", "y"])
    assert source.class_names == ("cat", "dog", "test", "train")
    assert source.labels.tolist() == [0, -1, 1, 2, 3]
    told = "\n".join(str(each.message) for each in seen)
    both = f"'{folders / 'x'}', '{folders / 'y'}'"
    assert f"1 image is next to the class folders of {both} (loose.png)" in told
    assert f"'{folders / 'y'}' has the splits dog, test, train as folders" in told
    assert f"ignored in '{folders / 'y'}': 1 system or hidden folder" in told


def test_the_fingerprint_of_several_folders_is_that_of_what_they_hold(folders):
    before = image_folder(["a", "more/b,c"]).fingerprint
    # Moved, they are the same images; in another order, or with another file, others.
    os.rename("more/b,c", "c")
    assert image_folder(["a", "c"]).fingerprint == before
    assert image_folder(["c", "a"]).fingerprint != before
    fill(folders / "c", "elk/2.png")
    assert image_folder(["a", "c"]).fingerprint != before
    assert image_folder(["a"]).fingerprint == image_folder("a").fingerprint


def test_what_changed_in_several_folders_is_named(folders):
    names_of_run.write("list.gz", image_folder(["a", "more/b,c"]))
    (folders / "more" / "b,c" / "dog" / "1.png").unlink()
    difference = names_of_run.difference("list.gz", image_folder(["a", "more/b,c"]))
    assert difference == "1 image removed (more/b,c/dog/1.png)"


def test_damaged_images_of_several_folders_are_counted_over_all(folders):
    (folders / "a" / "dog" / "3.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 6 images in '.*/a', '.*/more/b,c' cannot .*a/dog/3"):
        image_folder(["a", "more/b,c"])
    source = image_folder(["a", "more/b,c"], max_skipped=0.17)
    assert source.skipped == [("a/dog/3.png", "empty file")] and source.num_images == 5


def test_images_of_several_folders_are_recognised_in_other_sets(folders):
    os.symlink(folders / "more" / "b,c", folders / "link")
    ids = image_folder(["a", "link"]).image_ids()
    assert shared(ids, image_folder("more/b,c")) == 2 and shared(ids, image_folder("a")) == 3
    trained = RunImages(data_dir="a,link").train_ids()
    np.testing.assert_array_equal(trained, ids)


def test_exact_copies_are_trained_on_once_and_named(folders):
    fill(folders / "a", "cat/4.png", "dog/5.png")
    shutil.copy("a/cat/1.png", "more/b,c/elk/1.png")  # another class
    shutil.copy("a/dog/2.png", "a/dog/7.png")
    (folders / "a" / "bad.png").touch()
    for cache_bytes in (0, 1 << 20):
        source = image_folder(["a", "more/b,c"], max_skipped=0.5, cache_bytes=cache_bytes)
        with pytest.warns(UserWarning, match="copies") as seen:
            once = copies.merged(source)
        told = str(seen[0].message)
        names = "a/cat/4.png of a/cat/1.png, a/dog/5.png of a/dog/1.png, a/dog/7.png of a/dog/2.png"
        assert f"5 of 8 images of 'a,b,c' are exact copies of others and left out ({names}" in told
        other = "more/b,c/dog/1.png of a/cat/1.png, more/b,c/elk/1.png of a/cat/1.png"
        assert told.endswith(f"2 of them differ in the label ({other})")
        assert once.names == ["a/cat/1.png", "a/dog/1.png", "a/dog/2.png"]
        assert once.files[1] == once.names and len(once.lengths) == 3
        assert (once.name, once.skipped) == (source.name, source.skipped)
        assert once.labels.tolist() == [0, 1, 1] and once.fingerprint != source.fingerprint
        np.testing.assert_array_equal(load_images(once, 8), load_images(source, 8, [0, 2, 3]))
    settings = {"data_dir": "a,more/b,c", "max_skipped": 0.5}
    with pytest.warns(UserWarning, match="copies"):
        assert PretrainConfig.create(settings).training_images().num_images == 3
    every = PretrainConfig.create({**settings, "merge_copies": False}).training_images()
    assert every.num_images == 8
    assert copies.merged(load("digits")).num_images == 1500


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "a"], "'a' is 'a' or inside it"),
        (["a", "a/dog"], "'a/dog' is 'a' or inside it: its images would count twice"),
        (["a", "gone"], "no such folder: 'gone'"),
        (["a", "empty"], "no images .* in '.*/empty' or below"),
        ([], "no folder was given"),
    ],
)
def test_folders_that_do_not_go_together_are_named(folders, paths, message):
    (folders / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        image_folder(paths)


# -- what is given --------------------------------------------------------------------------


def test_a_comma_divides_folders_unless_it_belongs_to_a_name(folders):
    assert given.parts("a,more/b,c") == given.parts("a, more/b,c") == ("a", "more/b,c")
    assert given.parts("more/b,c") == ("more/b,c",)
    assert given.parts("gone,a,") == ("gone", "a")
    assert given.parts("x-{000..099}.tar,y-{1,2}.tar") == ("x-{000..099}.tar", "y-{1,2}.tar")
    # A record has absolute paths, and its folders may be gone.
    whole = given.absolute("a,more/b,c")
    shutil.rmtree("more")
    assert given.parts(whole) == (f"{folders}/a", f"{folders}/more/b,c")
    assert given.missing(whole) == f"{folders}/more/b,c"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("digits", "dataset"),
        ("imagenet_resized/64x64:0.1.0", "dataset"),
        ("my_set/version=1.0.0,side=3", "dataset"),
        ("a", "data_dir"),
        ("gone/", "data_dir"),
        ("a,more/b,c", "data_dir"),
        ("catz,dogz", "data_dir"),
        ("gone.CSV", "data_dir"),
    ],
)
def test_files_are_distinguished_from_names_of_datasets(folders, data, place):
    assert given.place_of(data) == {place: data}


def test_a_sequence_of_paths_is_as_good_as_commas(folders):
    by_comma, by_list = load("a,more/b,c"), load((folders / "a", "more/b,c"))
    assert by_comma.fingerprint == by_list.fingerprint
    assert load(["a"]).num_images == 3 and load(["digits"]).name == "digits/train"
    with pytest.raises(UserError, match="no such folder: '.*/gone'"):
        load(["a", "gone"])
    with pytest.raises(UserError, match="empty list"):
        load([])
    (folders / "l.txt").write_text("a/cat/1.png\n")
    with pytest.raises(
        UserError, match="'a' and 'l.txt' are of different kinds: .* must be folders"
    ):
        load("a,l.txt")
    with pytest.raises(UserError, match="'l.txt', 'm.csv' are several lists of images"):
        load("l.txt,m.csv")
    # As text, two folders may have the name of a third one.
    for path in (folders / "p", folders / "q", Path(f"{folders}/p,{folders}/q")):
        fill(path, "1.png")
    with pytest.raises(UserError, match="is ambiguous: names of folders contain commas"):
        given.place_of(["p", "q"])


# -- lists to train and to evaluate on ------------------------------------------------------


ROWS = [
    ("a/cat/1.png", "cat", "train"),
    ("a/dog/1.png", "dog", "Training"),
    ("a/dog/2.png", "dog", "val"),
    ("more/b,c/dog/1.png", "dog", "test"),
    ("more/b,c/elk/1.png", "elk", "test"),
]


def write_list(path, rows=ROWS, header=("path", "label", "split")):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([header, *rows])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_the_split_column_says_what_is_trained_and_evaluated_on(folders, ending):
    path = folders / f"images.{ending}"
    write_list(path)
    images = RunImages(data_dir=str(path))
    train, test = images.evaluation()
    assert train.names == ["a/cat/1.png", "a/dog/1.png"]
    assert test.names == ["more/b,c/dog/1.png", "more/b,c/elk/1.png"]
    # Classes are numbered over all rows.
    assert train.class_names == test.class_names == ("cat", "dog", "elk")
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(images.train_ids(), train.image_ids())
    assert images.replaced(eval_split="validation").test().names == ["a/dog/2.png"]
    assert RunImages(data_dir=str(path), train_split="train+val").train().num_images == 3
    assert load(path, split="all").num_images == 5 and load(path).num_images == 2
    with pytest.raises(UserError, match="no rows of the split 'dev2'; .* train, validation, test"):
        load(path, split="dev2")


def test_without_rows_for_testing_others_take_their_place(folders):
    path = folders / "images.csv"
    write_list(path, ROWS[:3])
    with pytest.warns(UserWarning, match="has no split 'test' .*; evaluated on 'validation'"):
        assert RunImages(data_dir=str(path)).test().names == ["a/dog/2.png"]
    write_list(path, ROWS[:2])
    with pytest.warns(UserWarning, match="To keep them apart, write test into the column 'split'"):
        assert RunImages(data_dir=str(path)).test() is None
    # A list of its own is evaluated on as a whole.
    assert RunImages(data_dir="a", eval_dir=str(path)).test().num_images == 2


def test_a_list_without_a_split_column_is_all_for_training(folders):
    path = folders / "images.csv"
    write_list(path, [row[:2] for row in ROWS], ("Image", "Class"))
    images = RunImages(data_dir=str(path), train_split="train")
    assert images.train().num_images == 5 and images.test() is None
    assert images.train().fingerprint == image_list(path).fingerprint
    with pytest.raises(UserError, match="no column 'split' to choose 'x' by"):
        RunImages(data_dir=str(path), train_split="x").train()


def test_data_root_holds_what_lists_name(folders):
    (folders / "lists").mkdir()
    path = str(folders / "lists" / "images.csv")
    write_list(folders / "lists" / "images.csv")
    with pytest.raises(UserError, match="line 2: no file .* relative to the list's folder, or to"):
        load(path)
    images = RunImages(data_dir=path, data_root=".")
    train, test = images.evaluation()
    assert (train.num_images, test.num_images, len(images.train_ids())) == (2, 2, 2)
    assert RunImages().replaced(data_dir=path, data_root=".").train().num_images == 2
    with pytest.raises(UserError, match="data_root goes with a list of images"):
        RunImages().replaced(data_dir="a", data_root=".")


def test_splits_go_with_lists_and_datasets_alone():
    images = RunImages().replaced(data_dir="x.csv", train_split="train", eval_split="test")
    assert images.train_split == "train"
    for place in ({"data_dir": "x"}, {"data_dir": "x", "eval_dir": "y.csv"}):
        with pytest.raises(UserError, match="train_split goes with a dataset"):
            RunImages().replaced(**place, train_split="train")
