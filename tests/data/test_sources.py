"""Sources by name, the embedded datasets, and images given as arrays."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from script_driver import run_many
from sklearn.datasets import load_digits

from rfd_tf.data import ArraySource, clothing, digits, embedded, load
from rfd_tf.errors import UserError


def test_digits_are_split_in_order():
    train, test, everything = digits("train"), digits("test"), digits("all")
    assert (train.num_images, test.num_images, everything.num_images) == (1500, 297, 1797)
    np.testing.assert_array_equal(np.concatenate([train.images, test.images]), everything.images)
    np.testing.assert_array_equal(everything.labels, load_digits().target)
    assert train.class_names == tuple("0123456789")


def test_digits_are_the_small_ones_enlarged():
    images = digits("all").images
    assert images.shape == (1797, 32, 32, 3) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    assert (images[..., :1] == images).all()
    small = images[..., 0].reshape(1797, 8, 4, 8, 4).mean(axis=(2, 4))
    pairs = zip(small, load_digits().images, strict=True)
    assert min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs) > 0.97


#: Class -> how many train and test photographs.
CLOTHES = {
    "dress": (273, 15), "hat": (137, 12), "longsleeve": (504, 72), "outwear": (208, 38),
    "pants": (517, 42), "shirt": (319, 26), "shoes": (224, 73), "shorts": (227, 30),
    "skirt": (124, 12), "t-shirt": (876, 52),
}  # fmt: skip


def test_clothing_has_photographs_in_ten_classes():
    train, test, everything = clothing("train"), clothing("test"), clothing("all")
    assert clothing("test").images is test.images  # decoded once
    assert (train.num_images, test.num_images, everything.num_images) == (3409, 372, 3781)
    for source, column in ((train, 0), (test, 1)):
        counts = np.bincount(source.labels, minlength=10)
        assert source.class_names == tuple(CLOTHES)
        assert counts.tolist() == [pair[column] for pair in CLOTHES.values()]
        assert source.images.shape == (source.num_images, 48, 48, 3)
        assert source.images.dtype == np.uint8
        # Photographs: in colour, and no two alike.
        assert (source.images[..., 0] != source.images[..., 2]).mean() > 0.5
        assert len({image.tobytes() for image in source.images}) == source.num_images
    np.testing.assert_array_equal(np.concatenate([train.images, test.images]), everything.images)
    ids = everything.image_ids()
    np.testing.assert_array_equal(ids, np.concatenate([train.image_ids(), test.image_ids()]))
    # The classes are mixed, so that the first images are a sample of all.
    assert len(set(train.labels[:50].tolist())) > 7
    readme = (embedded.CLOTHING.parent / "README.md").read_text()
    assert embedded.CLOTHING_SHA256 in readme
    for name, (first, second) in CLOTHES.items():
        assert f"| {name} | {first} | {second} |" in readme


def test_a_damaged_or_missing_file_of_photographs_is_refused(tmp_path, monkeypatch):
    data = bytearray(embedded.CLOTHING.read_bytes())
    assert len(data) < 8_000_000
    data[len(data) // 2] ^= 1
    (tmp_path / "clothing.npz").write_bytes(data)
    monkeypatch.setattr(embedded, "CLOTHING", tmp_path / "clothing.npz")
    with pytest.raises(UserError, match="clothing.npz' is damaged: its sha256 .*install rfd_tf"):
        clothing("test")
    (tmp_path / "clothing.npz").unlink()
    with pytest.raises(UserError, match="cannot read .*clothing.npz' .No such file"):
        clothing("test")


def test_the_script_packs_the_central_squares_of_photographs(tmp_path, monkeypatch):
    photos, output = tmp_path / "photos", tmp_path / "packed.npz"
    middles = {"train/hat/b": 60, "validation/hat/a": 120, "test/shoes/c": 180}
    for name, level in middles.items():
        image = np.zeros((96, 160, 3), np.uint8)
        image[:, 32:128] = level  # the central square; what lies beside it is black
        path = photos / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path, quality=95)
    done, missing = run_many(
        "build_clothing",
        [
            [f"--photos={photos}", f"--output={output}"],
            [f"--photos={photos / 'train'}", f"--output={output}"],
        ],
    )
    assert done[0] == 0 and "3 photographs" in done[1], done
    assert missing[0] == 2 and "has no train/CLASS/*.jpg" in missing[2]
    monkeypatch.setattr(embedded, "CLOTHING", output)
    monkeypatch.setattr(embedded, "CLOTHING_SHA256", done[1].split()[-1])
    train, test = clothing("train"), clothing("test")
    assert train.labels.tolist() == [0, 0] and test.labels.tolist() == [1]
    assert train.class_names == ("hat", "shoes")
    found = clothing("all").images
    assert found.shape == (3, 48, 48, 3)
    # In the order of the file names.
    np.testing.assert_allclose(found[:, 4:44, 4:44].mean((1, 2, 3)), [120, 60, 180], atol=3)
    np.testing.assert_allclose(found[:, :, 0].mean((1, 2)), [120, 60, 180], atol=12)


def test_a_split_has_its_own_fingerprint_and_keeps_it():
    assert digits("train").fingerprint == digits("train").fingerprint
    for load_split in (digits, clothing):
        assert len({load_split(split).fingerprint for split in ("train", "test", "all")}) == 3


def test_the_pixels_of_an_array_make_its_fingerprint():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    other = images.copy()
    other[1, 2, 3, 0] = 1
    assert ArraySource(images).fingerprint == ArraySource(images.copy()).fingerprint
    assert ArraySource(images).fingerprint != ArraySource(other).fingerprint
    reshaped = images.reshape(2, 2, 8, 3)
    assert ArraySource(images).fingerprint != ArraySource(reshaped).fingerprint


@pytest.mark.parametrize(
    "images,labels,message",
    [
        (np.zeros((2, 4, 4, 3), np.float32), None, "uint8 .* got float32"),
        (np.zeros((2, 4, 4, 1), np.uint8), None, r"got uint8 \[2, 4, 4, 1\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), None, "holds no images"),
        (np.zeros((2, 4, 4, 3), np.uint8), [1], r"2 images, but labels of shape \(1,\)"),
    ],
)
def test_arrays_that_are_no_images(images, labels, message):
    with pytest.raises(UserError, match=message):
        ArraySource(images, labels)


def test_load_finds_datasets_and_folders(tmp_path):
    assert load("digits").fingerprint == digits("train").fingerprint
    assert load("digits", split="test").num_images == 297
    assert load("clothing").fingerprint == clothing().fingerprint
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    source = load(data_dir=str(tmp_path), max_skipped=0.5)
    assert source.num_images == 1 and source.skipped == [("b.png", "empty file")]


def test_load_reports_user_errors():
    with pytest.raises(UserError, match="no images were given; .*embedded: clothing, digits"):
        load()
    with pytest.raises(UserError, match="dataset and data_dir were given"):
        load("digits", data_dir="x")
    with pytest.raises(UserError, match="split of digits 'trian'.*train, test, all"):
        load("digits", split="trian")
    with pytest.raises(UserError, match="split of clothing 'val'.*train, test, all"):
        load("clothing", split="val")
    with pytest.raises(UserError, match="data is an array, .* rfd_tf.data.ArraySource"):
        load(np.zeros((2, 32, 32, 3), "uint8"))
    with pytest.raises(UserError, match="unknown dataset 'digitz' .did you mean 'digits'"):
        load("digitz")


def test_sources_can_be_imported_without_tensorflow():
    code = (
        "import sys, rfd_tf.data; rfd_tf.data.digits; import rfd_tf.data.sources;"
        "assert 'tensorflow' not in sys.modules;"
        "assert 'tensorflow_datasets' not in sys.modules;"
        "assert 'load_images' in dir(rfd_tf.data)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
