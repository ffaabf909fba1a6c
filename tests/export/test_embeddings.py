"""Embeddings of a folder: the right ones, by Keras and ONNX alike, and again after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from export_helpers import RECORD, numpy_embedding
from PIL import Image
from script_driver import run_many

from rfd_tf.data import digits
from rfd_tf.errors import UserError
from rfd_tf.export import embed_folder, keras_embedder, onnx_embedder
from rfd_tf.export.embeddings import Parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 images in nested folders, with files among them that cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(digits("test").images[:60]):
        path = folder / ("ä" if number % 2 else "b c") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "ä" / "007.png").write_bytes((folder / "ä" / "007.png").read_bytes()[:150])
    (folder / "b c" / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(folder, backbone):
    """The names of the good files in order, and their features by the backbone and NumPy."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    names.remove("ä/007.png")
    pixels = np.stack([np.asarray(Image.open(folder / name)) for name in names])
    return names, numpy_embedding(backbone, RECORD, pixels)


def read_parquet(path):
    from pyarrow import parquet

    table = parquet.read_table(path)
    arrays = {
        name: np.stack(table[name].to_numpy()) for name in table.column_names if name != "file"
    }
    return table["file"].to_pylist(), arrays


def test_both_formats_hold_the_features_of_every_readable_image(
    folder, expected, run_folder, tmp_path
):
    names, features = expected
    embedder = keras_embedder(run_folder, ["f", "f2", "block2"])
    report = embed_folder(embedder, folder, tmp_path / "out", batch_size=7, part_images=16)
    assert report["images"] == report["embedded_now"] == 59 and report["skipped"] == 2
    assert report["dimensions"] == {"f": 64, "f2": 40, "block2": 12}
    found, arrays = read_parquet(tmp_path / "out" / "embeddings.parquet")
    assert found == json.loads((tmp_path / "out" / "file_names.json").read_text()) == names
    for name, wanted in (("f", features), ("f2", features[:, 24:])):
        array = np.load(tmp_path / "out" / f"{name}.npy")
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, wanted, atol=1e-5)
        np.testing.assert_array_equal(array, arrays[name])
    skipped = (tmp_path / "out" / "skipped_files.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in skipped] == ["b c/empty.jpg", "ä/007.png"]
    assert skipped[0].endswith("\tempty file") and "truncated" in skipped[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "block2.npy", "embeddings.json", "embeddings.parquet", "f.npy", "f2.npy",
        "file_names.json", "skipped_files.txt",
    ]  # fmt: skip
    # The same again has nothing left to do; another feature is not mixed with these.
    again = embed_folder(embedder, folder, tmp_path / "out", part_images=16)
    assert again["embedded_now"] == 0 and again["images"] == 59
    other = keras_embedder(run_folder, ["f1"])
    with pytest.raises(UserError, match="embeddings of another kind .other features"):
        embed_folder(other, folder, tmp_path / "out", part_images=16)
    report = embed_folder(other, folder, tmp_path / "out", "npy", overwrite=True)
    assert report["dimensions"] == {"f1": 24}


def test_onnx_gives_the_same(folder, expected, exported, tmp_path):
    names, features = expected
    for wanted in ([], ["f", "block2"]):
        out = tmp_path / "-".join(["out", *wanted])
        embedder = onnx_embedder(exported[0] / "model.onnx", wanted)
        assert embed_folder(embedder, folder, out, ["npy"])["images"] == len(names)
        array = np.load(out / f"{wanted[0] if wanted else 'embedding'}.npy")
        np.testing.assert_allclose(array, features, atol=1e-5)
    assert np.load(out / "block2.npy").shape == (len(names), 12)
    with pytest.raises(UserError, match="unknown output of .*'f9'.*options: .*embedding"):
        onnx_embedder(exported[0] / "model.onnx", ["f9"])
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="bad.onnx' cannot be run as ONNX"):
        onnx_embedder(tmp_path / "bad.onnx")


def test_a_damaged_part_is_made_again(folder, expected, run_folder, tmp_path, monkeypatch):
    embedder = keras_embedder(run_folder)
    out = tmp_path / "out"

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rfd_tf.export.embeddings._assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            embed_folder(embedder, folder, out, ["npy"], part_images=16)
    parts = sorted((out / "parts").glob("*.npz"))
    assert len(parts) == 4 and not (out / "embeddings.json").exists()
    data = bytearray(parts[1].read_bytes())
    data[len(data) // 2] ^= 1
    parts[1].write_bytes(data)
    parts[3].write_bytes(parts[3].read_bytes()[:100])
    report = embed_folder(embedder, folder, out, ["npy"], part_images=16)
    assert report["embedded_now"] in range(16, 32) and report["images"] == 59
    np.testing.assert_allclose(np.load(out / "f.npy"), expected[1], atol=1e-5)


def test_memory_holds_a_part_at_a_time(folder, run_folder, tmp_path, monkeypatch):
    most = []
    real = Parts.write

    def write(self, part, index, vectors, skipped):
        most.append(len(index))
        real(self, part, index, vectors, skipped)

    monkeypatch.setattr(Parts, "write", write)
    embed_folder(
        keras_embedder(run_folder), folder, tmp_path / "out", ["npy"], batch_size=5, part_images=8
    )
    assert max(most) <= 8 and len(most) == 8


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_is_taken_up_where_it_was(folder, run_folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    source = folder / "b c" / "000.png"
    for number in range(6000):
        os.link(source, images / f"{number:05d}.png")
    out = tmp_path / "out"
    command = [
        sys.executable, str(ROOT / "scripts" / "embed.py"), f"--weights={run_folder}",
        f"--data_dir={images}", f"--output_dir={out}", "--batch_size=8", "--part_images=64",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 280
    # (A part that is being written has a name that begins with a point.)
    while len(list(out.glob("parts/part-*.npz"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(out.glob("parts/part-*.npz")))
    assert 3 <= kept < 94 and not (out / "embeddings.json").exists()
    report = embed_folder(keras_embedder(run_folder), images, out, batch_size=8, part_images=64)
    assert report["embedded_now"] == 6000 - 64 * kept and report["images"] == 6000
    array = np.load(out / "f.npy")
    assert array.shape == (6000, 64) and np.abs(array - array[0]).max() < 1e-5
    assert read_parquet(out / "embeddings.parquet")[0] == [f"{i:05d}.png" for i in range(6000)]


def test_user_errors_are_reported(folder, run_folder, tmp_path):
    embedder = keras_embedder(run_folder)
    (tmp_path / "mine.txt").touch()
    (tmp_path / "file").touch()
    for arguments, message in [
        ({"output_dir": tmp_path}, "holds other files .file, ....; give another output_dir"),
        ({"output_dir": tmp_path / "file"}, "'.*file' is a file"),
        ({"formats": "csv"}, "unknown embeddings format 'csv'; options: parquet, npy"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"directory": tmp_path / "no"}, "no such folder"),
    ]:
        given = {"directory": folder, "output_dir": tmp_path / "out", **arguments}
        with pytest.raises(UserError, match=message):
            embed_folder(embedder, **given)
    with pytest.raises(UserError, match="unknown feature 'f9'"):
        keras_embedder(run_folder, ["f9"])
    hopeless = tmp_path / "hopeless"
    hopeless.mkdir()
    good = (folder / "b c" / "000.png").read_bytes()
    for number in range(2):
        (hopeless / f"{number}.png").write_bytes(good[:150])
    with pytest.raises(UserError, match="none of the 2 images in .*hopeless' can be decoded"):
        embed_folder(embedder, hopeless, tmp_path / "out")


def test_beam_writes_the_rows_of_one_process(tmp_path):
    pytest.importorskip("apache_beam")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (7, 20, 20, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    common = ["--weights=rfd_cifar10", f"--data={folder}", "--part_images=2"]
    done = run_many(
        "embed",
        [
            [*common, f"--output_dir={tmp_path / 'one'}"],
            [*common, f"--output_dir={tmp_path / 'beam'}", "--runner=DirectRunner"],
            [*common, f"--output_dir={tmp_path / 'none'}", "--runner=NoSuchRunner"],
            [*common, f"--output_dir={tmp_path / 'none'}", "--beam_option=a=b"],
        ],
    )
    assert [code for code, _, _ in done] == [0, 0, 2, 2], done
    assert "NoSuchRunner" in done[2][2] and "goes with --runner" in done[3][2]
    for name in ("file_names.json", "skipped_files.txt"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "beam" / name).read_text()
    assert "3.png" in (tmp_path / "beam" / "skipped_files.txt").read_text()
    one, beam = (np.load(tmp_path / name / "f.npy") for name in ("one", "beam"))
    np.testing.assert_allclose(beam, one, atol=1e-6)
    assert not (tmp_path / "beam" / "parts").exists()
