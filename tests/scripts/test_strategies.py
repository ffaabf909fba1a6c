"""pretrain.py --strategy and --logical_devices: the same numbers on one device and on two."""

import csv
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import warm_python
from script_driver import forget_flags, parse_flags

from rfd_tf.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"
STEPS = 3
ON_DIGITS = [
    "--dataset=digits",
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--batch_size=16",
    f"--steps_per_epoch={STEPS}",
    "--num_negatives=32",
    "--projection_dimensions=8",
    "--temperature=0.2",
    # Enlarged digits have wide flat areas, which an activation near zero turns on or off as a
    # whole by rounding; at their own size, and with short steps, this does not decide the result.
    "--image_size=8",
    "--learning_rate=0.0003",
    "--schedule=constant",
    "--mixed_precision=float32",
    "--fill_bank=false",
    "--monitor_every=0",
    "--tensorboard=false",
    "--keep_checkpoints=5",
]
ON_TWO = ["--strategy=mirrored", "--logical_devices=2"]


def run_script(*arguments, tf_config=None):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_CONFIG", None)
    if tf_config is not None:
        environment["TF_CONFIG"] = tf_config
    return subprocess.run(
        [*warm_python.command(), str(SCRIPT), *ON_DIGITS, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )


def run_here(*arguments):
    """The script's main() in this process, without a strategy: spares TensorFlow's start."""
    from rfd_tf.cli import pretrain

    parse_flags("--strategy=none", *ON_DIGITS, *arguments)
    try:
        pretrain.main()
    finally:
        forget_flags()


def rows(path):
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_metrics(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"images_per_second"}:
            assert bool(one[name]) == bool(other[name]), name
            if one[name]:
                a, b = float(one[name]), float(other[name])
                # Counts jump, and small distances between features have fewer digits.
                loose = name in (
                    "alignment", "uniformity", "f2_leak", "neighbours_kept", "weights_moved"
                )  # fmt: skip
                rtol, atol = (0.02, 0.05) if loose else (1e-4, 0)
                np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


def assert_same_state(found, wanted, step):
    """Compares two runs' checkpoints: weights, statistics, bank, constant, momentum."""
    name = f"checkpoints/step-{step:09d}.npz"
    a, b = np.load(found / name), np.load(wanted / name)
    assert set(a.files) == set(b.files)
    for entry in a.files:
        if entry != "description":
            np.testing.assert_allclose(a[entry], b[entry], rtol=1e-4, atol=1e-4, err_msg=entry)


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    output = tmp_path_factory.mktemp("one")
    run_here("--epochs=3", f"--output_dir={output}")
    return output


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    output = tmp_path_factory.mktemp("two")
    done = run_script(*ON_TWO, "--epochs=3", f"--output_dir={output}")
    assert done.returncode == 0, done.stderr
    assert "2 replica(s)" in done.stdout
    return output


def test_two_logical_devices_train_as_one(on_one, on_two):
    assert_same_metrics(rows(on_two), rows(on_one))
    assert_same_state(on_two, on_one, 3 * STEPS)
    # The comparison would be empty if nothing had been learnt.
    first, last = (
        np.load(on_one / f"checkpoints/step-{step:09d}.npz") for step in (STEPS, 3 * STEPS)
    )
    moved = [
        np.abs(first[entry] - last[entry]).max()
        for entry in first.files
        if entry.endswith("/kernel") or entry.endswith("/bank")
    ]
    assert max(moved) > 0.1 and min(moved) > 2e-4


def test_a_run_goes_from_two_devices_to_one_and_back(on_one, on_two, tmp_path):
    output = tmp_path / "moved"
    shutil.copytree(on_two, output)
    for epoch in (2, 3):
        (output / f"checkpoints/step-{epoch * STEPS:09d}.npz").unlink()
    run_here("--epochs=2", f"--output_dir={output}")
    done = run_script(*ON_TWO, "--epochs=3", f"--output_dir={output}")
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch 2 " in done.stdout
    assert_same_metrics(rows(output), rows(on_one))
    assert_same_state(output, on_one, 3 * STEPS)


def test_a_batch_that_two_devices_cannot_share_ends_in_one_line(tmp_path):
    done = run_script(*ON_TWO, "--batch_size=15", f"--output_dir={tmp_path}/run")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "batch_size 15 cannot be split evenly over 2 replicas" in lines[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("run/*"))


def test_a_bad_tf_config_ends_in_one_line(tmp_path):
    config = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 5}}'
    arguments = ["--strategy=multiworker", f"--output_dir={tmp_path}/run"]
    done = run_script(*arguments, tf_config=config)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "index 5, but names 2 worker(s)" in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_tf_config_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="needs the environment variable TF_CONFIG"):
        run_here("--strategy=multiworker", f"--output_dir={tmp_path}/run")
