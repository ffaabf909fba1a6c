"""Each method trains on handwritten digits by the script, leaves chance, evaluates, exports."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rfd_tf import applications

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"
TINY = [
    "--dataset=digits",
    "--backbone=six_layer",
    "--backbone_option=filters=[8,8,16,16,16,32]",
    "--image_size=18",
    "--nohorizontal_flip",
    "--padding=1",
    "--batch_size=50",
    "--learning_rate=0.05",
    "--epochs=3",
    "--monitor_every=0",
    "--mixed_precision=float32",
    "--evaluate=knn",
    "--export=saved_model",
]
INSTANCE = ["--instance_loss=softmax", "--temperature=0.2", "--projection_dimensions=32"]
NO_FLIP = ["--method_option=tile_flip=false", "--method_option=tile_size=6"]

#: Flags, and for each logged quantity what it must be below (a loss) or above (an accuracy), as a
#: share of its chance level.
METHODS = {
    "rotation": ([], {"rotation_loss": 0.8, "rotation_accuracy": 1.6}),
    "instance": (INSTANCE, {"instance_loss": 0.9}),
    "pirl": (
        ["--crops=2", *INSTANCE, *NO_FLIP],
        {"image_loss": 0.9, "transformed_loss": 0.95},
    ),
    "rfd_jigsaw": (
        [*INSTANCE, *NO_FLIP],
        {"rotation_accuracy": 1.6, "instance_loss": 0.9, "jigsaw_loss": 0.95},
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
def test_a_method_learns_and_its_run_is_complete(method, tmp_path):
    flags, bounds = METHODS[method]
    folder = tmp_path / method
    done = run(f"--method={method}", *TINY, *flags, f"--output_dir={folder}")
    assert done.returncode == 0, done.stderr
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    chance = {"rotation_loss": np.log(4), "rotation_accuracy": 0.25}
    for name, share in bounds.items():
        value, level = float(last[name]), chance.get(name, np.log(1500))
        assert (value > share * level) if share > 1 else (value < share * level), (name, last)
    report = json.loads((folder / "evaluation.json").read_text())
    judged = {result["name"]: result["value"] for result in report["results"]}
    assert {"block1", "block6"} <= set(judged) and all(0.1 < a < 1 for a in judged.values())
    assert (folder / "export" / "saved_model").is_dir()
    backbone = applications.SixLayer(
        include_top=False,
        pooling="avg",
        filters=[8, 8, 16, 16, 16, 32],
        weights=str(folder / "backbone.weights.h5"),
    )
    assert np.isfinite(backbone(np.zeros((1, 18, 18, 3), "float32"))).all()


def test_a_run_with_drawn_views_resumes_bit_for_bit(tmp_path):
    # The generators' state lies in the checkpoint.
    common = [
        "--method=pirl",
        *[flag for flag in TINY if not flag.startswith(("--epochs", "--evaluate", "--export"))],
        *INSTANCE,
        "--method_option=transform=both",
        "--method_option=permutations=20",
        "--schedule=constant",
        "--steps_per_epoch=2",
        "--deterministic",
        "--notensorboard",
    ]
    for name, epochs in (("straight", [2]), ("resumed", [1, 2])):
        for count in epochs:
            done = run(*common, f"--epochs={count}", f"--output_dir={tmp_path / name}")
            assert done.returncode == 0, done.stderr
    archives = [
        np.load(tmp_path / n / "checkpoints" / "step-000000004.npz")
        for n in ("straight", "resumed")
    ]
    assert archives[0].files == archives[1].files
    assert any("place_seed" in name or "seed_generator" in name for name in archives[0].files)
    for name in archives[0].files:
        if name != "description":
            np.testing.assert_array_equal(archives[0][name], archives[1][name], err_msg=name)


def test_flags_of_other_methods_are_refused(tmp_path):
    done = run("--method=rotation", "--dataset=digits", "--split=0.3", f"--output_dir={tmp_path}/a")
    assert done.returncode == 2 and "--split has no meaning for method rotation" in done.stderr
    done = run(
        "--method=pirl", "--dataset=digits", "--method_option=tiles=3", f"--output_dir={tmp_path}/b"
    )
    assert done.returncode == 2 and "tile_size" in done.stderr, done.stderr
