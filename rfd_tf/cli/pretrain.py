"""Pretrains a backbone on unlabelled images.

    rfd-tf pretrain --config=quickstart --output_dir=runs/quickstart
    rfd-tf pretrain --data=photos --backbone=mobilenet_v2 --output_dir=runs/photos

Running the same command again resumes the run. SIGTERM and SIGINT (Ctrl-C) save and end it after
the current step, with exit code 143 or 130; user errors exit with code 2.
"""

from __future__ import annotations

import sys

from absl import flags

from rfd_tf.cli import common, config_flags, data_flags, image_flags, path_flags
from rfd_tf.config import IMAGE_SETTINGS, PretrainConfig
from rfd_tf.settings import method_settings, named_values, settings_of

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
    "Keras callback of the training, as module:Class or module:Class,argument=value,...; "
    "repeatable. Those of W&B and MLflow also log the settings, scores, figures and exports.",
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


def callbacks(strategy: str) -> list:
    """Creates the Keras callbacks of --callback, on the first of several machines only.

    Args:
        strategy: of the training.

    Raises:
        UserError: no such module or class, arguments that it refuses, or it is not a callback.
    """
    if not FLAGS.callback:
        return []
    from rfd_tf.training import workers

    if strategy == "multiworker" and workers.read_cluster()[1] != 0:
        return []
    # As `python -m` does: modules in the working directory are found.
    sys.path.insert(0, "")
    return [_callback(text) for text in FLAGS.callback]


def _callback(text: str) -> object:
    import importlib

    import keras

    from rfd_tf import extras
    from rfd_tf.errors import UserError, shown
    from rfd_tf.training import trackers

    place, *options = text.split(",")
    module, _, name = place.partition(":")
    arguments = named_values(options, "callback")
    try:
        if module.partition(".")[0] in extras.EXTRAS:
            extras.load(module, f"--callback '{text}'")
        kind = getattr(importlib.import_module(module), name)
    except extras.MissingPackage:
        raise
    except Exception as error:
        raise UserError(
            f"--callback '{text}' cannot be imported ({shown(error)}); it must read "
            "module:Class or module:Class,argument=value"
        ) from None
    if not (isinstance(kind, type) and issubclass(kind, keras.callbacks.Callback)):
        raise UserError(f"--callback '{text}' is no keras.callbacks.Callback")
    try:
        trackers.start(module)
        return kind(**arguments)
    except Exception as error:
        raise UserError(
            f"--callback '{text}' cannot be created: {shown(error) or type(error).__name__}"
        ) from None


def main() -> None:
    settings = config()
    settings.check()
    further = callbacks(settings.strategy)

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
