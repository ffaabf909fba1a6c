"""BiGAN on handwritten digits by the script: what it learns, figures, evaluation, resuming."""

import csv
import json

import numpy as np
from PIL import Image
from script_driver import check_mistakes, check_resuming, run_script

from rfd_tf import applications

FILTERS = [8, 8, 16, 16, 16, 32]
TINY = [
    "--method=bigan",
    "--dataset=digits",
    "--backbone=six_layer",
    f"--backbone_option=filters={json.dumps(FILTERS)}",
    "--image_size=18",
    "--nohorizontal_flip",
    "--crop=none",
    "--batch_size=50",
    "--optimizer=adam",
    "--momentum=0.5",
    "--learning_rate=0.002",
    "--schedule=constant",
    "--weight_decay=0",
    "--method_option=latent_dimensions=10",
    "--method_option=generator_width=16",
    "--method_option=discriminator_width=32",
    "--monitor_every=0",
    "--mixed_precision=float32",
]


def test_reconstructions_leave_chance_and_the_run_is_complete(tmp_path):
    folder = tmp_path / "run"
    done = run_script(
        "pretrain", *TINY, "--epochs=25", "--export=saved_model", f"--output_dir={folder}"
    )
    assert done.returncode == 0, done.stderr
    with open(folder / "metrics.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert rows[-1]["reconstruction_ratio"] < 0.92, rows
    assert rows[-1]["reconstruction_error"] < 0.9 * rows[0]["reconstruction_error"], rows
    # It begins at 0.6931, and is far below as long as the generator knows nothing.
    assert rows[0]["discriminator_loss"] < 0.5 and rows[0]["discriminator_accuracy"] > 0.8, rows
    assert "reconstruction_ratio" in done.stdout and "(chance 0.6931)" in done.stdout
    for name, size in (("reconstructions", (8, 2)), ("samples", (8, 4))):
        picture = Image.open(folder / "figures" / f"{name}.png")
        assert picture.size == (size[0] * 18, size[1] * 18) and picture.mode == "RGB"
    assert (folder / "export" / "saved_model").is_dir()
    backbone = applications.SixLayer(
        include_top=False, filters=FILTERS, weights=str(folder / "backbone.weights.h5")
    )
    assert np.isfinite(backbone(np.zeros((1, 18, 18, 3), "float32"))).all()

    # The nearest neighbour, beside the one by raw pixels and by a random encoder.
    done = run_script("evaluate", "--task=knn", "--k=1", "--raw_pixels", f"--weights={folder}")
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "evaluation.json").read_text())["results"]
    by_name = {row["name"]: row for row in results if row["images"] == "upright"}
    assert by_name["pixels"]["value"] == by_name["pixels"]["random_init"] > 0.9
    assert 0.3 < by_name["embedding"]["value"] <= 1
    assert by_name["block6"]["random_init"] > 0.3


def test_a_run_resumes_bit_for_bit(tmp_path):
    check_resuming(TINY, tmp_path)


def test_mistakes_end_in_one_line(tmp_path):
    mistakes = {
        "images of 12 pixels are too small to generate": ["--image_size=12"],
        "generated_size 32 must be from 16 to 18": ["--method_option=generated_size=32"],
    }
    check_mistakes("pretrain", [*TINY, f"--output_dir={tmp_path}/run"], mistakes)
