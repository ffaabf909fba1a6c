"""Training: strategies, precision, schedules, the optimizer, checkpoints, callbacks, the loop.

`Pretraining` puts source, method, optimizer and strategy together; `RunFolder` holds what comes
out. The modules `optimizers`, `schedules` and `strategy` can be used alone.
"""

from rfd_tf.lazy import attach

_MODULES = ("optimizers", "schedules", "strategy")
_NAMES = {
    "Augmentation": "pretraining",
    "CheckpointFolder": "checkpoint",
    "Optimization": "pretraining",
    "Pretraining": "pretraining",
    "RunFolder": "run_folder",
    "SGD": "optimizers",
}

# A strategy is made before anything else starts TensorFlow, so that nothing is imported early.
__getattr__, __dir__, __all__ = attach(__name__, _MODULES, _NAMES)
