"""A small backbone with a record, its weights in a run folder, and one export of it."""

import json

import numpy as np
import pytest
from export_helpers import FILTERS, RECORD, randomize

from rfd_tf import applications
from rfd_tf.applications.weights import sha256


@pytest.fixture(scope="session")
def record():
    return RECORD


@pytest.fixture(scope="session")
def backbone():
    return randomize(applications.build("six_layer", 32, filters=FILTERS))


@pytest.fixture(scope="session")
def run_folder(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = applications.save_backbone(backbone, folder / "backbone.weights.h5", RECORD)
    results = [
        {
            "task": "knn",
            "name": name,
            "images": images,
            "metric": "accuracy",
            "when": "",
            "value": 0.905,
            "random_init": 0.5,
        }
        for name in ("f", "f2")
        for images in ("upright", "rotated")
    ]
    data = {"train": "digits", "test": "digits test", "num_train": 1500, "num_test": 297}
    report = {"sha256": sha256(path), "data": data, "results": results}
    (folder / "evaluation.json").write_text(json.dumps(report))
    return folder


@pytest.fixture(scope="session")
def pixels():
    return np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def exported(run_folder, tmp_path_factory):
    """One export in all formats, with an endpoint: `(folder, card)`."""
    from rfd_tf.export import export_backbone

    folder = tmp_path_factory.mktemp("exported") / "small"
    card = export_backbone(
        run_folder, folder, ("keras", "onnx", "saved_model"), endpoints=["block2"]
    )
    return folder, card
