"""Every configuration names flags and options that exist, and a network that its method takes."""

from pathlib import Path
from types import SimpleNamespace

import pretrain
import pytest
import tensorflow as tf
from absl import flags

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def parse():
    def parsed(name):
        flags.FLAGS.unparse_flags()
        for flag in flags.FLAGS:
            flags.FLAGS[flag].unparse()
        flags.FLAGS(["pretrain.py", f"--flagfile={CONFIGS / name}.cfg", "--output_dir=x"])

    yield parsed
    for flag in flags.FLAGS:
        flags.FLAGS[flag].unparse()


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.cfg")))
def test_a_configuration_builds_its_method(parse, name):
    parse(name)
    pretrain.check_names()
    # Enough images for any batch and its negatives; none is read.
    source = SimpleNamespace(num_images=40_000, name="images")
    session = pretrain.make_session(source, tf.distribute.get_strategy())
    assert session.method.trainable_variables
    assert pretrain.unused_flags(session) == []
    text = (CONFIGS / f"{name}.cfg").read_text()
    assert f"--flagfile=configs/{name}.cfg" in text, "the header gives the command"


def test_batch_normalisation_may_follow_faster(parse):
    parse("study_folder_mobilenet_v2")
    source = SimpleNamespace(num_images=40_000, name="images")
    backbone = pretrain.make_session(source, tf.distribute.get_strategy()).method.backbone
    normalisations = [one for one in backbone.layers if hasattr(one, "moving_mean")]
    assert normalisations and {one.momentum for one in normalisations} == {0.9}


def built(*arguments):
    flags.FLAGS(["pretrain.py", *arguments, "--output_dir=x"])
    pretrain.check_names()
    if flags.FLAGS.fidelity:
        pretrain.follow_the_original()
    source = SimpleNamespace(num_images=40_000, name="images")
    return pretrain.make_session(source, tf.distribute.get_strategy())


def test_the_published_configuration_trains_as_its_header_has_it(parse):
    parse("imagenet_rfd_alexnet")
    session = built(f"--flagfile={CONFIGS / 'imagenet_rfd_alexnet.cfg'}")
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
