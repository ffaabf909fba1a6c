"""Builds what the flags of `rfd-tf pretrain` ask for, without training it."""

import tensorflow as tf

from rfd_tf import recording
from rfd_tf.cli import pretrain
from rfd_tf.pretrainer import Pretrainer


def build(source, start=None):
    """Returns the configuration of the parsed flags and the session built from it.

    Args:
        source: the images.
        start: the weights that the backbone starts from, or None.
    """
    config = pretrain.config()
    config.output_dir = config.output_dir or "nothing is written there"
    config.check()
    if config.fidelity:
        config.follow_the_published_program()
    config.drop_moot()
    session = Pretrainer(config).build(source, tf.distribute.get_strategy(), start)
    return config, session


def recorded(config, session):
    return recording.flags(config, session, {"arguments": {}})
