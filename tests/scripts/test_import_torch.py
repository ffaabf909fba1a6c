"""scripts/import_torch.py on files such as the published programs write, and on hostile ones."""

import collections
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from research.parity import vector_files
from rfd_tf import applications, export
from rfd_tf.applications import torch_checkpoint
from rfd_tf.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "data" / "parity"
SCRIPT = ROOT / "scripts" / "import_torch.py"


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the extra 'torch', is not installed")


def narrow(entries, divisor, inputs):
    """The network's entries with `divisor` times fewer channels."""
    made = []
    for name, shape in entries:
        first = name == entries[0][0]
        sizes = [
            size if (place == 1 and (first or size == inputs)) or size <= 11 else size // divisor
            for place, size in enumerate(shape)
        ]
        made.append((name, tuple(sizes)))
    return made


def state_dict(torch, network, divisor=1, prefix=""):
    """A network's entries by the vectors' recipe, as PyTorch holds them."""
    listed = vector_files.read_state_dict(VECTORS)[network]
    shapes = narrow(listed, divisor, inputs=3) if divisor > 1 else listed
    made = collections.OrderedDict()
    weights = vector_files.weights(shapes, network, 1)
    for name, _ in shapes:
        counter = name.endswith("num_batches_tracked")
        value = torch.tensor(5) if counter else torch.from_numpy(weights[name])
        made[prefix + name] = value
    return made


@pytest.fixture(scope="module")
def narrow_alexnet(torch, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "model_net_epoch245"
    # As saved from a network on several GPUs.
    network = state_dict(torch, "feature", divisor=16, prefix="module.")
    torch.save({"epoch": 245, "network": network}, path)
    return path


def test_alexnet_of_rfd(narrow_alexnet, tmp_path):
    output = tmp_path / "alexnet.weights.h5"
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            f"--checkpoint={narrow_alexnet}",
            "--architecture=alexnet",
            f"--output={output}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "imported alexnet (bigger=False, width=0.0625), trained by rfd" in done.stdout
    model = applications.AlexNet(weights=str(output), include_top=False, width=1 / 16)
    assert model.output_shape == (None, 256)
    record = applications.read_record(output)
    assert record["method"] == "rfd" and record["epoch"] == 245 and record["image_size"] == 224
    assert record["feature"] == {"endpoint": "fc7", "pooling": "avg", "split": [128, 128]}
    assert record["mean"] == list(applications.IMAGENET_MEAN)
    kernel = model.get_layer("conv2_conv").kernel.numpy()
    listed = narrow(vector_files.read_state_dict(VECTORS)["feature"], 16, 3)
    wanted = vector_files.weights(listed, "feature", 1)["_feature_blocks.2.0.weight"]
    np.testing.assert_array_equal(kernel, wanted.transpose(2, 3, 1, 0))
    card = export.export_backbone(output, tmp_path / "exported", ["keras"], feature="f2")
    assert card["outputs"]["embedding"]["shape"][-1] == 128


@pytest.mark.parametrize("bare", [False, True])
def test_network_in_network_of_rotnet(torch, tmp_path, bare):
    """In full, against the reference's features; legacy files are what the programs wrote."""
    entries = state_dict(torch, "nin")
    path, output = tmp_path / "nin.pth", tmp_path / "nin.weights.h5"
    content = entries if bare else {"epoch": 200, "network": entries, "metric": None}
    torch.save(content, path, _use_new_zipfile_serialization=bare)
    record = torch_checkpoint.import_checkpoint(path, "network_in_network", output)
    assert record["method"] == "rotation" and record["image_size"] == 32
    assert record["mean"] == list(applications.CIFAR10_MEAN)
    assert record["feature"]["endpoint"] == "block2" and "split" not in record["feature"]
    assert record.get("epoch") == (None if bare else 200)
    model = applications.NetworkInNetwork(
        weights=str(output), classes=4, classifier_activation=None
    )
    images = vector_files.normal((2, 32, 32, 3), 1, vector_files.NIN_IMAGES)
    reference = vector_files.read(VECTORS)["nin.npz"]["classifier_head"]
    np.testing.assert_allclose(model(images), reference, rtol=1e-4, atol=1e-6)
    backbone, _ = applications.load_backbone(output)
    assert backbone.output_shape == (None, 8, 8, 192)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(torch, tmp_path, zipped):
    trap = tmp_path / "trap"
    path, output = tmp_path / "bomb", tmp_path / "x.weights.h5"
    content = {"epoch": 1, "network": {"a": torch.zeros(1)}, "bomb": Bomb(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="refused: .* could run code"):
        torch_checkpoint.import_checkpoint(path, "alexnet", output)
    assert not trap.exists() and not output.exists()


def change(entries, name, value):
    changed = dict(entries)
    if value is None:
        del changed[name]
    else:
        changed[name] = value
    return {"epoch": 1, "network": changed}


def test_files_that_do_not_fit(torch, narrow_alexnet, tmp_path):
    whole = narrow_alexnet.read_bytes()
    good = state_dict(torch, "feature", divisor=16)
    bias = "_feature_blocks.0.0.bias"
    cases = {
        "cut off": (whole[: len(whole) // 2], "damaged"),
        "empty": (b"", "damaged"),
        "text": (b"not a checkpoint\n", "damaged"),
        "missing entry": (change(good, bias, None), "no entry fills 1 weights"),
        "foreign entry": (change(good, "extra.weight", torch.zeros(3)), "'extra.weight' has no"),
        "shape": (change(good, bias, torch.zeros(3)), "does not fit conv1_conv"),
        "not finite": (change(good, bias, torch.full((4,), torch.nan)), "finite"),
        "both names": (change(good, f"module.{bias}", good[bias]), "twice"),
        "no tensor": (change(good, bias, 3), "no tensor"),
        "optimizer": ({"epoch": 1, "optimizer": {"state": {}}}, "holds no network"),
        "another network": ({"network": {"conv1.weight": torch.zeros(3)}}, "not a alexnet"),
    }
    path, output = tmp_path / "file.pth", tmp_path / "out" / "x.weights.h5"
    for label, (content, message) in cases.items():
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(UserError) as caught:
            torch_checkpoint.import_checkpoint(path, "alexnet", output)
        assert message in str(caught.value) and "\n" not in str(caught.value), label
        assert not output.parent.exists(), label


def test_mistakes_on_the_command_line(torch, narrow_alexnet, tmp_path, monkeypatch):
    output = tmp_path / "x.weights.h5"
    blocked = tmp_path / "file"
    blocked.write_text("")
    run = torch_checkpoint.import_checkpoint
    with pytest.raises(UserError, match="no such checkpoint file"):
        run(tmp_path / "none", "alexnet", output)
    with pytest.raises(UserError, match="options: alexnet, network_in_network"):
        run(narrow_alexnet, "resnet", output)
    with pytest.raises(UserError, match="has no place in network_in_network"):
        run(narrow_alexnet, "network_in_network", output)
    with pytest.raises(UserError, match="ending in .weights.h5"):
        run(narrow_alexnet, "alexnet", tmp_path / "x.h5")
    with pytest.raises(UserError, match="cannot write"):
        run(narrow_alexnet, "alexnet", blocked / "x.weights.h5")
    assert not output.exists()
    run(narrow_alexnet, "alexnet", output)
    with pytest.raises(UserError, match="exists; give another output, or overwrite"):
        run(narrow_alexnet, "alexnet", output)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(UserError, match="does not read unknown files safely"):
        run(narrow_alexnet, "alexnet", output, overwrite=True)


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'rfd_tf\[torch\]'"):
        torch_checkpoint.import_checkpoint(tmp_path / "x", "alexnet", tmp_path / "x.weights.h5")
