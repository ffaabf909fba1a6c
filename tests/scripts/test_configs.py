"""Every configuration names flags and options that exist, and a network that its method takes."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from built_sessions import build
from script_driver import forget_flags, parse_flags, run_many

from rfd_tf.cli import pretrain
from rfd_tf.data import pu_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def parse():
    def parsed(name, *further):
        parse_flags(f"--flagfile={CONFIGS / name}.cfg", "--output_dir=x", *further)

    yield parsed
    forget_flags()


#: Networks that take long to build: of the study's datasets one is enough, since its
#: configurations differ in the network only (tests/research/test_study_datasets.py).
ALIKE = re.compile(r"study_(lfw|coco_cats_dogs|cityscapes)_(mobilenet_v2|efficientnet_b0)")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.cfg")))
def test_a_configuration_builds_its_method(parse, name):
    text = (CONFIGS / f"{name}.cfg").read_text()
    assert f"--flagfile=configs/{name}.cfg" in text, "the header gives the command"
    parse(name)
    if ALIKE.fullmatch(name):
        config = pretrain.config()
        config.check()
        assert name.endswith(config.backbone)
        return
    # Enough images for any batch and its negatives; none is read.
    config, session = build(SimpleNamespace(num_images=40_000, name="images"))
    assert session.method.trainable_variables


def test_batch_normalisation_may_follow_faster(parse):
    parse("study_folder_mobilenet_v2")
    source = SimpleNamespace(num_images=40_000, name="images")
    backbone = build(source)[1].method.backbone
    normalisations = [one for one in backbone.layers if hasattr(one, "moving_mean")]
    assert normalisations and {one.momentum for one in normalisations} == {0.9}


def built(*arguments):
    parse_flags(*arguments, "--output_dir=x")
    return build(SimpleNamespace(num_images=40_000, name="images"))[1]


def test_the_published_configuration_trains_as_its_header_has_it(parse, monkeypatch):
    monkeypatch.setattr(pu_weights, "read", lambda path, source: np.zeros((40_000, 4)))
    parse("imagenet_rfd_alexnet")
    session = built(f"--flagfile={CONFIGS / 'imagenet_rfd_alexnet.cfg'}", "--pu_weights=pu.npz")
    method, steps = session.method, session.steps_per_epoch
    assert (session.optimization.epochs, session.optimization.batch_size) == (245, 192)
    assert method.pu_start_epoch == 210 and method.recognition.shared_negatives is False
    assert method.recognition.num_negatives == 4096 and method.split == (2048, 2048)
    rates = {}
    for epoch in (0, 100, 150, 200, 210, 229, 240):
        session.optimizer.iterations.assign(epoch * steps)
        rates[epoch] = float(session.optimizer.learning_rate)
    expected = dict(zip(rates, (1e-2, 1e-3, 1e-4, 1e-5, 1e-4, 1e-4, 1e-5), strict=True))
    assert rates == pytest.approx(expected)


def test_the_schedule_that_a_header_offers_is_taken(parse):
    parse("cifar10_rfd_nin")
    text = (CONFIGS / "cifar10_rfd_nin.cfg").read_text()
    offered = text.split("(--schedule", 1)[1].split(" is ", 1)[0]
    session = built(
        f"--flagfile={CONFIGS / 'cifar10_rfd_nin.cfg'}", *f"--schedule{offered}".split()
    )
    assert session.optimization.epochs == 200
    assert float(session.optimizer.learning_rate) == pytest.approx(0.1)


#: What headers offer besides the configuration, as it stands there.
OFFERED = {
    "cifar10_instance_resnet18": [
        "--instance_loss=nce --negatives=per_image --num_negatives=4096 --normalizer=first_batch "
        "--exclude_positive=false"
    ],
    "cifar10_pirl_six_layer": [
        "--method_option=transform=rotation",
        "--method_option=transform=both",
    ],
    "cifar10_rfd_nin": ["--schedule=step --lr_table=rotnet_cifar10 --epochs=200 --warmup_epochs=0"],
    "cifar10_rotation_nin": [
        "--epochs=20 --schedule=cosine --lr_table= --learning_rate=0.1 --warmup_epochs=0.1",
        "--method_option=rotations=[0,180]",
    ],
    "imagenet_bigan_alexnet": ["--image_size=112 --method_option=generated_size=64"],
    "imagenet_pirl_resnet50": ["--method_option=nce_form=constant --normalizer=first_batch"],
    "study_folder_six_layer": ["--method_option=shuffle_rotations=true"],
}


@pytest.mark.parametrize("name", OFFERED)
def test_what_a_header_offers_builds(parse, name):
    comments = [
        line.lstrip("# ").rstrip()
        for line in (CONFIGS / f"{name}.cfg").read_text().splitlines()
        if line.startswith("#")
    ]
    text = " ".join(comments).replace(" \\", "")
    for offered in OFFERED[name]:
        assert offered in text
        parse(name, *offered.split())
        source = SimpleNamespace(num_images=40_000, name="images")
        session = build(source)[1]
        views = {"study_folder_six_layer": 4}.get(name, 1)
        assert session.steps_per_epoch == 40_000 * views // session.optimization.batch_size


def commands():
    """Returns script -> the arguments of each command in a header."""
    found = {}
    for path in sorted(CONFIGS.glob("*.cfg")):
        lines = [line[1:].strip() for line in path.read_text().splitlines() if line[:1] == "#"]
        text = "\n".join(lines).replace("\\\n", " ")
        for command in re.findall(r"python scripts/(\w+)\.py(.*)", text):
            found.setdefault(command[0], []).append(command[1].split())
    return found


@pytest.mark.parametrize("script", ["evaluate", "pretrain", "study"])
def test_commands_of_headers_have_the_scripts_flags(script):
    assert set(commands()) <= {"estimate_pu", "evaluate", "pretrain", "study"}
    lines = commands()[script]
    found = run_many(script, lines, "script.main = lambda: None")
    for line, (code, _, error) in zip(lines, found, strict=True):
        assert code == 0, (line, error)


def test_published_pixels_are_normalised_as_published(parse):
    published = {
        "cifar10_aet_nin": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "cifar10_instance_resnet18": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        # 125.3, 123.0, 113.9 and 63.0, 62.1, 66.7 of 255.
        "cifar10_rotation_nin": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)),
    }
    for name, (mean, std) in published.items():
        parse(name)
        assert pretrain.config().normalization() == {"mean": mean, "std": std}
