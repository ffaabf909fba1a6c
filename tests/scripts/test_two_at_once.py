"""Two processes and one folder of a run: the second one ends, and names the first."""

import os
import signal
import subprocess
import sys
import time

import pytest
from script_driver import SCRIPTS, run_many, run_script

from rfd_tf.errors import UserError
from rfd_tf.evaluation.runner import output_locked
from rfd_tf.export import export_backbone
from rfd_tf.training.folder_lock import FolderLock

RUN = [
    "--dataset=digits",
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--image_size=16",
    "--method=rotation",
    "--mixed_precision=float32",
    "--monitor_every=0",
    "--notensorboard",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a second process says while a run trains, and after that was killed."""
    run = tmp_path_factory.mktemp("at_once") / "run"
    command = [*RUN, f"--output_dir={run}", "--checkpoint_every_steps=1"]
    first = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "pretrain.py"), *command, "--epochs=100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 200
        while not list(run.glob("checkpoints/*.npz")) and time.monotonic() < deadline:
            time.sleep(0.1)
        second = run_script("pretrain", *command, "--epochs=1", "--seed=3")
    finally:
        first.send_signal(signal.SIGKILL)
    started = time.monotonic()
    third = run_many("pretrain", [[*command, "--epochs=1"]])[0]
    first.wait()
    return run, first.pid, second, third, time.monotonic() - started


def test_the_second_process_ends_with_code_2_and_names_the_first(results):
    run, pid, second, _, _ = results
    assert second.returncode == 2
    assert f"error: '{run}' is in use: process {pid} " in second.stderr
    assert "Traceback" not in second.stderr


def test_after_sigkill_the_same_command_resumes_at_once(results):
    run, _, _, (code, out, error), _ = results
    assert code == 0, error
    assert "resuming after epoch" in out and "waiting" not in error
    assert not (run / ".lock").exists()


def test_two_evaluations_or_exports_to_one_place_do_not_mix(results, tmp_path):
    run = results[0]
    with output_locked(run / "evaluation.json"):
        code, _, error = run_many("evaluate", [[f"--weights={run}", "--task=knn"]])[0]
    assert code == 2 and f"'{run}/evaluation.json' is in use: process {os.getpid()}" in error
    assert not (run / "evaluation.json").exists()
    with (
        FolderLock(tmp_path, ".exported.lock", "exports to"),
        pytest.raises(UserError, match=f"in use: process {os.getpid()} .*exports to it"),
    ):
        export_backbone(run, tmp_path / "exported", ["keras"])
    assert list(tmp_path.iterdir()) == []
    export_backbone(run, tmp_path / "exported", ["keras"])
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
