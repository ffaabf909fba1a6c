"""Sources by name, the embedded digits, and images given as arrays."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from rfd_tf.data import ArraySource, digits, load
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


def test_a_split_has_its_own_fingerprint_and_keeps_it():
    assert digits("train").fingerprint == digits("train").fingerprint
    assert len({digits(split).fingerprint for split in ("train", "test", "all")}) == 3


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
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    source = load(data_dir=str(tmp_path), max_skipped=0.5)
    assert source.num_images == 1 and source.skipped == [("b.png", "empty file")]


def test_load_tells_what_is_wrong():
    with pytest.raises(UserError, match="none was given; embedded datasets: digits"):
        load()
    with pytest.raises(UserError, match="dataset and data_dir were given"):
        load("digits", data_dir="x")
    with pytest.raises(UserError, match="split of digits 'trian'.*train, test, all"):
        load("digits", split="trian")
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
