"""The saliency study's configurations on TFDS datasets, run to their end on a few images each.

The datasets are those of TFDS, with its features, versions and configurations; only their images
are made here.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from script_driver import run_many

from research import study as study_of_networks

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NETWORKS = ("six_layer", "mobilenet_v2", "efficientnet_b0")
#: The small network on every dataset, and one of Keras on one: what else differs is the dataset.
RUN = {
    "coco_cats_dogs": ("six_layer", "efficientnet_b0"),
    "lfw": ("six_layer",),
    "cityscapes": ("six_layer",),
}
# Each of its blocks once: most of the time goes into the graphs of so many layers.
SHALLOW = """
from keras.src.applications import efficientnet
for block in efficientnet.DEFAULT_BLOCKS_ARGS:
    block["repeats"] = 1
"""


def pixels(number, height, width):
    """A picture with a bright square on a dark ramp."""
    ramp = np.linspace(0, 90, width, dtype=np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()
    side = height // 4
    image[number : number + side, 2 * number : 2 * number + side] = 255
    return image


def coco(number):
    label = ("cat", "dog", "car")[number % 3]
    box = tensorflow_datasets.features.BBox(0.1, 0.1, 0.6, 0.5)
    thing = {"area": 10, "bbox": box, "id": number, "is_crowd": False, "label": label}
    return {
        "image": pixels(number, 40, 60),
        "image/filename": f"{number:012}.jpg",
        "image/id": number,
        "objects": [thing],
    }


def lfw(number):
    return {"image": pixels(number, 250, 250), "label": f"person {number}"}


def cityscapes(number):
    return {
        "image_id": str(number),
        "image_left": pixels(number, 1024, 2048),
        "segmentation_label": np.zeros((1024, 2048, 1), np.uint8),
    }


#: Study -> its TFDS dataset, what makes an example, and the number of examples in its splits.
STUDIES = {
    "coco_cats_dogs": ("coco/2017", coco, {"train": 6, "validation": 5, "test": 1}),
    "lfw": ("lfw", lfw, {"train": 7}),
    "cityscapes": ("cityscapes", cityscapes, {"train": 4, "validation": 1, "test": 3}),
}
#: Fewer images than LFW has, so other parts of them.
PARTS = {
    "lfw": [
        "--train_split=train[:4]",
        "--eval_split=train[4:]",
    ]
}


def prepare(study, folder):
    """Writes a study's dataset as TFDS does, with images of ours."""
    name, make, splits = STUDIES[study]
    builder = tensorflow_datasets.builder(name, data_dir=str(folder))
    if study == "coco_cats_dogs":  # whose names come with its annotations
        fillers = [f"thing {number}" for number in range(77)]
        builder.info.features["objects"]["label"].names = ["cat", "dog", "car", *fillers]
    first = 0
    examples = {}
    for split, count in splits.items():
        examples[split] = [(str(n), make(n)) for n in range(first, first + count)]
        first += count
    builder._split_generators = lambda dl_manager: examples
    builder.download_and_prepare()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("study", STUDIES)
def test_the_study_trains_evaluates_and_tabulates_each_network(study, tmp_path):
    prepare(study, tmp_path / "tfds")
    line = [
        f"--study={study}",
        f"--networks={','.join(RUN[study])}",
        f"--tfds_dir={tmp_path}/tfds",
        "--shuffle_rotations",
        "--epochs=1",
        "--batch_size=2",
        "--neurons=2",
        "--max_images=2",
        "--image_size=32",
        "--steps_per_epoch=1",
        "--tensorboard=false",
        "--monitor_every=0",
        "--sheet_images=1",
        *PARTS.get(study, ()),
        f"--output_dir={tmp_path}/out",
    ]
    (first, again) = run_many("study", [line, line], SHALLOW)
    assert first[0] == 0 and again[0] == 0, first[2] + again[2]
    assert [one for one in again[1].splitlines() if ": " in one][: len(RUN[study])] == [
        f"{name}: reused" for name in RUN[study]
    ]
    text = (tmp_path / "out" / "study.md").read_text()
    assert "Evaluated on 2 pictures" in text and "shuffled over an epoch" in text
    for name in RUN[study]:
        run = json.loads((tmp_path / "out" / name / "run.json").read_text())
        assert run["flags"]["crop"] == "stretch" and run["flags"]["optimizer"] == "rmsprop"
        assert run["identity"]["num_images"] == 4
        assert f"| {name} |" in text
    boxes = study == "coco_cats_dogs"
    assert (tmp_path / "out" / "study.csv").exists() == boxes
    if boxes:
        with open(tmp_path / "out" / "study.csv") as file:
            assert {row["backbone"] for row in csv.DictReader(file)} == set(RUN[study])


@pytest.mark.parametrize("study", STUDIES)
def test_configurations_of_a_study_differ_in_the_network_only(study):
    settings = [
        [
            line
            for line in (CONFIGS / f"study_{study}_{name}.cfg").read_text().splitlines()
            if line.startswith("--") and not line.startswith("--backbone=")
        ]
        for name in NETWORKS
    ]
    assert settings[0] == settings[1] == settings[2]


def test_every_network_has_its_thresholds():
    assert set(study_of_networks.THRESHOLDS) == set(study_of_networks.NETWORKS) == set(NETWORKS)
    layers = {tuple(each) for each in study_of_networks.THRESHOLDS.values()}
    assert layers == {("rotation", "embedding")}
