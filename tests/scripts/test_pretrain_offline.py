"""A whole run in a process that may not use the network, and what such a run holds in memory."""

import json

import numpy as np
import pytest
from PIL import Image
from script_driver import run_many

from rfd_tf.text import file_name_from_text

TINY = [
    "--backbone=six_layer",
    "--backbone_option=filters=[4,4,4,4,4,8]",
    "--image_size=16",
    "--batch_size=8",
    "--num_negatives=8",
    "--learning_rate=0.01",
    "--schedule=constant",
    "--mixed_precision=float32",
    "--max_skipped=0.2",
]

# Whoever asks for another machine, or to be called by one, fails; and is written down.
NO_NETWORK = """
import ctypes, os, sys
asked = open(os.environ["ASKED"], "w")
LOCAL = ("127.0.0.1", "::1")  # urllib3, when it is imported, looks whether there is IPv6
def forbid(event, arguments):
    if event == "socket.bind" and arguments[1][:1] and arguments[1][0] in LOCAL:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto",
                 "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect"):
        print(event, arguments, file=asked, flush=True)
        raise PermissionError(f"no network here: {event} {arguments}")
sys.addaudithook(forbid)
try:  # the C++ side, too, where the system lets a process give its network away
    ctypes.CDLL(None, use_errno=True).unshare(0x40000000 | (0 if os.geteuid() == 0 else 0x10000000))
except (AttributeError, OSError):
    pass
"""

# Resident memory at the end of every tenth epoch.
MEASURE = """
import gc
from research.benchmarks.measuring import resident_bytes
import keras
class Measure(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch % 10 == 9:
            gc.collect()
            print("RSS", resident_bytes(), flush=True)
from rfd_tf.pretrainer import Pretrainer
start = Pretrainer.__init__
def measured(self, *arguments, **options):
    start(self, *arguments, **{**options, "callbacks": [Measure()]})
Pretrainer.__init__ = measured
"""

EPOCHS = 80


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Many short epochs on a folder, offline; returns the run's folder, output and requests."""
    folder = tmp_path_factory.mktemp("offline")
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            # Of several sizes: they are read from disk at every epoch.
            pixels = rng.integers(0, 256, (20 + number % 2, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    (folder / "photos" / "dark" / "tw\no\x1b.png").write_bytes(b"")
    line = [*TINY, f"--data_dir={folder / 'photos'}", f"--epochs={EPOCHS}", "--monitor_every=20",
            "--checkpoint_every=20", "--health_every=4", "--evaluate=knn",
            f"--output_dir={folder / 'run'}"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASKED", str(folder / "asked"))
        ((code, out, err),) = run_many("pretrain", [line], NO_NETWORK + MEASURE)
    assert code == 0, err
    return folder / "run", out, (folder / "asked").read_text()


def test_a_run_needs_no_network(run):
    folder, _, asked = run
    assert asked == ""
    assert json.loads((folder / "evaluation.json").read_text())["results"]


def test_a_name_is_one_line_whatever_is_in_it(run):
    line = (run[0] / "skipped_files.txt").read_text()
    assert line == "dark/tw\\x0ao\\x1b.png\tempty file\n"
    assert file_name_from_text(line.split("\t")[0]) == "dark/tw\no\x1b.png"  # nothing is lost


def test_memory_stays_flat_over_many_short_epochs(run):
    sizes = [int(line.split()[1]) for line in run[1].splitlines() if line.startswith("RSS")]
    assert len(sizes) == EPOCHS // 10
    # Compiling and the allocators' pools come first; checkpoints and kNN in between.
    assert sizes[-1] - sizes[2] < 12 * 2**20, [size >> 20 for size in sizes]
