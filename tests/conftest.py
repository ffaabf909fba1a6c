"""Settings every test shares."""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Threads of NumPy's and scikit-learn's libraries wait for one another in a loop: where processes
# share the processors, as tests do, a decomposition of a hundredth of a second takes seconds.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import rfd_tf  # noqa: E402, F401  (before TensorFlow and onnxruntime: it sets what they read)


def pytest_configure(config):
    # A job in a script's background ignores Ctrl-C, and so would the commands that tests end by it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        # Only hands the files to other processes: in their order, as the many short ones come last.
        config.option.loadscopereorder = False
        return
    # Four logical devices let the strategies be tested on any machine; it must happen before
    # TensorFlow starts.
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in range(4)],
    )


@pytest.fixture(autouse=True)
def seeded():
    """The same initial weights at every run: a test that fails fails again."""
    import keras

    keras.utils.set_random_seed(1)


@pytest.fixture
def shallow(monkeypatch):
    """Networks of Keras with one or two blocks of each kind: most of the time is in building."""

    from keras.src.applications import convnext, densenet, efficientnet, efficientnet_v2

    def shortened(blocks, repeats):
        # (The second block twice: only from one to the next of a kind is there a shortcut.)
        return [{**block, repeats: 1 + (i == 1)} for i, block in enumerate(blocks)]

    blocks = shortened(efficientnet.DEFAULT_BLOCKS_ARGS, "repeats")
    monkeypatch.setattr(efficientnet, "DEFAULT_BLOCKS_ARGS", blocks)
    sizes = efficientnet_v2.DEFAULT_BLOCKS_ARGS
    blocks = shortened(sizes["efficientnetv2-b0"], "num_repeat")
    monkeypatch.setitem(sizes, "efficientnetv2-b0", blocks)
    small = {"depths": [2, 1, 1, 1], "projection_dims": [8, 16, 24, 32]}
    monkeypatch.setitem(convnext.MODEL_CONFIGS, "tiny", {**convnext.MODEL_CONFIGS["tiny"], **small})
    whole = densenet.DenseNet
    monkeypatch.setattr(
        densenet,
        "DenseNet",
        lambda blocks, *arguments, **named: whole([2] * 4, *arguments, **named),
    )
