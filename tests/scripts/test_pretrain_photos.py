"""Training on crops of photographs by the scripts: out of the box, resumed, and mistakes."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf.data import digits

CROPS = [
    "--source_images=sklearn:china.jpg,sklearn:flower.jpg",
    "--source_crops=60",
    "--image_size=16",
]
TINY = [
    "--method=rotation",
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--batch_size=20",
    "--learning_rate=0.01",
    "--mixed_precision=float32",
]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    source = digits("test")
    for place in range(40):
        name = folder / str(source.labels[place] % 2) / f"{place}.png"
        name.parent.mkdir(exist_ok=True)
        Image.fromarray(source.images[place]).save(name)
    return folder


def test_a_network_trains_on_two_photographs_and_is_evaluated_on_others(labelled, tmp_path):
    run = tmp_path / "run"
    command = [*CROPS, "--source_noise=0.1", *TINY, f"--eval_dir={labelled}", f"--output_dir={run}"]
    results = run_many(
        "pretrain",
        [
            [*command, "--epochs=1", "--evaluate=knn"],
            [*command, "--epochs=2", "--evaluate=knn"],
            [*command, "--epochs=3", "--source_seed=1"],
            [*command, "--epochs=3", "--source_shear=10"],
            [*command, "--epochs=3", "--source_noise=0.2"],
        ],
    )
    for code, _, err in results[:2]:
        assert code == 0, err
    assert "60 images of crops of china.jpg and 1 more" in results[0][1]
    assert "resuming after epoch 1" in results[1][1]
    for code, _, err in results[2:]:
        assert code == 2 and "fingerprint" in err, err
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(0 <= float(row["knn_accuracy"]) <= 1 for row in rows)
    picture = np.asarray(Image.open(run / "figures" / "source_crops.png"))
    assert picture.shape == (142, 142, 3) and picture.std() > 30
    record = json.loads((run / "run.json").read_text())
    assert record["flags"]["source_images"] == ["sklearn:china.jpg", "sklearn:flower.jpg"]
    assert record["flags"]["source_noise"] == 0.1
    assert record["flags"]["source_crops"] == 60 and record["flags"]["source_rotation"] == 30
    assert (run / "evaluation.json").exists()


def test_user_errors_are_one_line(tmp_path):
    run = f"--output_dir={tmp_path / 'run'}"
    (tmp_path / "notes.jpg").write_text("no image")
    mistakes = [
        ([f"--source_images={tmp_path}/none.jpg"], "no such photograph"),
        ([f"--source_images={tmp_path}/notes.jpg"], "cannot be read as an image"),
        ([*CROPS, "--dataset=digits"], "--dataset and --source_images were given"),
        ([*CROPS, "--source_crops=10"], "batch_size 20 is more than the 10 images"),
        ([*CROPS, "--source_rotation=-5"], "rotation of crops is an angle in degrees from 0"),
        ([*CROPS, "--source_noise=2"], "noise of crops is a share of the range of the pixels"),
        (
            ["--dataset=digits", "--source_crops=10"],
            "has no effect without --source_images",
        ),
        ([*CROPS, "--source_scale=false", "--source_size=300"], "the 424 that crops of 300 need"),
    ]
    results = run_many("pretrain", [[*TINY, *given, run] for given, _ in mistakes])
    for (code, _, err), (_, message) in zip(results, mistakes, strict=True):
        assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "run" / "run.json").exists()


def test_pu_weights_of_crops_belong_to_these_crops(tmp_path):
    output = tmp_path / "weights.npz"
    network = [flag for flag in TINY if "method" not in flag]
    network += ["--batch_size=10", "--folds=2", "--epochs=1", f"--output={output}"]
    ((code, out, err),) = run_many("estimate_pu", [[*CROPS, *network]])
    assert code == 0 and output.exists(), err
    train = [*CROPS, *TINY, "--method=rfd", "--num_negatives=8", f"--pu_weights={output}"]
    train += ["--epochs=1", "--monitor_every=0", "--tensorboard=false"]
    good, bad = run_many(
        "pretrain",
        [
            [*train, f"--output_dir={tmp_path / 'a'}"],
            [*train, "--source_seed=5", f"--output_dir={tmp_path / 'b'}"],
        ],
    )
    assert good[0] == 0, good[2]
    assert bad[0] == 2 and "weights.npz" in bad[2]
