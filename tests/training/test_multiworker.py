"""Two worker processes on this machine train as one process does, lose each other, and resume."""

import contextlib
import csv
import json
import os
import socket
import threading
import time

import keras
import multiworker_runs as runs
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image

from rfd_tf.errors import UserError
from rfd_tf.training import strategy as strategies
from rfd_tf.training import workers

STEPS, EPOCHS, BATCH, NUM_IMAGES = 3, 4, 8, 26


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of noise: no two activations tie, so that rounding cannot decide a maximum."""
    path = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        (path / f"class{number % 2}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16, 3)).astype("uint8")
        Image.fromarray(pixels).save(path / f"class{number % 2}" / f"{number:02d}.png")
    return path


def arguments(folder, output):
    return [
        f"--data_dir={folder}",
        f"--output_dir={output}",
        "--backbone=six_layer",
        "--backbone_option=filters=[4,4,4,4,4,8]",
        "--image_size=16",
        f"--batch_size={BATCH}",
        f"--epochs={EPOCHS}",
        "--num_negatives=12",
        "--projection_dimensions=8",
        "--temperature=0.2",
        "--learning_rate=0.01",
        "--schedule=constant",
        "--mixed_precision=float32",
        # Once before training and once after it, by the first worker alone.
        f"--monitor_every={EPOCHS}",
        "--tensorboard=false",
    ]


@pytest.fixture(scope="module")
def one_process(folder, tmp_path_factory):
    """The run of a single process without a strategy: the truth."""
    from rfd_tf.cli import pretrain

    output = tmp_path_factory.mktemp("one")
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["pretrain.py", "--strategy=none", *arguments(folder, output)])
    try:
        pretrain.main()
    finally:
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
    return output


@pytest.fixture(scope="module")
def killed_and_restarted(folder, tmp_path_factory):
    """A run whose second worker is killed within the third epoch; both are then restarted."""
    output = tmp_path_factory.mktemp("two")
    command = ["--strategy=multiworker", *arguments(folder, output)]
    # The steps that fill the bank come first.
    fatal = NUM_IMAGES // BATCH + 2 * STEPS + 2
    mortal = [runs.__file__, "die_in_step", str(fatal)]
    first = runs.run_workers([runs.PRETRAIN, *command], [*mortal, *command])
    left = sorted(path.name for path in (output / "checkpoints").iterdir())
    second = runs.run_workers([runs.PRETRAIN, *command], [runs.PRETRAIN, *command])
    return output, first, left, second


def test_the_survivor_of_a_killed_worker_ends_in_one_line(killed_and_restarted):
    _, (survivor, killed), left, _ = killed_and_restarted
    assert killed[0] == -9
    code, stdout, stderr = survivor
    assert code == 2, stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "another worker was lost" in lines[0] and "resumes from its last checkpoint" in lines[0]
    assert "Traceback" not in stderr and "epoch 3/" not in stdout
    assert left == [f"step-{step:09d}.npz" for step in (STEPS, 2 * STEPS)]


def test_restarted_workers_resume_and_end_where_one_process_does(killed_and_restarted, one_process):
    output, _, _, second = killed_and_restarted
    for code, stdout, stderr in second:
        assert code == 0, stderr
        assert "resuming after epoch 2 " in stdout and "2 replica(s)" in stdout
    metrics = []
    for path in (one_process, output):
        with open(path / "metrics.csv", newline="") as file:
            metrics.append(list(csv.DictReader(file)))
    assert len(metrics[0]) == len(metrics[1]) == EPOCHS
    for one, two in zip(*metrics, strict=True):
        one.pop("images_per_second"), two.pop("images_per_second")
        assert one.keys() == two.keys()
        for name in one:
            assert bool(one[name]) == bool(two[name]), name
            if one[name]:
                # Counts jump, and small distances between features have fewer digits.
                loose = name in (
                    "alignment", "uniformity", "f2_leak", "neighbours_kept", "weights_moved"
                )  # fmt: skip
                rtol, atol = (0.02, 0.05) if loose else (3e-5, 0)
                a, b = float(two[name]), float(one[name])
                np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)
    # Weights, statistics, bank, constant, random state and momentum, before and after the loss.
    for path in (one_process, output):
        assert (path / "backbone.keras").exists()
    name = f"checkpoints/step-{EPOCHS * STEPS:09d}.npz"
    one, two = np.load(one_process / name), np.load(output / name)
    assert set(one.files) == set(two.files)
    assert any("bank" in entry for entry in one.files)
    for entry in set(one.files) - {"description"}:
        if one[entry].dtype.kind in "iu":
            np.testing.assert_array_equal(two[entry], one[entry], entry)
        np.testing.assert_allclose(two[entry], one[entry], rtol=1e-4, atol=2e-5, err_msg=entry)


def test_only_the_first_worker_writes_and_logs(killed_and_restarted):
    _, _, _, (chief, other) = killed_and_restarted
    assert "epoch 4/4" in chief[1] and "backbone:" in chief[1]
    assert "epoch 4/4" not in other[1] and "backbone:" not in other[1]


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS dataset of 20 images in several files."""
    import tensorflow_datasets as tfds

    class ShardImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(8, 8, 3))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(20):
                yield number, {"image": np.full((8, 8, 3), number, "uint8")}

    path = str(tmp_path_factory.mktemp("tfds"))
    config = tfds.download.DownloadConfig(num_shards=3)
    ShardImages(data_dir=path).download_and_prepare(download_config=config)
    return path


def test_two_workers_train_on_disjoint_halves_of_each_batch(folder, tfds_dir):
    from rfd_tf import data
    from rfd_tf.data import pipeline

    command = [runs.__file__, "report_shards", folder, tfds_dir]
    reports = []
    for code, stdout, stderr in runs.run_workers(command, command):
        assert code == 0, stderr
        reports.append(json.loads(stdout.splitlines()[-1]))
    sources = {
        "folder": data.load(data_dir=str(folder)),
        "tfds": data.tfds("shard_images", tfds_dir=tfds_dir, cache_bytes=0),
    }
    assert isinstance(sources["tfds"], data.TfdsSource)
    # As pretraining does; the workers of this test do not, and the order must not depend on it.
    keras.utils.set_random_seed(0)
    for name, source in sources.items():
        whole = pipeline.training_dataset(source, image_size=8, batch_size=6, seed=3)
        seen = set()
        for step, batch in enumerate(whole.take(4).as_numpy_iterator()):
            (first, all_first), (second, all_second) = (report[name][step] for report in reports)
            assert first + second == all_first == all_second == batch["index"].tolist()
            assert len(first) == len(second) == 3 and not set(first) & set(second)
            if step < source.num_images // 6:
                assert not seen & {*first, *second}
                seen |= {*first, *second}
        assert seen <= set(range(source.num_images)) and len(seen) >= 18
    # What one worker decides, and what all must have in common.
    assert [report["agreed"] for report in reports] == [7, 7]
    assert reports[0]["differs"] == ""
    assert "worker 1 has another seed than worker 0: here it is 1" in reports[1]["differs"]


CLUSTER = {"worker": ["localhost:1", "localhost:2"]}
BAD = {
    "missing": (None, "needs the environment variable TF_CONFIG, such as"),
    "empty": ("", "needs the environment variable TF_CONFIG, such as"),
    "no JSON": ("{cluster", r"TF_CONFIG does not read like .* it is: {cluster"),
    "no task": (json.dumps({"cluster": CLUSTER}), "TF_CONFIG does not read like"),
    "no workers": (
        json.dumps({"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}),
        "TF_CONFIG does not read like",
    ),
    "no port": (
        json.dumps({"cluster": {"worker": ["host0"]}, "task": {"type": "worker", "index": 0}}),
        "TF_CONFIG does not read like",
    ),
    "a chief": (
        json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}),
        "TF_CONFIG does not read like",
    ),
    "two chiefs": (
        json.dumps(
            {
                "cluster": {"chief": ["a:1", "b:1"], **CLUSTER},
                "task": {"type": "chief", "index": 0},
            }
        ),
        "TF_CONFIG does not read like",
    ),
    "a parameter server": (
        json.dumps({"cluster": {"ps": ["a:1"], **CLUSTER}, "task": {"type": "ps", "index": 0}}),
        "TF_CONFIG does not read like",
    ),
    "index too large": (
        json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}),
        r"index 2, but names 2 worker\(s\); the index counts from 0 to 1",
    ),
    "index below 0": (
        json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": -1}}),
        "index -1, but names 2",
    ),
}


@pytest.mark.parametrize(
    ("kind", "index", "position"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]
)
def test_a_chief_is_the_first_worker(monkeypatch, kind, index, position):
    cluster = {"chief": ["boss:7"], **CLUSTER}
    config = {"cluster": cluster, "task": {"type": kind, "index": index}, "environment": "cloud"}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    addresses = ["boss:7", "localhost:1", "localhost:2"]
    assert workers.read_cluster() == (addresses, position)
    assert json.loads(os.environ["TF_CONFIG"]) == {
        "cluster": {"worker": addresses}, "task": {"type": "worker", "index": position},
    }  # fmt: skip
    assert workers.read_cluster() == (addresses, position)


def test_the_tasks_of_a_slurm_step_are_the_workers(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")
    step = {
        "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_PROCID": "2",
    }  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    assert workers.read_cluster() == (["gpu07:8888", "gpu07:8889", "gpu08:8888"], 2)
    assert json.loads(os.environ["TF_CONFIG"])["task"] == {"type": "worker", "index": 2}


def test_a_slurm_step_that_is_not_clear_is_named(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(UserError, match="SLURM job step are not clear: SLURM_PROCID not found"):
        workers.read_cluster()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    with pytest.raises(UserError, match="needs the environment variable TF_CONFIG"):
        workers.read_cluster()


@pytest.mark.parametrize("case", BAD)
def test_a_bad_tf_config_is_named(monkeypatch, case):
    text, message = BAD[case]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=message) as error:
        strategies.build("multiworker")
    assert "\n" not in str(error.value)


def test_workers_wait_for_each_other_whichever_starts_first():
    (port,) = runs.free_ports(1)
    addresses = [f"localhost:{port}", "localhost:1", "localhost:2"]
    came, started = {}, time.monotonic()

    def come(index, delay):
        time.sleep(delay)
        workers.meet(addresses, index, timeout=200)
        came[index] = time.monotonic() - started

    threads = [
        threading.Thread(target=come, args=pair, daemon=True)
        for pair in ((1, 0.0), (0, 0.3), (2, 1.0))
    ]
    for thread in threads:
        thread.start()
    # Whoever else calls does no harm.
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("localhost", port)).close()
            break
        time.sleep(0.1)
    for thread in threads:
        thread.join(200)
    assert sorted(came) == [0, 1, 2] and min(came.values()) >= 1.0


def test_a_worker_that_does_not_come_is_named():
    (port,) = runs.free_ports(1)
    addresses = [f"localhost:{port}", "localhost:1"]
    with pytest.raises(UserError, match=r"worker 1 \(localhost:1\) did not start within 0.3 s"):
        workers.meet(addresses, 0, timeout=0.3)
    with pytest.raises(UserError, match=rf"worker 0 at localhost:{port}.* within 0.3 s"):
        workers.meet(addresses, 1, timeout=0.3)
    with socket.create_server(("", port)):
        with pytest.raises(UserError, match=f"cannot listen on port {port}"):
            workers.meet(addresses, 0, timeout=0.3)


def test_only_errors_about_other_workers_are_taken_for_one():
    lost = tf.errors.UnavailableError(None, None, "Collective ops is aborted by: no heartbeat")
    with pytest.raises(UserError, match="another worker was lost"):
        with workers.lost_workers_reported(2):
            raise lost
    with pytest.raises(tf.errors.UnavailableError):
        with workers.lost_workers_reported(1):
            raise lost
    with pytest.raises(tf.errors.InvalidArgumentError):
        with workers.lost_workers_reported(2):
            raise tf.errors.InvalidArgumentError(None, None, "no image can be read")
