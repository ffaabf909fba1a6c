"""What maps are tried on: a tiny run of rotation prediction, and pictures with boxes."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import applications
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.methods import METHODS

SIZE = 16


@pytest.fixture(scope="session")
def rotation_run(tmp_path_factory):
    """The folder of an untrained run, heads and all."""
    keras.utils.set_random_seed(5)
    folder = tmp_path_factory.mktemp("runs") / "rotation"
    folder.mkdir()
    arguments = {"filters": [4, 4, 4, 4, 4, 8]}
    method = METHODS["rotation"](applications.build("six_layer", SIZE, **arguments))
    record = {"format": 1, "backbone": "six_layer", "arguments": arguments, "epoch": 0}
    record = {**record, **method.record()}
    applications.save_backbone(method.backbone, folder / "backbone.weights.h5", record)
    (folder / "run.json").write_text(json.dumps({"flags": {}}))
    save_heads(folder, method.heads(), 0)
    return folder


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """A folder of ten pictures in VOC's layout: a white square on noise, and its box."""
    folder = tmp_path_factory.mktemp("voc")
    return write_voc(folder, 10)


def write_voc(folder, count):
    rng = np.random.default_rng(0)
    for part in ("images", "annotations"):
        (folder / part).mkdir()
    for number in range(count):
        pixels = rng.integers(0, 100, (20, 40, 3), np.uint8)
        left, top = 4 + 2 * number, 5
        pixels[top : top + 10, left : left + 10] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        # 1-based corners, which belong to the box.
        (folder / "annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename>"
            "<size><width>40</width><height>20</height></size><object><name>square</name><bndbox>"
            f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{left + 10}</xmax>"
            f"<ymax>{top + 10}</ymax></bndbox></object></annotation>"
        )
    return folder
