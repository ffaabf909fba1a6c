"""DeepCluster on digits by the script: chance, figures, resuming, evaluation, export."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import script_driver
from PIL import Image

from rfd_tf import applications

SIZE, CLUSTERS = 18, 20
FILTERS = [8, 8, 16, 16, 16, 32]
TINY = [
    "--method=deepcluster",
    "--dataset=digits",
    "--backbone=six_layer",
    f"--backbone_option=filters={json.dumps(FILTERS)}",
    "--backbone_option=sobel=true",
    f"--image_size={SIZE}",
    "--nohorizontal_flip",
    "--padding=1",
    "--batch_size=50",
    "--learning_rate=0.1",
    "--schedule=constant",
    f"--method_option=num_clusters={CLUSTERS}",
    "--method_option=pca_dimensions=16",
    "--monitor_every=0",
    "--mixed_precision=float32",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A complete run, and one in two parts beside one in a single part."""
    folder = tmp_path_factory.mktemp("runs")
    end = ["--evaluate=knn", "--export=saved_model,onnx"]
    short = ["--steps_per_epoch=4", "--deterministic"]
    lines = [
        [*TINY, "--epochs=3", *end, f"--output_dir={folder}/whole"],
        [*TINY, *short, "--epochs=2", f"--output_dir={folder}/straight"],
        [*TINY, *short, "--epochs=1", f"--output_dir={folder}/resumed"],
        [*TINY, *short, "--epochs=2", f"--output_dir={folder}/resumed"],
    ]
    for code, out, err in script_driver.run_many("pretrain", lines):
        assert code == 0, out + err
    return folder


def _rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_clusters_are_learnt_beyond_chance(runs):
    rows = _rows(runs / "whole" / "metrics.csv")
    for row in rows:
        # The head of each epoch begins at chance.
        assert float(row["cluster_loss"]) < 0.97 * np.log(CLUSTERS)
        assert float(row["clusters"]) == CLUSTERS and float(row["largest_cluster"]) < 0.5
    assert float(rows[-1]["cluster_loss"]) < 0.75 * np.log(CLUSTERS)
    assert float(rows[-1]["cluster_accuracy"]) > 5 / CLUSTERS
    assert float(rows[0]["cluster_nmi"]) == 0 and 0.3 < float(rows[-1]["cluster_nmi"]) < 1


def test_the_run_is_complete(runs):
    folder = runs / "whole"
    picture = Image.open(folder / "figures" / "sample_clusters.png")
    assert picture.size == (8 * SIZE, 8 * SIZE) and picture.mode == "RGB"
    results = json.loads((folder / "evaluation.json").read_text())["results"]
    assert max(result["value"] for result in results) > 0.5
    assert (folder / "export" / "saved_model").is_dir()
    assert (folder / "export" / "model.onnx").is_file()
    network, record = applications.load_backbone(folder)
    assert record["arguments"]["sobel"] and network.get_layer("sobel").output.shape[-1] == 2
    assert np.isfinite(network(np.zeros((1, SIZE, SIZE, 3), "float32"))).all()


def test_a_run_resumes_bit_for_bit(runs):
    straight, resumed = (
        np.load(runs / name / "checkpoints" / "step-000000008.npz")
        for name in ("straight", "resumed")
    )
    assert straight.files == resumed.files
    assert any("assignments" in name for name in straight.files)
    for name in set(straight.files) - {"description"}:
        np.testing.assert_array_equal(straight[name], resumed[name], err_msg=name)
    rows = [_rows(runs / name / "metrics.csv") for name in ("straight", "resumed")]
    for one, other in zip(*rows, strict=True):
        for name in ("loss", "cluster_nmi", "largest_cluster"):
            assert one[name] == other[name]


def test_mistakes_end_in_one_line(tmp_path):
    lines = [
        [*TINY, "--method_option=num_clusters=2000", f"--output_dir={tmp_path}/a"],
        [*TINY, "--method_option=kmeans_library=torch", f"--output_dir={tmp_path}/b"],
        [*TINY, "--crops=2", f"--output_dir={tmp_path}/c"],
    ]
    messages = [
        "num_clusters 2000 is more than the 1500 images",
        "unknown k-means library 'torch'; options: sklearn, faiss",
        "2 crops of an image do not suit the method DeepCluster",
    ]
    for (code, _, err), message in zip(
        script_driver.run_many("pretrain", lines), messages, strict=True
    ):
        assert code == 2 and message in err and "Traceback" not in err
