"""`rfd-tf` as pip installs it, run outside a checkout."""

import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import warm_python
from script_driver import ROOT

TINY = [
    "--epochs=1", "--steps_per_epoch=2", "--batch_size=20", "--image_size=16", "--evaluate=",
    "--export=", "--monitor_every=0", "--tensorboard=false", "--strategy=none",
    "--backbone_option=filters=[4,4,4,4,4,8]",
]  # fmt: skip

# The configuration quickstart, and the flags above, in Python.
SCRIPT = """
import rfd_tf

run = rfd_tf.pretrain(
    "clothing", backbone="six_layer", output_dir="python", seed=3, epochs=1,
    steps_per_epoch=2, batch_size=20, image_size=16, monitor_every=0,
    tensorboard=False, strategy="none", backbone_option={"filters": [4, 4, 4, 4, 4, 8]},
    deterministic=True,
)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip installed into, from a copy: building writes beside setup.cfg."""
    pytest.importorskip("setuptools", reason="wheels are built by setuptools: pip install it")
    checkout, target = (tmp_path_factory.mktemp(name) for name in ("checkout", "target"))
    for name in ("rfd_tf", "research", "configs", "exported"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", f"--target={target}", str(checkout)],
        capture_output=True, text=True,
    )  # fmt: skip
    if "invalid command 'bdist_wheel'" in done.stderr:
        pytest.skip("this setuptools builds no wheels: pip install wheel, or a newer setuptools")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(checkout)
    return target


@pytest.fixture
def call(installed, tmp_path):
    """Runs a command line in an empty folder; returns the completed process."""

    def run(*arguments, program=(str(installed / "bin" / "rfd-tf"),), python=None, **environment):
        return subprocess.run(
            [*(python or warm_python.command()), *program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=280,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(installed),
                "CUDA_VISIBLE_DEVICES": "",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **environment,
            },  # fmt: skip
        )

    return run


def weights(folder):
    """Returns the arrays of a run's backbone by name."""
    arrays = {}

    def keep(name, entry):
        if isinstance(entry, h5py.Dataset):
            arrays[name] = entry[()]

    with h5py.File(folder / "backbone.weights.h5") as file:
        file.visititems(keep)
    return arrays


def test_a_configuration_is_trained_and_exported_without_a_checkout(call, installed, tmp_path):
    # Flags stand before and after the configuration; both win.
    own = ["--seed=3", "--deterministic", "--output_dir=run"]
    done = call("pretrain", *TINY, "--config=quickstart", *own, python=[sys.executable])
    assert done.returncode == 0, done.stderr
    flags = json.loads((tmp_path / "run" / "run.json").read_text())["flags"]
    assert (flags["dataset"], flags["backbone"]) == ("clothing", "six_layer")
    assert (flags["epochs"], flags["batch_size"], flags["seed"]) == (1, 20, 3)
    # A script with the same settings trains the same weights.
    done = call(program=("-c", SCRIPT))
    assert done.returncode == 0, done.stderr
    by_command, by_script = weights(tmp_path / "run"), weights(tmp_path / "python")
    assert len(by_command) > 10 and by_command.keys() == by_script.keys()
    for name, array in by_command.items():
        np.testing.assert_array_equal(array, by_script[name], err_msg=name)
    done = call(
        "export", "--weights=run", "--format=onnx", "--output_dir=out", program=("-m", "rfd_tf")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx").exists()
    # Nothing of the checkout was used.
    count = len(list((ROOT / "configs").glob("*.cfg")))
    told = call("info").stdout
    assert f"configurations  {count} for --config, in {installed / 'share'}" in told
    assert (installed / "share" / "rfd_tf" / "research" / "published.json").exists()
    assert not (installed / "research").exists()
    done = call("export", "--output_dir=out")
    assert done.returncode == 2
    assert done.stderr == "error: --weights is missing; see rfd-tf export --help\n"


def test_the_list_of_commands_is_quick_and_imports_no_tensorflow(call):
    program = (
        "import sys; from rfd_tf.cli import main; main(sys.argv[1:]);"
        "print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"
    )
    done = call("--help", program=("-c", program), python=[sys.executable])
    assert done.returncode == 0 and done.stdout.endswith("[]\n")
    assert "\n  import-caffe  Converts a Caffe AlexNet" in done.stdout
    assert call("--version", program=("-m", "rfd_tf")).stdout.startswith("rfd-tf 0.")


def test_a_wrong_command_names_the_nearest(call):
    for line, told in (
        (["pretrian"], "error: unknown command 'pretrian' (did you mean 'pretrain'?); see"),
        (["--data=x", "pretrain"], "error: '--data=x' stands before the command; flags"),
        ([], "error: give a command: pretrain, evaluate, embed,"),
        (["pretrain", "--config=quickstrat", "--output_dir=x"],
         "error: 'quickstrat' is neither a file nor an installed configuration; nearest: quicks"),
    ):  # fmt: skip
        done = call(*line)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(told) and done.stderr.count("\n") == 1, done.stderr
