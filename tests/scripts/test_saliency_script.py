"""scripts/saliency.py and scripts/study.py as a user runs them."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf import applications
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"filters": [4, 4, 4, 4, 4, 8]}
RACCOON = ROOT.parent / "shared" / "data" / "raccoon_voc.tar"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """An untrained run with a rotation classifier, and one without."""
    keras.utils.set_random_seed(5)
    folder = tmp_path_factory.mktemp("runs")
    for name in ("rotation", "headless"):
        method = METHODS["rotation"](applications.build("six_layer", 16, **SMALL))
        record = {"format": 1, "backbone": "six_layer", "arguments": SMALL, "epoch": 0}
        (folder / name).mkdir()
        path = folder / name / "backbone.weights.h5"
        applications.save_backbone(method.backbone, path, {**record, **method.record()})
        (folder / name / "run.json").write_text(json.dumps({"flags": {}}))
        if name == "rotation":
            save_heads(folder / name, method.heads(), 0)
    return folder / "rotation"


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Ten pictures in VOC's layout, and the same boxes as COCO's."""
    folder = tmp_path_factory.mktemp("voc")
    rng = np.random.default_rng(0)
    for part in ("images", "annotations"):
        (folder / part).mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number in range(10):
        left = 2 * number
        pixels = rng.integers(0, 100, (20, 40, 3), np.uint8)
        pixels[5:15, left : left + 10] = 255
        name = f"{number}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        (folder / "annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{name}</filename><size><width>40</width><height>20</height>"
            f"</size><object><name>square</name><bndbox><xmin>{left + 1}</xmin><ymin>6</ymin>"
            f"<xmax>{left + 10}</xmax><ymax>15</ymax></bndbox></object></annotation>"
        )
        coco["images"].append({"id": number, "file_name": name, "width": 40, "height": 20})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [left, 5, 10, 10]}
        coco["annotations"].append(box)
    (folder / "coco.json").write_text(json.dumps(coco))
    return folder


def test_boxes_of_either_kind_give_the_same_table(run_folder, voc, tmp_path):
    common = [f"--weights={run_folder}", "--quantile=0.75", "--threshold=embedding:0.001"]
    (code, out, err), (again, *_) = run_many(
        "saliency",
        [
            [*common, f"--voc_dir={voc}", f"--output_dir={tmp_path}/voc"],
            [
                *common,
                f"--coco_annotations={voc}/coco.json",
                f"--coco_images={voc}/images",
                f"--output_dir={tmp_path}/coco",
            ],
        ],
    )
    assert (code, again) == (0, 0), err
    assert "| rotation | strongest 25 % | random init |" in out
    assert "| embedding | at least 0.001 | pretrained |" in out
    first, second = (
        json.loads((tmp_path / name / "saliency.json").read_text()) for name in ("voc", "coco")
    )
    assert first["rows"] == second["rows"] and len(first["rows"]) == 6
    assert first["num_images"] == 10
    with open(tmp_path / "voc" / "saliency.csv") as file:
        assert len(list(csv.reader(file))) == 11
    assert Image.open(tmp_path / "voc" / "saliency.png").width > 500


def test_user_errors_are_one_line(run_folder, voc, tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text('{"images": [], "categories": []}')
    without = tmp_path / "plain"
    (without / "images").mkdir(parents=True)
    (without / "annotations").mkdir()
    weights = f"--weights={run_folder}"
    lines = {
        "give --weights": [f"--voc_dir={voc}"],
        "none given": [weights],
        "--voc_dir and --data_dir given": [weights, f"--voc_dir={voc}", f"--data_dir={voc}"],
        "unknown layer 'fc7'": [weights, f"--voc_dir={voc}", "--layers=fc7"],
        "unknown layer with a map 'fc7'": [weights, "--map=grad_cam", "--map_layer=fc7"],
        "no COCO annotation file": [
            weights,
            f"--coco_annotations={empty}",
            f"--coco_images={voc}",
        ],
        "reference network has no rotation classifier": [
            weights,
            f"--voc_dir={voc}",
            "--layers=rotation",
            f"--reference_weights={run_folder.parent}/headless",
        ],
        "go together": [weights, f"--coco_annotations={empty}"],
        "holds no .xml file": [weights, f"--voc_dir={without}"],
        "must be a number": [weights, f"--voc_dir={voc}", "--threshold=rotation:much"],
        "--max_images=0": [weights, f"--voc_dir={voc}", "--max_images=0"],
        "--draws=3 has no effect with --map='gradient'; leave it out, or give --map='smooth'": [
            weights,
            f"--voc_dir={voc}",
            "--draws=3",
        ],
        "--power=2 has no effect": [weights, f"--voc_dir={voc}", "--map=grad_cam", "--power=2"],
        "--colors='mean' has no effect": [
            weights,
            f"--voc_dir={voc}",
            "--map=attention",
            "--colors=mean",
        ],
        "--map_layer='block4' has no effect": [weights, f"--voc_dir={voc}", "--map_layer=block4"],
        "--combine='maximum' has no effect": [weights, f"--voc_dir={voc}", "--combine=maximum"],
        "--classes goes with": [weights, f"--data_dir={voc}", "--classes=cat"],
        "--masks goes with": [weights, f"--data_dir={voc}", "--masks"],
        "--reference_title goes with": [weights, f"--voc_dir={voc}", "--reference_title=other"],
        "no rotation classifier": [f"--weights={run_folder.parent}/headless", f"--voc_dir={voc}"],
    }
    found = run_many("saliency", lines.values())
    for message, (code, _, err) in zip(lines, found, strict=True):
        assert code == 2 and message in err and err.count("\n") == 1, (message, err)


def test_one_command_trains_evaluates_and_tabulates(voc, tmp_path):
    arguments = [
        f"--data_dir={voc}",
        "--networks=six_layer",
        "--epochs=1",
        "--batch_size=4",
        "--neurons=3",
        "--image_size=16",
        "--backbone_option=filters=[4,4,4,4,4,8]",
        "--tensorboard=false",
        f"--output_dir={tmp_path}/out",
    ]
    changed = [*arguments, "--learning_rate=1e-3"]
    done, again, refused = run_many("study", [arguments, arguments, changed])
    assert done[0] == 0, done[2]
    output = tmp_path / "out"
    pictures = {
        part: {path.name for path in (output / "pictures" / part / "images").iterdir()}
        for part in ("train", "test")
    }
    assert len(pictures["train"]) == 8 and len(pictures["test"]) == 2
    assert not pictures["train"] & pictures["test"]
    flags = json.loads((output / "six_layer" / "run.json").read_text())["flags"]
    assert flags["optimizer"] == "rmsprop" and flags["schedule"] == "exponential"
    assert flags["crop"] == "stretch" and flags["epochs"] == 1
    text = (output / "study.md").read_text()
    assert "| six_layer | rotation | at least 0.0008 | random init |" in text
    assert "Evaluated on 2 pictures" in text
    with open(output / "study.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["layer"], row["network"]) for row in rows} == {
        (layer, network)
        for layer in ("rotation", "embedding")
        for network in ("pretrained", "random init")
    }
    assert (output / "six_layer" / "saliency" / "saliency.png").exists()
    assert again[0] == 0 and "six_layer: reused" in again[1]
    assert refused[0] == 2 and "learning_rate was 0.0001 and is now 0.001" in refused[2]


def test_user_errors_of_a_study_are_one_line(voc, tmp_path):
    lines = {
        "unknown study 'faces'": ["--study=faces"],
        "unknown network of the study 'vgg16'": ["--networks=vgg16"],
        "give --output_dir": [],
        "needs --data_dir": [f"--output_dir={tmp_path}"],
        "--data_dir goes with --study=folder": ["--study=lfw", "--data_dir=x", "--output_dir=y"],
        "no such folder": ["--data_dir=none", f"--output_dir={tmp_path}"],
        "too few": [f"--data_dir={voc}/annotations", f"--output_dir={tmp_path}"],
    }
    found = run_many("study", lines.values())
    for message, (code, _, err) in zip(lines, found, strict=True):
        assert code == 2 and message in err and err.count("\n") == 1, (message, err)


def test_real_photographs(run_folder, tmp_path):
    if not RACCOON.exists():
        pytest.skip(f"no '{RACCOON}'")
    shutil.unpack_archive(RACCOON, tmp_path, filter="data")
    (annotations,) = tmp_path.rglob("annotations")
    line = [
        f"--weights={run_folder}",
        f"--voc_dir={annotations.parent}",
        "--max_images=20",
        "--map=attention",
        f"--reference_weights={run_folder.parent}/headless",
        f"--output_dir={tmp_path}/out",
    ]
    ((code, out, err),) = run_many("saliency", [line])
    assert code == 0 and "20 pictures" in out, err
