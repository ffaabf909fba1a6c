"""What several tasks are tried on: a run folder of RFD on the digits."""

import json

import keras
import pytest

from rfd_tf import applications, data
from rfd_tf.evaluation.base import Data, Subject
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.methods import RotationFeatureDecoupling


@pytest.fixture(scope="session")
def rfd_method():
    keras.utils.set_random_seed(5)
    backbone = applications.build("six_layer", 16)
    return RotationFeatureDecoupling(backbone, 300, num_negatives=8, seed=1)


@pytest.fixture(scope="session")
def rfd_run(rfd_method, tmp_path_factory):
    """The folder of an untrained run, heads and all."""
    folder = tmp_path_factory.mktemp("runs") / "rfd"
    folder.mkdir()
    record = {"format": 1, "backbone": "six_layer", "arguments": {}, "dataset": "digits"}
    record = {**record, "epoch": 0, **rfd_method.record()}
    applications.save_backbone(rfd_method.backbone, folder / "backbone.weights.h5", record)
    (folder / "run.json").write_text(json.dumps({"flags": {"dataset": "digits"}}))
    save_heads(folder, rfd_method.heads(), 0)
    return folder


@pytest.fixture(scope="session")
def rfd_subject(rfd_run):
    return Subject.pretrained(rfd_run)


@pytest.fixture(scope="session")
def small_digits():
    """300 digits to learn from and 297 to evaluate, at 16 pixels."""
    return Data(data.digits(), data.digits("test"), 16, batch_size=128, max_train_images=300)
