"""Self-supervised pretraining of Keras image backbones: Rotation Feature Decoupling and relatives.

>>> import rfd_tf
>>> backbone = rfd_tf.applications.SixLayer(
...     include_top=False, pooling="avg", input_shape=(32, 32, 3))
>>> backbone.output_shape
(None, 128)
"""

import importlib

__version__ = "0.1.0"

__all__ = [
    "applications",
    "benchmarks",
    "data",
    "errors",
    "evaluation",
    "export",
    "interpret",
    "layers",
    "losses",
    "methods",
    "training",
]


def __getattr__(name: str):
    # Rooms are imported on first use, so that `import rfd_tf` costs nothing.
    if name in __all__:
        return importlib.import_module(f"rfd_tf.{name}")
    raise AttributeError(f"module 'rfd_tf' has no attribute '{name}'")


def __dir__():
    return sorted([*globals(), *__all__])
