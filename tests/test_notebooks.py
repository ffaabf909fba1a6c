"""The notebooks in examples/ run from first cell to last, and are stored without outputs."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import warm_python

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
#: Less training and fewer images than the notebooks have.
SHORT = {
    "epochs=2": "epochs=1, steps_per_epoch=4, fill_bank=False, tensorboard=False, "
    "monitor_images=200",
    "epochs=30": "epochs=1",
    'run.evaluate("knn")': 'run.evaluate("knn", max_train_images=300)',
}


def cells(notebook, kind="code"):
    """The cells of a notebook of one kind, each as its source."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def run_cells(notebook, folder, check):
    """Runs the code of a notebook, then `check`, in a process; returns what it prints."""
    code = "\n".join([*cells(notebook), check])
    for text, shorter in SHORT.items():
        code = code.replace(text, shorter)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*warm_python.command(), "-c", code], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the notebooks run one after the other, so that they share a training."""
    return tmp_path_factory.mktemp("examples")


def test_there_are_three_notebooks_and_the_page_lists_them():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 3
    assert all(f"]({notebook.name})" in page for notebook in NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda each: each.stem)
def test_notebooks_are_stored_without_outputs(notebook):
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert cell["metadata"] == {}
    for text in cells(notebook, "markdown"):
        for target in [part.split(")")[0] for part in text.split("](")[1:]]:
            assert (notebook.parent / target).exists(), target


def test_pretraining_and_looking_at_the_result(folder):
    check = "assert report['results'] and sheet.width and run.health()"
    output = run_cells(ROOT / "examples" / "pretrain_on_photographs.ipynb", folder, check)
    assert "knn  " in output and (folder / "runs/notebook/evaluation.json").is_file()


def test_few_labels_with_plain_keras(folder):
    check = "assert set(accuracy) == {'pretrained', 'from scratch'} and len(images) == 100"
    output = run_cells(ROOT / "examples" / "few_labels_with_keras.ipynb", folder, check)
    assert "linear probe on f: " in output


def test_exporting_and_using_the_files(folder):
    pytest.importorskip("ai_edge_litert", reason="LiteRT needs pip install '.[litert]'")
    check = "assert nearest[0] == query and difference < 1e-4"
    output = run_cells(ROOT / "examples" / "export_and_use.ipynb", folder, check)
    assert "model.onnx" in output and "model.tflite" in output and "(372, 128)" in output
