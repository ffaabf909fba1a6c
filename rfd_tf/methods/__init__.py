"""Pretraining methods by name; each is a `keras.Model` under the one `train_step` of `Method`."""

from rfd_tf.methods.base import Method
from rfd_tf.methods.rotation_feature_decoupling import RotationFeatureDecoupling

METHODS = {
    "rfd": RotationFeatureDecoupling,
}

__all__ = ["METHODS", "Method", "RotationFeatureDecoupling"]
