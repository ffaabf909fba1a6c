"""Training: strategies, precision, schedules, the optimizer, checkpoints, callbacks, the loop.

`Pretraining` puts source, method, optimizer and strategy together; `RunFolder` holds what comes
out. The modules `optimizers`, `schedules` and `strategy` can be used alone.
"""

import importlib

_MODULES = ("optimizers", "schedules", "strategy")
_NAMES = {
    "Augmentation": "pretraining",
    "CheckpointFolder": "checkpoint",
    "Optimization": "pretraining",
    "Pretraining": "pretraining",
    "RunFolder": "run_folder",
    "SGD": "optimizers",
}

__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str):
    # A strategy is made before anything else starts TensorFlow, so that nothing is imported early.
    if name in _MODULES:
        return importlib.import_module(f"rfd_tf.training.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"rfd_tf.training.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'rfd_tf.training' has no attribute '{name}'")


def __dir__():
    return sorted([*globals(), *__all__])
