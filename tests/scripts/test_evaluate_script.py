"""scripts/evaluate.py as a user runs it: a table, a JSON file, one line for a mistake."""

import json
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import warm_python
from PIL import Image
from script_driver import run_many

from rfd_tf import applications

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What a run on the digits leaves behind, untrained."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    keras.utils.set_random_seed(7)
    backbone = applications.build("six_layer", 32)
    record = {
        "format": 1,
        "backbone": "six_layer",
        "arguments": {},
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "method": "rfd",
        "dataset": "digits",
        "epoch": 0,
        "feature": {"endpoint": "block6", "pooling": "avg", "split": [64, 64]},
    }
    applications.save_backbone(backbone, folder / "backbone.weights.h5", record)
    # A network that was not trained with decoupling has no f, f1, f2.
    plain = {**record, "image_size": 16, "feature": {"endpoint": "block6", "pooling": "avg"}}
    applications.save_backbone(backbone, folder / "plain.weights.h5", plain)
    flags = {"dataset": "digits", "data_dir": None, "eval_dir": None, "tfds_dir": None}
    (folder / "run.json").write_text(json.dumps({"flags": flags}))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of small pictures: labelled, of other classes, of one class, without labels."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    folders = {
        "labelled": ["dark", "light"],
        "other": ["dark", "bright"],
        "single": ["dark", "light"],
        "flat": [""],
    }
    for folder, classes in folders.items():
        for c, name in enumerate(classes):
            (root / folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(1 if folder == "single" else 15):
                pixels = rng.integers(100 * c, 100 * c + 100, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(root / folder / name / f"{i}.png")
    return root


def test_a_run_folder_is_evaluated_on_its_own_data(run_folder):
    done = subprocess.run(
        [*warm_python.command(), SCRIPT, f"--weights={run_folder}", "--endpoints=block2,block6"],
        capture_output=True,
        text=True,
        cwd=run_folder,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((run_folder / "evaluation.json").read_text())
    assert set(report["protocol"]) == {"knn", "linear"}
    assert report["protocol"]["knn"]["k"] == 150
    assert len(report["sha256"]) == 64
    assert report["data"]["num_train"] == 1500 and report["data"]["num_test"] == 297

    def key(row):
        return row["task"], row["name"], row["images"]

    results = {key(r): r for r in report["results"] if r["when"] != "best epoch"}
    knn = ["block2", "block6", "f", "f1", "f2"]
    linear = ["block2", "block6", "pooled", "f", "f1", "f2"]
    names = [("knn", name) for name in knn] + [("linear", name) for name in linear]
    assert set(results) == {(*n, images) for n in names for images in ("upright", "rotated")}
    best = {key(r): r["value"] for r in report["results"] if r["when"] == "best epoch"}
    assert set(best) == {names for names in results if names[0] == "linear"}
    assert all(best[names] >= results[names]["value"] for names in best)
    for (_, _, images), row in results.items():
        for value in (row["value"], row["random_init"]):
            assert 0.05 < value < 0.99
            assert images == "upright" or value < 0.7
    # Even an untrained network tells digits apart, upright ones better than turned ones.
    assert results["linear", "f", "upright"]["value"] > 0.8
    assert results["knn", "f", "upright"] == {**results["knn", "block6", "upright"], "name": "f"}
    # The random network is another one than this untrained one.
    assert any(row["value"] != row["random_init"] for row in results.values())

    table = [line.split() for line in done.stdout.splitlines()]
    row = results["knn", "f2", "upright"], results["knn", "f2", "rotated"]
    figures = [f"{100 * r[key]:.1f}" for r in row for key in ("value", "random_init")]
    assert ["knn", "f2", *figures] in table


@pytest.fixture
def lists(tmp_path):
    """Two lists of labelled/ and a damaged one."""
    folder = tmp_path / "lists"
    folder.mkdir()
    texts = {
        "train": "".join(f"dark/{i}.png 0\nlight/{i}.png 1\n" for i in range(9)),
        "test": "dark/9.png 0\nlight/9.png 7\n",
        "bad": "dark/0.png 0\ndark/gone.png 1\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return [folder / f"{name}.txt" for name in texts]


def test_other_data_and_mistakes(run_folder, pictures, lists, tmp_path):
    weights = f"--weights={run_folder / 'plain.weights.h5'}"
    labelled = f"--data_dir={pictures / 'labelled'}"
    output = tmp_path / "new" / "report.json"
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.weights.h5").write_text("no weights")
    # Beside a run's record, the run's own images are evaluated on.
    shutil.copy(run_folder / "plain.weights.h5", tmp_path / "alone.weights.h5")
    (tmp_path / "empty").mkdir()
    good = [weights, labelled, "--task=knn", "--endpoints=block1", f"--output={output}"]
    mistakes = {
        "unknown task 'kn' (did you mean 'knn'?); options: knn, linear, ": [weights, "--task=kn"],
        "unknown endpoint 'block9'": [weights, labelled, "--endpoints=block9"],
        "no such weights file": ["--weights=runs/none.weights.h5", "--dataset=digits"],
        "unknown weights 'nothing'": ["--weights=nothing", "--dataset=digits"],
        "holds no backbone.weights.h5": [f"--weights={tmp_path / 'empty'}"],
        "is not a weights file": [f"--weights={tmp_path / 'broken.weights.h5'}", labelled],
        "give --weights": ["--dataset=digits"],
        "evaluation needs labelled images": [f"--weights={tmp_path / 'alone.weights.h5'}"],
        "has no labels": [weights, f"--data_dir={pictures / 'flat'}"],
        "one image a class": [weights, f"--data_dir={pictures / 'single'}"],
        "'labelled' has dark, light; 'other' has bright, dark": [
            weights,
            labelled,
            f"--eval_dir={pictures / 'other'}",
        ],
        "no such folder": [weights, "--data_dir=/no/such/folder"],
        "--eval_dir goes with --data_dir": [weights, "--dataset=digits", "--eval_dir=x"],
        "cannot write": [weights, labelled, f"--output={tmp_path / 'file' / 'x.json'}"],
        "not a positive integer": [weights, labelled, "--k=0"],
        "temperature above 0": [weights, labelled, "--temperature=0"],
        "--per_class needs whole numbers": [weights, labelled, "--task=lowshot", "--per_class=a"],
        "smallest class of 'labelled' has 12 images": [
            weights,
            labelled,
            "--task=lowshot",
            "--per_class=20",
        ],
        "look at 'conv4', which this network lacks": [
            weights,
            labelled,
            "--task=nonlinear",
            "--nonlinear_protocol=rfd_imagenet",
        ],
        "hidden 64 has no effect in nonlinear protocol 'rotnet_cifar10_conv'": [
            weights,
            labelled,
            "--task=nonlinear",
            "--hidden=64",
        ],
        "probe_size 2 has no effect in linear protocol 'rotnet_cifar10'": [
            weights,
            labelled,
            "--task=linear",
            "--protocol=rotnet_cifar10",
            "--probe_size=2",
        ],
        "--finetune_epochs has no effect on knn, linear; leave it out, or add finetune to --task": [
            weights,
            labelled,
            "--finetune_epochs=2",
        ],
        "--voc_epochs has no effect on knn, linear, retrieval": [
            "--suite=features",
            "--runs=a",
            "--voc_epochs=3",
        ],
        "unknown linear protocol 'rfd'": [weights, labelled, "--protocol=rfd"],
        "unknown endpoint 'fc8'": [weights, labelled, "--task=finetune", "--finetune_endpoint=fc8"],
        "--train_list goes with --eval_list, not with --data_dir": [
            weights,
            labelled,
            f"--train_list={lists[0]}",
        ],
        "--runs goes with --suite": [weights, labelled, "--runs=a"],
        "leave --weights out": [weights, "--suite=features", "--runs=a"],
        "give --runs": ["--suite=features"],
        f"--runs has '{run_folder}/.' twice": [
            "--suite=features",
            f"--runs={run_folder}/.,{run_folder}",
        ],
        "task voc_classification needs a folder in VOC's layout": [
            "--suite=voc",
            f"--runs={run_folder / 'plain.weights.h5'}",
        ],
        "task detection needs a folder in VOC's layout": [weights, "--task=detection"],
        "unknown suite 'cifar'": ["--suite=cifar", "--runs=a"],
        "unknown weights 'a'": ["--suite=features", "--runs=a", labelled],
        "--eval_list goes with --train_list": [weights, f"--eval_list={lists[0]}"],
        f"lists/bad.txt', line 2: no file '{pictures / 'labelled' / 'dark' / 'gone.png'}'": [
            weights,
            f"--train_list={lists[2]}",
            f"--list_root={pictures / 'labelled'}",
        ],
        "lists/test.txt' has images of class 7, of which": [
            weights,
            f"--train_list={lists[0]}",
            f"--eval_list={lists[1]}",
            f"--list_root={pictures / 'labelled'}",
        ],
    }
    listed = [
        weights,
        "--task=lowshot,nonlinear,finetune,rotated",
        f"--train_list={lists[0]}",
        f"--list_root={pictures / 'labelled'}",
        "--endpoints=block2",
        "--per_class=2,5",
        "--draws=1",
        "--lowshot_steps=2",
        # (Without it, lowshot and finetune try five rates before.)
        "--finetune_learning_rate=0.01",
        "--probe_epochs=1",
        "--finetune_epochs=1",
        f"--output={tmp_path / 'listed.json'}",
    ]
    compared = [
        "--suite=features",
        f"--runs={run_folder},{run_folder / 'plain.weights.h5'}",
        "--task=knn",
        labelled,
        f"--output={tmp_path / 'suite'}",
    ]
    found = run_many("evaluate", [good, listed, compared, *mistakes.values()])

    code, out, err = found.pop(2)
    assert code == 0, err
    written = (tmp_path / "suite" / "comparison.md").read_text()
    assert "plain" in written and written.strip() in out
    code, out, err = found.pop(1)
    assert code == 0, err
    report = json.loads((tmp_path / "listed.json").read_text())
    assert report["protocol"]["lowshot"]["per_class"] == [2, 5]
    assert (
        report["protocol"]["nonlinear"]["epochs"] == report["protocol"]["finetune"]["epochs"] == 1
    )
    assert {row["task"] for row in report["results"]} == {
        "lowshot", "nonlinear", "finetune", "rotated"
    }  # fmt: skip
    assert report["data"]["train"].endswith("train.txt") and "best epoch" in out
    assert not (tmp_path / "listed_files").exists()

    code, out, err = found[0]
    assert code == 0, err
    report = json.loads(output.read_text())
    assert report["data"]["num_train"] == 24 and report["data"]["num_test"] == 6
    assert "held out" in report["data"]["test"] and "held out" in out
    assert {row["name"] for row in report["results"]} == {"block1", "pooled"}

    for message, (code, out, err) in zip(mistakes, found[1:], strict=True):
        assert code == 2, (message, out, err)
        assert message in err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert out == ""


def test_every_option_of_every_task_has_a_flag():
    program = """
import inspect, json
from rfd_tf.cli import evaluate_flags
from rfd_tf.evaluation import TASKS
own = {task: sorted(inspect.signature(make).parameters) for task, make in TASKS.items()}
flagged = {
    task: sorted(setting.name for setting in options.values())
    for task, options in evaluate_flags.tasks().items()
}
evaluate_flags.FLAGS(["evaluate"])
made = {task: TASKS[task](**evaluate_flags.options(task)) for task in ("finetune", "retrain")}
# Fine-tuning sweeps the learning rate; retraining has one, which no flag takes away.
assert made["finetune"].sweeps and made["retrain"].training.learning_rate == 0.01
print("RESULTS" + json.dumps([own, flagged]))
"""
    done = subprocess.run(
        [*warm_python.command(), "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    own, flagged = json.loads(done.stdout.split("RESULTS")[1])
    # Progress bars are the script's own wish.
    own = {task: [o for o in options if o != "progress"] for task, options in own.items()}
    assert flagged == own
