"""Pretrains a backbone on unlabelled images.

    rfd-tf pretrain --config=quickstart --output_dir=runs/quickstart
    rfd-tf pretrain --data_dir=photos --backbone=mobilenet_v2 --output_dir=runs/photos

Running the same command again resumes the run. SIGTERM and SIGINT (Ctrl-C) save and end it after
the step at hand, with exit code 143 or 130; user errors exit with code 2.
"""

from __future__ import annotations

import sys

from absl import flags

from rfd_tf.cli import common, config_flags, data_flags, image_flags, path_flags
from rfd_tf.config import IMAGE_SETTINGS, PretrainConfig, method_settings, settings_of

FLAGS = flags.FLAGS

flags.adopt_module_key_flags(image_flags)

path_flags.DEFINE_config(
    "config",
    None,
    "Configuration: a flag file, or the name of an installed one such as quickstart or "
    "cifar10_rfd_nin. Flags given next to it take precedence.",
)
data_flags.DEFINE_data(
    "val_data",
    None,
    "Images to evaluate on: a folder, several or a list, or the training images' dataset, for its "
    "test images. Stands for --eval_dir.",
)
flags.DEFINE_multi_string(
    "callback",
    [],
    "Keras callback of the training, as module:Class, created without arguments; repeatable.",
)
_OWN = tuple(name for name in settings_of(PretrainConfig) if name not in IMAGE_SETTINGS)
config_flags.DEFINE_settings(_OWN)
config_flags.DEFINE_method_options()


def given() -> dict:
    """Returns the settings given by flags, by name."""
    data_flags.resolve()
    return config_flags.given([*IMAGE_SETTINGS, *_OWN, *method_settings()])


def config() -> PretrainConfig:
    """Returns the configuration of the flags."""
    return PretrainConfig.create(given(), configured=config_flags.configured)


def callbacks() -> list:
    """Creates the Keras callbacks of --callback.

    Raises:
        UserError: no such module or class, or it is not a callback.
    """
    import importlib

    import keras

    from rfd_tf.errors import UserError

    # As `python -m` does: modules in the working directory are found.
    sys.path.insert(0, "")
    found = []
    for text in FLAGS.callback:
        module, _, name = text.partition(":")
        try:
            callback = getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"--callback '{text}' cannot be created ({error}); it must read module:Class, a "
                "Keras callback whose constructor needs no arguments"
            ) from None
        if not isinstance(callback, keras.callbacks.Callback):
            raise UserError(f"--callback '{text}' is no keras.callbacks.Callback")
        found.append(callback)
    return found


def main() -> None:
    settings = config()
    settings.check()
    further = callbacks() if FLAGS.callback else []

    from rfd_tf.pretrainer import Pretrainer
    from rfd_tf.run import shown
    from rfd_tf.training.stopping import TrainingStopped

    with shown(verbose=1):
        try:
            Pretrainer(settings, callbacks=further).run()
        except TrainingStopped as stopped:
            raise SystemExit(128 + stopped.signal) from None


if __name__ == "__main__":
    common.run(main)
