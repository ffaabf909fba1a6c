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
    text = (CONFIGS / f"{name}.cfg").read_text()
    assert f"--flagfile=configs/{name}.cfg" in text, "the header gives the command"


def test_batch_normalisation_may_follow_faster(parse):
    parse("study_folder_mobilenet_v2")
    source = SimpleNamespace(num_images=40_000, name="images")
    backbone = pretrain.make_session(source, tf.distribute.get_strategy()).method.backbone
    normalisations = [one for one in backbone.layers if hasattr(one, "moving_mean")]
    assert normalisations and {one.momentum for one in normalisations} == {0.9}
