"""Each method trains on handwritten digits by the script, leaves chance, evaluates, exports."""

import csv
import json

import numpy as np
import pytest
from script_driver import check_mistakes, check_resuming, run_script

from rfd_tf import applications

TINY = [
    "--preset=paper",
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
    "distillation": (["--teacher=six_layer.rfd_cifar10"], {"distillation_loss": 0.8}),
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


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_and_its_run_is_complete(method, tmp_path):
    flags, bounds = METHODS[method]
    folder = tmp_path / method
    done = run_script("pretrain", f"--method={method}", *TINY, *flags, f"--output_dir={folder}")
    assert done.returncode == 0, done.stderr
    with open(folder / "metrics.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    chance = {"rotation_loss": np.log(4), "rotation_accuracy": 0.25, "distillation_loss": 1.0}
    for name, share in bounds.items():
        value, level = float(last[name]), chance.get(name, np.log(1500))
        assert (value > share * level) if share > 1 else (value < share * level), (name, last)
    report = json.loads((folder / "evaluation.json").read_text())
    evaluated = {result["name"]: result["value"] for result in report["results"]}
    assert {"block1", "block6"} <= set(evaluated) and all(0.1 < a < 1 for a in evaluated.values())
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
        "--notensorboard",
    ]
    names = check_resuming(common, tmp_path)
    assert any("place_seed" in name or "seed_generator" in name for name in names)


def test_a_run_of_shuffled_rotations_resumes_bit_for_bit(tmp_path):
    common = [
        "--method=rotation",
        *[flag for flag in TINY if not flag.startswith(("--epochs", "--evaluate", "--export"))],
        "--method_option=shuffle_rotations=true",
        "--schedule=constant",
        "--notensorboard",
    ]
    check_resuming(common, tmp_path)


def test_flags_of_other_methods_are_refused(tmp_path):
    mistakes = {
        "--split has no meaning for method rotation": ["--method=rotation", "--split=0.3"],
        "tile_size": ["--method=pirl", "--method_option=tiles=3"],
    }
    check_mistakes("pretrain", ["--dataset=digits", f"--output_dir={tmp_path}/run"], mistakes)
