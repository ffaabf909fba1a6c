"""Folders that are no classes: splits, system folders, pictures beside the folders."""

import os
import shutil
import unicodedata
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import image_folder, image_list, load_images
from rfd_tf.evaluation.splits import check_classes, split

SYSTEM = [
    "@eaDir", ".thumbnails", "Thumbs", "$RECYCLE.BIN", ".Trash-1000", "#recycle", "@Recycle",
    "__MACOSX", "lost+found", "System Volume Information", ".git", ".ipynb_checkpoints",
    ".Spotlight-V100", "#snapshot",
]  # fmt: skip


def fill(folder, names):
    """Writes pictures that all differ, at the given relative names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(zlib.crc32(str(path).encode()))
        pixels = random.integers(0, 256, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def classes(folder, count=3):
    return fill(folder, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(count)])


def remarks(folder, read=image_folder):
    """A folder's source, and the warnings that reading it gave."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        source = read(folder)
    return source, [str(warning.message) for warning in found]


@pytest.mark.parametrize("verify", ["full", "header"])
def test_system_folders_are_passed_over_and_counted(tmp_path, verify):
    plain = image_folder(classes(tmp_path))
    for name in SYSTEM:
        shutil.copytree(tmp_path / "cat", tmp_path / name)
        shutil.copytree(tmp_path / "dog", tmp_path / "cat" / name)
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    source, said = remarks(tmp_path, lambda root: image_folder(root, verify=verify))
    assert source.class_names == ("cat", "dog") and source.fingerprint == plain.fingerprint
    assert len(said) == 1 and f"{2 * len(SYSTEM)} system or hidden folders" in said[0]
    assert "1 hidden picture (cat/._0.png)" in said[0] and str(tmp_path) in said[0]
    # A folder of that name is read where it is the one asked for.
    assert image_folder(tmp_path / "@eaDir").num_images == 3


@pytest.mark.parametrize(
    "splits",
    [("train", "test"), ("train", "val", "test"), ("Training", "Validation"), ("train", "valid"),
     ("TRAIN", "dev"), ("train2017", "val2017"), ("train_images", "test_images"),
     ("training set", "test set"), ("trainset", "testset"), ("test", "val"),
     ("train", "eval", "unlabeled")],
)  # fmt: skip
def test_splits_are_named_with_the_folders_to_give(tmp_path, splits):
    for name in splits:
        classes(tmp_path / name)
    _, said = remarks(tmp_path)
    assert len(said) == 1 and "including the test images" in said[0]
    assert ", ".join(sorted(splits)) in said[0] and "treated as classes" in said[0]
    if splits[0].casefold().startswith("train"):
        assert f"--data='{tmp_path / splits[0]}'" in said[0]
        assert f"--val_data='{tmp_path / ('test' if 'test' in splits else splits[1])}'" in said[0]
        assert f"--val_data='{tmp_path / splits[0]}'" not in said[0]
    assert remarks(tmp_path / splits[0])[1] == []


def test_splits_inside_of_classes_and_wrappers_are_named(tmp_path):
    for name in ("bottle", "cable"):
        classes(tmp_path / name / "train")
        classes(tmp_path / name / "test")
    source, said = remarks(tmp_path)
    assert source.class_names == ("bottle", "cable") and len(said) == 1
    assert f"'{tmp_path / 'bottle'}' has the splits test, train" in said[0]
    assert "1 more folder" in said[0] and "treated as classes" not in said[0]


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    fill(tmp_path, ["bus/1.png", "train/1.png", "test/notes/1.txt.png", "car/1.png"])
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").mkdir()  # without pictures
    assert remarks(tmp_path)[1] == []


def test_a_picture_beside_the_class_folders_is_named_and_has_no_class(tmp_path):
    plain = image_folder(classes(tmp_path))
    fill(tmp_path, ["contact sheet.png"])
    source, said = remarks(tmp_path)
    assert len(said) == 1 and "(contact sheet.png)" in said[0] and "no class" in said[0]
    assert source.num_images == 7 and source.class_names == ("cat", "dog")
    # Sorted between "cat" and "dog".
    assert source.labels.tolist() == [0, 0, 0, -1, 1, 1, 1]
    assert "2 classes: cat 3, dog 3; 1 without a class" in source.summary()
    assert check_classes(source, source) == 2
    rows, _, held_out = split(source, None)
    assert sorted([*rows, *held_out]) == [0, 1, 2, 4, 5, 6]
    train, _, test = split(plain, source)
    assert len(train) == len(test) == 6 and 3 not in test


def test_a_few_albums_beside_many_pictures_are_no_classes(tmp_path):
    fill(classes(tmp_path), [f"{i}.png" for i in range(6)])
    assert image_folder(tmp_path).labels is None


def test_one_folder_around_the_classes_is_named(tmp_path):
    classes(tmp_path / "unpacked")
    fill(tmp_path, ["__MACOSX/1.png"])
    source, said = remarks(tmp_path)
    assert source.labels is None and len(said) == 2
    assert f"--data='{tmp_path / 'unpacked'}'" in said[0] and "the 2 folders" in said[0]


def test_classes_are_the_same_in_either_unicode_form(tmp_path):
    word = "caf\u00e9"
    for name, form in (("train", "NFD"), ("test", "NFC")):
        text = unicodedata.normalize(form, word)
        fill(tmp_path / name, [f"{text}/{i}.png" for i in range(3)] + ["cup/1.png"])
    train, test = image_folder(tmp_path / "train"), image_folder(tmp_path / "test")
    assert train.class_names == test.class_names == (word, "cup")
    assert check_classes(train, test) == 2
    # Both forms side by side are one class.
    shutil.copytree(tmp_path / "train", tmp_path / "test", dirs_exist_ok=True)
    assert image_folder(tmp_path / "test").class_names == (word, "cup")
    assert load_images(image_folder(tmp_path / "test"), 8).any()
    nfc = unicodedata.normalize("NFC", word)
    names = [f"{nfc}/{i}.png {form}" for i, form in enumerate(train.class_names)]
    names.append(f"cup/1.png {unicodedata.normalize('NFD', word)}")
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert image_list(tmp_path / "list.txt", tmp_path / "train").labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_files_in_both_sets_are_counted_by_their_content(tmp_path, cache_bytes):
    train, test = classes(tmp_path / "train", 5), classes(tmp_path / "test", 4)
    os.replace(train / "cat" / "1.png", train / "cat" / "other name.png")
    shutil.copy(train / "cat" / "other name.png", test / "cat" / "1.png")
    shutil.copy(train / "dog" / "2.png", test / "cat" / "3.png")
    sources = [image_folder(folder, cache_bytes=cache_bytes) for folder in (train, test)]
    with pytest.warns(UserWarning, match="2 of the 8 test images of 'test' .*'train' too") as said:
        split(*sources)
    assert "'cat/1.png' is 'cat/other name.png'" in str(said[0].message)
    with pytest.warns(UserWarning, match="training images of 'train' too"):
        split(sources[0], sources[0])
    # Copies within a set matter where a part of it is held out.
    for i in range(5):
        shutil.copy(train / "dog" / "0.png", train / "dog" / f"copy {i}.png")
    with pytest.warns(UserWarning, match="of the . test images of 'train'"):
        split(image_folder(train), None)


def test_different_files_of_one_length_are_no_copies(tmp_path):
    for name in ("train", "test"):
        classes(tmp_path / name)
        for path in (tmp_path / name).rglob("*.png"):
            path.write_bytes(path.read_bytes().ljust(400, name[1].encode()))
    source, said = remarks(
        None, lambda _: split(image_folder(tmp_path / "train"), image_folder(tmp_path / "test"))
    )
    assert said == [] and len(source) == 3


def test_many_classes_are_shortened(tmp_path):
    fill(tmp_path, [f"class {i:02d}/{j}.png" for i in range(20) for j in range(1 + i % 2)])
    summary = image_folder(tmp_path).summary()
    assert "20 classes of 1 to 2 images: class 00 1, class 01 2, " in summary
    assert summary.endswith("... class 19 2") and "class 10" not in summary
