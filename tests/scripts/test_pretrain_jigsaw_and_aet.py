"""Jigsaw puzzles and AET on handwritten digits by the script: chance, figures, resuming, export."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"
FILTERS = [8, 8, 16, 16, 16, 32]
TINY = [
    "--dataset=digits",
    "--backbone=six_layer",
    f"--backbone_option=filters={json.dumps(FILTERS)}",
    "--image_size=18",
    "--nohorizontal_flip",
    "--padding=1",
    "--batch_size=50",
    "--learning_rate=0.05",
    "--schedule=constant",
    "--monitor_every=0",
    "--mixed_precision=float32",
]
PUZZLE = ["--method_option=permutations=10", "--method_option=tile_size=6"]

#: Method's flags, its figure with rows of it, and what a logged quantity must be below (a loss) or
#: above (an accuracy).
METHODS = {
    "jigsaw": (PUZZLE, "jigsaw_puzzles", 2, {"jigsaw_loss": 1.5, "jigsaw_accuracy": 0.4}),
    "aet": (
        [],
        "original_transformed_estimated",
        3,
        {"transformation_loss": 0.95, "turn_error": 87.0},
    ),
}


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_chance_and_its_run_is_complete(method, tmp_path):
    flags, figure, rows, bounds = METHODS[method]
    folder = tmp_path / method
    done = run(
        f"--method={method}",
        *TINY,
        *flags,
        "--epochs=3",
        "--evaluate=knn",
        "--export=saved_model",
        f"--output_dir={folder}",
    )
    assert done.returncode == 0, done.stderr
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    for name, bound in bounds.items():
        value = float(last[name])
        assert value > bound if "accuracy" in name else value < bound, (name, last)
    assert "(chance " in done.stdout
    picture = Image.open(folder / "figures" / f"{figure}.png")
    assert picture.size == (8 * 18, rows * 18) and picture.mode == "RGB"
    assert json.loads((folder / "evaluation.json").read_text())
    assert (folder / "export" / "saved_model").is_dir()
    backbone = applications.SixLayer(
        include_top=False, filters=FILTERS, weights=str(folder / "backbone.weights.h5")
    )
    assert np.isfinite(backbone(np.zeros((1, 18, 18, 3), "float32"))).all()


def test_a_run_resumes_bit_for_bit(tmp_path):
    # The generators' state lies in the checkpoint, and figures leave it alone.
    flags = ["--method=jigsaw", *PUZZLE, "--method_option=dropout=0.3"]
    common = [*TINY, *flags, "--steps_per_epoch=2", "--deterministic"]
    for name, epochs in (("straight", [2]), ("resumed", [1, 2])):
        for count in epochs:
            done = run(*common, f"--epochs={count}", f"--output_dir={tmp_path / name}")
            assert done.returncode == 0, done.stderr
    straight, resumed = (
        np.load(tmp_path / name / "checkpoints" / "step-000000004.npz")
        for name in ("straight", "resumed")
    )
    assert straight.files == resumed.files
    for name in set(straight.files) - {"description"}:
        np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=jigsaw", "--method_option=tile_size=99"], "tile_size 99 must be 1 to 6 pixels"),
        (["--method=jigsaw", "--image_size=9"], "cannot take images of 2 x 2 pixels"),
        (["--method=jigsaw", "--crops=2"], "2 crops of an image do not suit the method Jigsaw"),
        (["--method=aet", "--method_option=shape=1"], "unknown option of method aet 'shape'"),
        (["--method=aet", "--temperature=0.1"], "--temperature has no meaning for method aet"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path):
    done = run(*TINY, *arguments, f"--output_dir={tmp_path}/run")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
