"""A run that is killed again and again ends as one that never was; and what else stops a run."""

import csv
import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import warm_python

HERE = Path(__file__).resolve().parent
STEPS = 11  # an epoch, of the digits
RUN = [
    "--dataset=digits",
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--image_size=16",
    "--batch_size=128",
    "--num_negatives=64",
    "--mixed_precision=float32",
    "--monitor_images=100",
    "--notensorboard",
    "--deterministic",
    "--epochs=2",
    "--checkpoint_every_steps=2",
]
# In this order, upon the same run.
KILLED = [
    ("early", {"killed after step": random.Random(8).randrange(1, 6)}),
    ("while writing", {"killed in entry": 17}),
    ("before the rename", {"killed before rename": 8}),
    ("before the epoch's checkpoint", {"killed after metrics of epoch": 1}),
    ("interrupted", {"interrupted in step": STEPS}),
    ("full disk", {"no room after step": 12}),
    ("late", {"killed after step": random.Random(9).randrange(13, 18)}),
    ("terminated", {"terminated in step": 19}),
    ("to the end", {}),
]


def start(folder, jobs):
    """Returns the exit status and the output of each run of `jobs`: (run folder, arguments, at)."""
    jobs = [
        {
            "arguments": [*RUN, *arguments, f"--output_dir={folder / run}"],
            "output": str(folder / f"{number}.txt"),
            "at": at,
        }
        for number, (run, arguments, at) in enumerate(jobs)
    ]
    done = subprocess.run(
        [*warm_python.command(), str(HERE / "killed_runs.py"), json.dumps(jobs)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert "STATUSES" in done.stdout, done.stderr
    statuses = json.loads(done.stdout.split("STATUSES")[1])
    texts = [Path(job["output"]).read_text() for job in jobs]
    return list(zip(statuses, texts, strict=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    jobs = [("straight", [], {})]
    jobs += [("killed", [], at) for _, at in KILLED]
    results = start(folder, jobs)
    names = ["straight", *(name for name, _ in KILLED)]
    return folder, dict(zip(names, results, strict=True))


def checkpoint(folder, step):
    with np.load(folder / "checkpoints" / f"step-{step:09d}.npz") as archive:
        return {name: archive[name] for name in archive.files}


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        row.pop("images_per_second")  # measured in seconds
    return found


def test_each_run_ended_as_it_was_meant_to(runs):
    _, results = runs
    statuses = {name: status for name, (status, _) in results.items()}
    assert statuses == {
        "straight": 0,
        "early": -9,
        "while writing": -9,
        "before the rename": -9,
        "before the epoch's checkpoint": -9,
        "interrupted": 130,
        "full disk": 2,
        "late": -9,
        "terminated": 143,
        "to the end": 0,
    }, {name: text[-500:] for name, (_, text) in results.items()}


def test_weights_bank_constant_optimizer_and_metrics_are_those_of_a_run_never_killed(runs):
    folder, _ = runs
    straight, killed = (checkpoint(folder / name, 2 * STEPS) for name in ("straight", "killed"))
    assert json.loads(straight.pop("description").tobytes()) == json.loads(
        killed.pop("description").tobytes()
    )
    assert set(straight) == set(killed)
    for part in ("bank", "constant", "momentum", "iteration", "log_totals"):
        assert any(part in name for name in straight), part
    for name, array in straight.items():
        np.testing.assert_array_equal(array, killed[name], name)
    assert rows(folder / "straight") == rows(folder / "killed")
    for name in ("backbone.weights.h5", "heads.npz"):
        assert (folder / "killed" / name).exists(), name


def test_runs_go_on_from_the_last_saved_step(runs):
    folder, results = runs
    for name in ("interrupted", "full disk", "late", "terminated"):
        assert "resuming after epoch" in results[name][1], name
    assert "resuming after epoch 1 " in results["full disk"][1]
    assert "resuming after epoch 1.81818 " in results["to the end"][1]
    assert not list((folder / "killed" / "checkpoints").glob("*.writing"))


def test_sigterm_saves_and_says_how_to_go_on(runs):
    _, results = runs
    assert "stopped by SIGTERM after step 20 of 22; everything is saved" in results["terminated"][1]


def test_a_signal_in_the_last_step_of_an_epoch_ends_the_epoch_first(runs):
    _, results = runs
    text = results["interrupted"][1]
    assert "stopped by SIGINT after step 11 of 22" in text
    assert "epoch 1/2" in text and "epoch 2/2" not in text


def test_a_full_disk_is_reported_with_the_space_needed_and_loses_nothing(runs):
    _, results = runs
    text = results["full disk"][1]
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "it needs 0." in line and "MiB" in line and ".npz is kept" in line
    assert "Traceback" not in text


def test_the_share_of_time_for_saving_is_logged(runs):
    folder, results = runs
    saving = json.loads((folder / "straight" / "run.json").read_text())["saving"]
    assert saving["checkpoints"] >= 2 and 0 < saving["stalled_share"] < 1
    assert saving["stalled_seconds"] <= saving["training_seconds"]
    assert "saving: " in results["straight"][1]
