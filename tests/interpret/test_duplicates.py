"""Images that a set has twice are found, written down, and left where they are."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf.data import ArraySource, digits, image_folder
from rfd_tf.errors import UserError
from rfd_tf.export import keras_embedder
from rfd_tf.interpret.duplicates import find_duplicates, identical_images, similar_pairs

NAMES = ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six digits, a copy of one of them, another as a JPEG of twice the size."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        Image.fromarray(digits("test").images[number]).save(folder / f"{number}.png")
    (folder / "copy.png").write_bytes((folder / "2.png").read_bytes())
    Image.open(folder / "4.png").resize((64, 64)).save(folder / "large.jpg", quality=90)
    return folder


def test_pairs_are_those_of_the_whole_matrix_of_cosines():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(5000, 4)).astype("float32")  # more than a block
    pairs = similar_pairs(vectors, 0.999)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.nonzero(np.triu(unit @ unit.T >= 0.999, 1))
    assert len(first) > 100
    assert set(zip(pairs.first, pairs.second, strict=True)) == set(zip(first, second, strict=True))
    assert (np.diff(pairs.similarity) <= 0).all()
    few = similar_pairs(vectors, 0.999, most=7)
    np.testing.assert_array_equal(few.first, pairs.first[:7])
    assert len(similar_pairs(vectors[:0], 0.5).first) == 0


def test_identical_files_are_found_by_their_bytes_and_images_by_their_pixels(folder):
    source = image_folder(folder, cache_bytes=0)
    names = list(source.names)
    expected = np.arange(8)
    expected[names.index("copy.png")] = names.index("2.png")
    assert identical_images(source).tolist() == expected.tolist()
    three = digits("test").images[[0, 1, 0]]
    assert identical_images(ArraySource(three)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("weights", [None, "six_layer.rfd_cifar10"])
def test_copies_and_their_kin_are_written_down(folder, tmp_path, weights):
    source = image_folder(folder, cache_bytes=0)
    embedder = keras_embedder(weights) if weights else None
    report = find_duplicates(source, tmp_path, embedder=embedder, similarity=0.995)
    rows = pq.read_table(tmp_path / "duplicates.parquet").to_pylist()
    assert [(row["first"], row["second"]) for row in rows if row["identical"]] == [
        ("2.png", "copy.png")
    ]
    similar = [(row["first"], row["second"]) for row in rows if not row["identical"]]
    assert ("4.png", "large.jpg") in similar
    assert report["identical"] == 1 and report["similar"] == len(similar)
    assert json.loads((tmp_path / "duplicates.json").read_text()) == report
    assert Image.open(tmp_path / "duplicates.png").size[1] >= 96
    assert sorted(path.name for path in folder.iterdir()) == [*NAMES, "copy.png", "large.jpg"]
    with pytest.raises(UserError, match="duplicates.parquet already; give another"):
        find_duplicates(source, tmp_path)


def test_a_similarity_out_of_range_is_refused(tmp_path):
    with pytest.raises(UserError, match="similarity 1.5 must be above 0 and at most 1"):
        find_duplicates(digits("test"), tmp_path, similarity=1.5)


def test_command_lines_and_their_exit_codes(folder, tmp_path):
    data = f"--data={folder}"
    lines = [
        ([data], 2, "--output_dir is missing"),
        ([data, f"--output_dir={tmp_path}/x", "--similarity=2"], 2, "similarity 2 must be"),
        (
            ["--data=none", f"--output_dir={tmp_path}/x", "--similarity=2"],
            2,
            "similarity 2 must be",
        ),
        ([data, f"--output_dir={tmp_path}/x", "--backbone=resnet18"], 2, "'backbone'"),
        ([data, f"--output_dir={tmp_path}/x", "--similarity=0.999"], 0, ""),
        ([data, f"--output_dir={tmp_path}/x"], 2, f"'{tmp_path}/x' holds duplicates.parquet"),
        ([data, f"--output_dir={tmp_path}/x", "--similarity=0.999", "--overwrite"], 0, ""),
    ]
    found = run_many("duplicates", [arguments for arguments, _, _ in lines])
    for (code, out, err), (arguments, expected, message) in zip(found, lines, strict=True):
        assert code == expected, (arguments, err)
        assert message in err and "Traceback" not in err
        assert code or "8 images: 1 identical to an earlier one, 1 further pairs with" in out
