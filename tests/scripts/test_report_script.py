"""scripts/report.py as a user runs it: a page, files for TensorBoard, one line for a mistake."""

import json

import pytest
from script_driver import run_many

from rfd_tf import applications


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An untrained run whose network has no halves, one whose images have moved, one of nothing."""
    root = tmp_path_factory.mktemp("runs")
    arguments = {"filters": [4, 4, 4, 4, 4, 8]}
    record = {
        "format": 1,
        "backbone": "six_layer",
        "arguments": arguments,
        "image_size": 16,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "feature": {"endpoint": "block6", "pooling": "avg"},
    }
    backbone = applications.build("six_layer", 16, **arguments)
    for name, flags in {
        "digits": {"dataset": "digits", "epochs": 0},
        "moved": {"data_dir": str(root / "gone"), "epochs": 0},
    }.items():
        applications.save_backbone(backbone, root / name / "backbone.weights.h5", record)
        (root / name / "run.json").write_text(json.dumps({"flags": flags}))
    (root / "empty").mkdir()
    return root


def test_reports_and_mistakes(runs, tmp_path):
    digits, moved = f"--run={runs / 'digits'}", f"--run={runs / 'moved'}"
    lines = [
        [digits, "--images=30", "--tensorboard"],
        [moved, "--images=0", f"--output={tmp_path / 'x.html'}"],
        [],
        [f"--run={runs / 'none'}"],
        [f"--run={runs / 'empty'}"],
        [moved],
        [moved, f"--data_dir={tmp_path / 'nowhere'}"],
        [digits, "--sections=curve"],
        [digits, f"--output={tmp_path}"],
        [digits, "--dataset=digits", f"--data_dir={tmp_path}"],
        [moved, "--images=0", "--tensorboard"],
        [digits, "--pu_weights=none.npz"],
        [digits, "--images=0", "--pu_weights=none.npz"],
    ]
    good, bare, *mistakes = run_many("report", lines)
    assert good[0] == 0, good[2]
    page = (runs / "digits" / "report.html").read_text(encoding="utf-8")
    for name in ("neighbours", "map", "rotations", "invariance", "saliency", "filters", "files"):
        assert f'<section id="{name}"' in page
    assert "left out: ambiguity: the run had no --pu_weights." in good[1]
    written = {path.name for path in (runs / "digits" / "tensorboard" / "report").iterdir()}
    assert {"f.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"} <= written

    assert bare[0] == 0, bare[2]
    assert "left out: map: the report was requested without images." in bare[1]
    assert '<section id="files"' in (tmp_path / "x.html").read_text(encoding="utf-8")

    messages = [
        "--run is missing",
        "no such run folder",
        "holds no run.json",
        f"the run's images are no longer in '{runs / 'gone'}' (--data_dir)",
        "nowhere",
        "unknown section 'curve' (did you mean 'curves'?)",
        "is a folder; give --output a file name",
        "--dataset does not go with",
        "nothing for TensorBoard",
        "no such PU weights file: 'none.npz'",
        "--pu_weights has no effect with --images=0",
    ]
    for (code, _, error), message in zip(mistakes, messages, strict=True):
        assert code == 2 and message in error and "Traceback" not in error, error
