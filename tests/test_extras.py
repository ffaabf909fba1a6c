"""What the base installation runs, and what it says where an extra is missing."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest
from class_images import write_class_images
from packaging.requirements import Requirement
from script_driver import ROOT

from rfd_tf.extras import EXTRAS

#: Everything below runs in one process without the extras' packages.
PROGRAM = """
import json, sys, warnings
folder, *blocked = sys.argv[1:]

class Missing:
    # (Some packages look for others in sys.modules, so None there would not do.)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Missing())
import rfd_tf
from rfd_tf.applications import torch_checkpoint
from rfd_tf.data import pu_grid, sources, voc_tfds
from rfd_tf.interpret import report
from rfd_tf.methods import clustering
from rfd_tf.training import trackers

run = rfd_tf.pretrain(
    f"{folder}/images", backbone="six_layer", backbone_option={"filters": [4, 4, 4, 4, 4, 8]},
    output_dir=f"{folder}/run", image_size=16, epochs=1, steps_per_epoch=1, batch_size=4,
    num_negatives=4, verbose=0,
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rows = run.evaluate(["knn", "rotation"], verbose=0)["results"]
warned = [str(each.message) for each in caught if "is not drawn" in str(each.message)]
embedded = run.embed(f"{folder}/images", f"{folder}/embeddings", verbose=0)
card = run.export("keras")
needs = {
    "dataset": lambda: rfd_tf.pretrain("cifar10", output_dir=f"{folder}/x", verbose=0),
    "splits": lambda: sources.splits("cifar10"),
    "voc_tfds": lambda: voc_tfds.unpack("voc/2007", f"{folder}/voc"),
    "detection": lambda: rfd_tf.evaluation.TASKS["detection"](f"{folder}/voc"),
    "report": lambda: run.report(),
    "check_output": lambda: report.check_output(f"{folder}/x.html"),
    "plot": lambda: run.plot(),
    "grid": lambda: pu_grid.check_packages(),
    "torch": lambda: torch_checkpoint.read_checkpoint(f"{folder}/x.pth"),
    "faiss": lambda: clustering.check_library("faiss"),
    "wandb": lambda: trackers.start("wandb.integration.keras"),
    "remote": lambda: sources.load("s3://bucket/x.tar"),
    "hf": lambda: sources.load("hf:user/photos"),
}
messages = {}
for name, call in needs.items():
    try:
        call()
    except rfd_tf.errors.UserError as error:
        messages[name] = str(error)
found = [len(rows), warned, embedded["images"], list(card["verification"]), messages]
print("FOUND" + json.dumps(found))
"""
EXPECTED = {
    "dataset": "tfds", "splits": "tfds", "voc_tfds": "tfds", "detection": "detection",
    "report": "report", "check_output": "report", "plot": "report", "grid": "report",
    "torch": "torch", "faiss": "faiss", "wandb": "wandb", "remote": "remote", "hf": "hf",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_class_images(folder / "images", 12)
    blocked = [*EXTRAS, "etils", "importlib_resources", "jax", "keras_core"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *blocked],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "FOUND" in done.stdout, done.stderr
    return json.loads(done.stdout.split("FOUND")[1])


def test_base_pretrains_evaluates_embeds_and_exports(found):
    rows, warned, embedded, exported, _ = found
    assert rows > 0 and embedded == 12 and exported == ["keras"]
    assert warned and all("pip install 'rfd_tf[report]'" in text for text in warned)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_lacks_an_extra_names_it(found, name):
    message = found[-1][name]
    assert message.endswith(f"pip install 'rfd_tf[{EXPECTED[name]}]'") and "\n" not in message


def requirements(extra=None):
    settings = configparser.ConfigParser(inline_comment_prefixes="#")
    settings.read(Path(ROOT) / "setup.cfg")
    extras = settings["options.extras_require"]
    lines = settings["options"]["install_requires"] if extra is None else extras[extra]
    for line in filter(None, lines.splitlines()):
        requirement = Requirement(line)
        if requirement.name != "rfd_tf":
            yield requirement.name.replace("-", "_")
        for other in requirement.extras if requirement.name == "rfd_tf" else ():
            yield from requirements(other)


def test_setup_cfg_has_each_package_in_its_extra():
    names = {"faiss": "faiss_cpu"}
    for module, extra in EXTRAS.items():
        package = names.get(module, module)
        assert package in requirements(extra) and package not in requirements()
        assert package in requirements("all")
    assert {"tensorflow_datasets", "keras_cv", "matplotlib", "jax"} <= set(requirements("test"))
