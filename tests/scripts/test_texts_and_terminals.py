"""Flagfiles in any encoding, and terminals and file systems without one."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from script_driver import ROOT, SCRIPTS, run_many
from test_text import ENCODINGS

from rfd_tf.text import file_name_from_text

NETWORK = "six_layer"
ODD = [b"\xe9.png", b"\xe8.png", b"line\nbreak\t.png", "日本.png".encode(), b"plain.png"]


def test_flagfiles_in_any_encoding_mean_the_same(tmp_path):
    content = "# a comment: café\r\n\r\n--method=rfdé\r\n"
    (tmp_path / "nested.cfg").write_bytes(content.encode("utf-16"))
    for codec in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / f"{codec}.cfg").write_bytes(content.encode(codec))
    (tmp_path / "outer.cfg").write_text(f"--flagfile={tmp_path}/nested.cfg\n--seed=1\n")
    (tmp_path / "latin.cfg").write_bytes(content.encode("latin-1"))
    (tmp_path / "circle.cfg").write_text(f"--flagfile={tmp_path}/circle.cfg\n")
    unknown = "error: unknown method 'rfdé'"
    lines = {
        ("--flagfile={}/utf-8.cfg",): unknown,
        ("--flagfile={}/utf-8-sig.cfg",): unknown,
        ("--flagfile", "{}/utf-16.cfg"): unknown,
        ("-flagfile={}/outer.cfg",): unknown,
        ("--flagfile={}/utf-8.cfg", "--method=rfdd"): "error: unknown method 'rfdd'",
        ("--flagfile={}/latin.cfg",): "error: the flagfile '{}/latin.cfg' cannot be read as text: "
        "it is no text in UTF-8 (line 1, byte 16",
        ("--flagfile={}/none.cfg",): "error: cannot read the flagfile '{}/none.cfg': No such file",
        ("--flagfile={}/circle.cfg",): "error: the flagfile '{}/circle.cfg' names itself",
        ("--flagfile",): "error: --flagfile with no argument",
        ("--flagfile={}",): "error: cannot read the flagfile '{}': Is a directory",
    }
    given = [
        [f"--output_dir={tmp_path}/run", *(word.format(tmp_path) for word in line)]
        for line in lines
    ]
    for (code, _, err), message in zip(run_many("pretrain", given), lines.values(), strict=True):
        assert code == 2 and "Traceback" not in err, err
        assert err.startswith(message.format(tmp_path)), err


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory):
    """Two classes of pictures whose names no terminal and no encoding takes alike."""
    folder = tmp_path_factory.mktemp("odd") / "caf\u00e9"
    for label, name in enumerate(("日本", "plain")):
        (folder / name).mkdir(parents=True)
        for number, file in enumerate(ODD):
            pixels = np.full((16, 16, 3), 20 * number + 120 * label, np.uint8)
            try:
                with open(os.fsencode(folder / name) + b"/" + file, "wb") as out:
                    Image.fromarray(pixels).save(out, "PNG")
            except OSError:
                pytest.skip("this file system allows only text as names")
    with open(os.fsencode(folder / "plain") + b"/\xea.png", "wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n")
    return folder


def test_embeddings_carry_every_name_back(odd_folder, tmp_path):
    import pyarrow.parquet

    out = tmp_path / "out"
    arguments = ["--weights=rfd_cifar10", f"--data_dir={odd_folder}", f"--output_dir={out}"]
    ((code, _, err),) = run_many("embed", [arguments])
    assert code == 0, err
    expected = sorted(
        os.fsdecode(label.encode() + b"/" + file) for label in ("日本", "plain") for file in ODD
    )
    names = json.loads((out / "file_names.json").read_text(encoding="utf-8"))
    assert sorted(map(file_name_from_text, names)) == expected
    assert pyarrow.parquet.read_table(out / "embeddings.parquet")["file"].to_pylist() == names
    name, reason = (out / "skipped_files.txt").read_text(encoding="utf-8").strip("\n").split("\t")
    assert os.fsencode(file_name_from_text(name)) == b"plain/\xea.png" and reason
    assert all(os.path.exists(odd_folder / file_name_from_text(name)) for name in names)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
)
def test_a_terminal_without_utf8_stops_nothing(odd_folder, tmp_path, environment):
    run = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable, str(SCRIPTS / "pretrain.py"), f"--data_dir={odd_folder}",
            "--max_skipped=0.5", f"--backbone={NETWORK}", "--image_size=16", f"--output_dir={run}",
            "--backbone_option=filters=[4,4,4,4,4,8]", "--method=rotation", "--batch_size=5",
            "--epochs=1", "--monitor_every=1", "--notensorboard",
        ],
        capture_output=True,
        timeout=280,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode("ascii", "replace")
    assert b"2 classes: plain 5" in done.stdout
    listed = json.loads(gzip.open(run / "images.json.gz", "rt", encoding="ascii").read())["names"]
    names = {os.fsencode(file_name_from_text(name)).rsplit(b"/", 1)[1] for name in listed}
    assert names == set(ODD)
    text = (run / "skipped_files.txt").read_text(encoding="utf-8")
    assert text.startswith("plain/\\xea.png\t")


def test_the_encodings_of_texts_are_those_of_flagfiles(tmp_path):
    from rfd_tf.cli import common

    for name, content in ENCODINGS.items():
        (tmp_path / "x.cfg").write_bytes(content)
        assert common._flagfile(str(tmp_path / "x.cfg"), ()) == ["--a=café", "日本 1"], name
