"""Self-supervised pretraining of Keras image backbones: Rotation Feature Decoupling and relatives.

>>> import rfd_tf
>>> backbone = rfd_tf.applications.SixLayer(
...     include_top=False, pooling="avg", input_shape=(32, 32, 3))
>>> backbone.output_shape
(None, 128)
"""

import os

from rfd_tf import kernels
from rfd_tf.lazy import attach

# onnxruntime reads this when it is first imported. From 1.29 on it otherwise reports to its vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
kernels.choose()

__version__ = "0.1.0"

# Rooms are imported on first use, so that `import rfd_tf` costs nothing.
_ROOMS = (
    "applications",
    "cli",
    "config",
    "data",
    "errors",
    "evaluation",
    "export",
    "interpret",
    "layers",
    "losses",
    "methods",
    "text",
    "training",
)

_NAMES = {
    "KNNClassifier": "evaluation.estimators",
    "LinearProbe": "evaluation.estimators",
    "estimate_pu_weights": "estimation",
    **dict.fromkeys(("Run", "embed", "evaluate", "export_model", "pretrain"), "run"),
}

__getattr__, __dir__, __all__ = attach(__name__, _ROOMS, _NAMES)
