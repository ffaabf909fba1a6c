"""Files of PU weights: both formats there and back, and every way a file can be wrong."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import ArraySource, pu_grid, pu_weights
from rfd_tf.errors import UserError

N = 7


def make_source(seed=0, name="balls", count=N):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return ArraySource(pixels, name=name)


@pytest.fixture
def source():
    return make_source()


@pytest.fixture
def probability():
    values = np.random.default_rng(1).random((N, 4)).astype(np.float32)
    values[0, 1], values[1, 2], values[2, 3] = 0, 1, np.float32(1e-30)
    return values


def refused(path, source):
    with pytest.raises(UserError) as caught:
        pu_weights.read(path, source)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("name", ["pu.npz", "prob.dat", "new/folder/PU.NPZ"])
def test_there_and_back(tmp_path, source, probability, name):
    path = tmp_path / name
    settings = {"epochs": 3, "seed": 0}
    pu_weights.write(path, probability, source, classifier="softmax", settings=settings)
    found = pu_weights.read(path, source)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, probability)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if not name.endswith("dat"):
        about = pu_weights.read_description(path)
        assert about["settings"] == settings and about["classifier"] == "softmax"
        assert about["dataset"] == "balls" and about["fingerprint"] == source.fingerprint


def test_text_is_a_line_an_image_and_rotation(tmp_path, source, probability):
    path = tmp_path / "prob.dat"
    pu_weights.write(path, probability, source, classifier="softmax")
    lines = path.read_text().splitlines()
    assert len(lines) == 4 * N
    for i in range(N):
        for r in range(4):
            assert np.float32(lines[4 * i + r]) == probability[i, r]


def test_text_of_others(tmp_path, source):
    path = tmp_path / "prob.dat"
    # The upright view's line is never used: it may hold anything that reads as a number.
    path.write_text("nan\n0.5\n 1e-3 \n1\r\n" + "-1\n0\n0\n0.25\n" * (N - 1) + "\n\n")
    found = pu_weights.read(path, source)
    np.testing.assert_array_equal(found[0], np.float32([1, 0.5, 1e-3, 1]))
    np.testing.assert_array_equal(found[1:, 1:], np.float32([[0, 0, 0.25]] * (N - 1)))

    for codec in ("utf-8-sig", "utf-16"):
        path.write_bytes(("0.5\r\n" * 4 * N).encode(codec))
        assert (pu_weights.read(path, source) == 0.5).all()

    path.write_text("0.5\n" * (4 * N - 1))
    message = refused(path, source)
    assert "27 lines" in message and "need 28" in message and "'balls'" in message
    path.write_text("0.5\n" * 10 + "half\n" + "0.5\n" * (4 * N - 11))
    assert "line 11: 'half' is no number" in refused(path, source)
    path.write_text("0.5\n" * 10 + "1.5\n" + "0.5\n" * (4 * N - 11))
    assert "image 2, rotation 180" in refused(path, source)
    path.write_bytes(b"\xff\xfe\x00" * 9)
    assert "cannot be read as text" in refused(path, source)


def test_weights_of_another_dataset_are_refused(tmp_path, source, probability):
    path = tmp_path / "pu.npz"
    pu_weights.write(path, probability, source, classifier="softmax")
    other = make_source(seed=5, name="flowers")
    message = refused(path, other)
    assert "made from 'balls' (7 images" in message and "not from 'flowers' (7 images" in message
    # Under the same name, but with another image in it.
    assert "made from 'balls'" in refused(path, make_source(seed=5))


@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01, np.inf])
def test_no_probabilities(tmp_path, source, probability, value):
    path = tmp_path / "pu.npz"
    content = {
        "upright_probability": probability,
        "fingerprint": source.fingerprint,
        "dataset": "balls",
        "classifier": "softmax",
    }
    probability[3, 1] = value
    with pytest.raises(UserError, match="image 3, rotation 90"):
        pu_weights.write(path, probability, source, classifier="softmax")
    assert not list(tmp_path.iterdir())
    np.savez(path, **content)
    assert "1 values are no probabilities" in refused(path, source)


def test_broken_files(tmp_path, source, probability):
    path = tmp_path / "pu.npz"
    assert "no such PU weights file" in refused(path, source)
    assert "must end in .npz" in refused(tmp_path / "pu.json", source)

    pu_weights.write(path, probability, source, classifier="softmax")
    good = path.read_bytes()
    for cut in (0, 10, len(good) // 2, len(good) - 10):
        path.write_bytes(good[:cut])
        assert "pu.npz" in refused(path, source)
    broken = bytearray(good)
    broken[60:90] = bytes(30)
    path.write_bytes(broken)
    assert "cannot be read" in refused(path, source)

    np.savez(path, a=probability)
    assert "upright_probability missing" in refused(path, source)
    content = {"fingerprint": source.fingerprint, "dataset": "balls", "classifier": "x"}
    np.savez(path, upright_probability=probability[:3], **content)
    assert "shape (3, 4)" in refused(path, source)
    np.savez(path, upright_probability=np.array(["a"]), **content)
    assert "cannot be read" in refused(path, source)
    np.savez(path, upright_probability=probability, settings="{", **content)
    assert "cannot be read" in refused(path, source)


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def test_pickles_are_not_loaded(tmp_path, source):
    path = tmp_path / "pu.npz"
    path.write_bytes(pickle.dumps(Trap()))
    assert "is no .npz file" in refused(path, source)
    # An array of objects inside a proper .npz.
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Trap()], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("upright_probability", "fingerprint", "dataset", "classifier"):
            file.writestr(f"{name}.npy", buffer.getvalue())
    assert "holds pickled objects" in refused(path, source)


def test_nothing_is_overwritten_or_left_behind(tmp_path, source, probability):
    path = tmp_path / "pu.npz"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists; give another output, or overwrite"):
        pu_weights.write(path, probability, source, classifier="softmax")
    assert path.read_text() == "mine"

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot write .*No space left"):
        pu_weights.replace_file(path, fail)
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1

    pu_weights.write(path, probability, source, classifier="softmax", overwrite=True)
    np.testing.assert_array_equal(pu_weights.read(path, source), probability)
    for wrong in (tmp_path, path / "below.npz", "/proc/none/pu.npz"):
        with pytest.raises(UserError, match="output"):
            pu_weights.check_output(wrong)
    with pytest.raises(UserError, match=r"shape \(7, 4\)"):
        pu_weights.write(path, probability[:3], source, classifier="x", overwrite=True)


def test_the_extremes():
    probability = np.array(
        [[1, 0.2, 0.9, 0.1], [1, 0.0, 0.3, 0.4], [1, 0.95, 0.96, 0.97]], np.float32
    )
    most, least = pu_grid.extremes(probability, 2, without=np.array([2]))
    assert most.tolist() == [[0, 2], [1, 3]]
    assert least.tolist() == [[1, 1], [0, 3]]
    most, least = pu_grid.extremes(probability, 100)
    assert len(most) == len(least) == 4
    assert most[0].tolist() == [2, 3]


def test_the_picture(tmp_path, source, probability):
    path = tmp_path / "grid.png"
    pu_grid.draw(path, source, probability, image_size=16, columns=4, rows=2)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 20 and pixels.shape[1] == 440
    with pytest.raises(UserError, match="grid"):
        pu_grid.draw("/proc/none/grid.png", source, probability, image_size=16, columns=2, rows=1)
