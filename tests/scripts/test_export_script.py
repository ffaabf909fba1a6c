import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import warm_python
from PIL import Image
from script_driver import run_many

from rfd_tf import applications
from rfd_tf.data import digits

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "export.py"


def run(command, **options):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*warm_python.command(), *command],
        capture_output=True,
        text=True,
        env=environment,
        **options,
    )


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    filters = [8, 8, 8, 8, 8, 16]
    model = applications.build("six_layer", 32, filters=filters)
    record = {
        "format": 1, "backbone": "six_layer", "arguments": {"filters": filters},
        "image_size": 32, "method": "rfd", "mean": [0.5] * 3, "std": [0.25] * 3,
        "feature": {"endpoint": "block6", "pooling": "avg", "split": [8, 8]},
    }  # fmt: skip
    applications.save_backbone(model, folder / "backbone.weights.h5", record)
    return folder


def save_digits(folder):
    """Writes 200 images into one folder for each of two classes."""
    source = digits()
    for index in np.flatnonzero(source.labels < 2)[:200]:
        target = folder / str(source.labels[index]) / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images[index]).save(target)


def test_command_lines_and_their_exit_codes(run_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "exported" / "small"
    images = tmp_path / "images"
    save_digits(images)
    weights, good = f"--weights={run_folder}", f"--output_dir={out}"
    lines = [
        (["--weights=no/such.weights.h5", good], 2, "no such weights file: 'no/such.weights.h5'"),
        ([weights, good, "--endpoints=block2,blok3"], 2, "unknown endpoint 'blok3' (did you mean"),
        ([weights, good, "--opset=21"], 2, "unknown opset '21'; options: 13, 14, 15, 16, 17, 18"),
        ([weights, f"--output_dir={tmp_path}/file/x"], 2, "cannot write to output folder"),
        ([weights, good, "--format=onnx", "--tolerance=1e-20"], 1, "not exported: ONNX: 'embed"),
        ([weights, good, "--quantize=int4"], 2, "unknown quantisation 'int4'"),
        ([weights, good, "--quantize=int8"], 2, "int8 needs images like those the model will see"),
        ([weights, good, "--quantize=int8", "--format=keras"], 2, "int8 are forms of the ONNX"),
        ([weights, good, f"--calibration_dir={tmp_path}"], 2, "--calibration_dir goes with"),
        ([weights, good, "--saved_model_version=0"], 2, "the SavedModel's version is a whole"),
        (
            [
                weights,
                good,
                "--feature=f1",
                "--endpoints=block2",
                "--layout=nchw",
                "--quantize=int8,float16",
                f"--calibration_dir={images}",
                "--saved_model_version=3",
            ],
            0,
            "",
        ),
        ([weights, good], 2, f"output folder '{out}' is not empty"),
        ([weights, good, "--format=keras", "--overwrite", "--name=again"], 0, ""),
    ]
    found = run_many("export", [arguments for arguments, _, _ in lines])
    for (code, _, err), (arguments, expected, message) in zip(found, lines, strict=True):
        assert code == expected, (arguments, err)
        told = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(told) == bool(message) and "Traceback" not in err
        assert not message or told[0].startswith(f"error: {message}")

    stdout = "".join(out for _, out, _ in found)
    assert f"exported small to {out}" in stdout
    assert "output embedding    [batch, 8]  rotation-related half" in stdout
    assert re.search(
        r"int8 .* 39 images: cosine [01]\.\d+ .* kNN accuracy \d+\.\d -> \d+\.\d %", stdout
    )
    assert re.search(r"float16 .* 39 images: cosine [01]\.\d+", stdout)
    assert "onnx         agrees with Keras" in stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "backbone.keras", "backbone.weights.h5", "card.json"
    ]  # fmt: skip
    assert json.loads((out / "card.json").read_text())["name"] == "again"


def test_user_errors_of_the_script_are_one_line(tmp_path):
    for arguments, message in [
        (["--weights=x", "--output_dir=y", "--format=onxx"], "unknown export format 'onxx'"),
        (["--output_dir=y"], "--weights is missing"),
        (["--weights=x", "--output_dir=y", "--opset=new"], "flag --opset=new"),
    ]:
        done = run([str(SCRIPT), *arguments], cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
