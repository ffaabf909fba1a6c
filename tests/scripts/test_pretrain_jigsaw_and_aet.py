"""Jigsaw puzzles and AET on handwritten digits by the script: chance, figures, resuming, export."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from script_driver import check_mistakes, check_resuming, run_script

from rfd_tf import applications

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
        {"transformation_loss": 0.95, "rotation_error": 87.0},
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_chance_and_its_run_is_complete(method, tmp_path):
    flags, figure, rows, bounds = METHODS[method]
    folder = tmp_path / method
    done = run_script(
        "pretrain",
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
    check_resuming([*TINY, *flags], tmp_path)


def test_mistakes_end_in_one_line(tmp_path):
    jigsaw, aet = "--method=jigsaw", "--method=aet"
    mistakes = {
        "tile_size 99 must be 1 to 6 pixels": [jigsaw, "--method_option=tile_size=99"],
        "cannot take images of 3 x 3 pixels": [jigsaw, "--image_size=9"],
        "2 crops of an image do not suit the method Jigsaw": [jigsaw, "--crops=2"],
        "unknown option of method aet 'shape'": [aet, "--method_option=shape=1"],
        "--temperature has no meaning for method aet": [aet, "--temperature=0.1"],
    }
    check_mistakes("pretrain", [*TINY, f"--output_dir={tmp_path}/run"], mistakes)
