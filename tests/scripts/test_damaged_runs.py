"""Run folders with missing and damaged files: one line that names the file, no stack trace."""

import json
import shutil

import pytest
from script_driver import run_many

from rfd_tf import applications
from rfd_tf.data import digits

RECORD = {
    "format": 1, "backbone": "six_layer", "arguments": {"filters": [4, 4, 4, 4, 4, 8]},
    "image_size": 16, "feature": {"endpoint": "block6", "pooling": "avg", "split": [4, 4]},
}  # fmt: skip
DAMAGE = {
    # File -> content, and the message; None where the command goes on without the file.
    "backbone.weights.h5": (b"", "is not a weights file"),
    "run.json": (b"{", "run.json' cannot be read"),
    "run.json ": (b'{"flags": []}', "cannot be read"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run folder for each damage."""
    folder = tmp_path_factory.mktemp("runs")
    whole = folder / "whole"
    model = applications.build("six_layer", 16, **RECORD["arguments"])
    applications.save_backbone(model, whole / "backbone.weights.h5", RECORD)
    (whole / "run.json").write_text(json.dumps({"flags": {"dataset": "digits"}}))
    for number, (name, (content, _)) in enumerate(DAMAGE.items()):
        shutil.copytree(whole, folder / str(number))
        (folder / str(number) / name.strip()).write_bytes(content)
    for name, content in {
        "evaluation.json": b"\xff", "metrics.csv": b"epoch\nx\n", "heads.npz": b"PK\3\4",
    }.items():  # fmt: skip
        shutil.copytree(whole, folder / name)
        (folder / name / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("script", "flag", "more"),
    [("evaluate", "weights", ["--task=knn", "--endpoints=block6"]), ("report", "run", [])],
)
def test_damaged_files_of_a_run_are_named(runs, script, flag, more, tmp_path):
    lines = [[f"--{flag}={runs / str(number)}", *more] for number in range(len(DAMAGE))]
    if script == "report":
        # Its record has no need of flags; its text does.
        lines = lines[:2]
        lines.append([f"--run={runs / 'metrics.csv'}"])
    else:
        lines.append(["--weights=" + str(runs / "heads.npz"), "--task=rotation"])
        lines.append([f"--weights={runs / 'evaluation.json'}", *more])
    wanted = [message for _, message in list(DAMAGE.values())[: len(lines) - 1]]
    wanted += ["metrics.csv' cannot be read"] if script == "report" else ["heads.npz' is damaged"]
    for (code, _, err), message in zip(run_many(script, lines), wanted, strict=False):
        told = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(told) == 1 and message in told[0], (message, err)
        assert "Traceback" not in err


def test_a_damaged_report_of_scores_is_written_anew(runs):
    folder = runs / "evaluation.json"
    lines = [[f"--weights={folder}", "--task=knn", "--endpoints=block6"]]
    ((code, out, err),) = run_many("evaluate", lines)
    assert code == 0, err
    assert json.loads((folder / "evaluation.json").read_text())["results"]
    assert f"{digits().num_images} images of digits/train; 10 classes: 0 " in out
