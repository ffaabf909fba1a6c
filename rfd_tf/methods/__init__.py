"""Pretraining methods by name; each is a `keras.Model` under the one `train_step` of `Method`."""

from rfd_tf.methods.aet import AutoEncodingTransformations
from rfd_tf.methods.base import Method, constructor_arguments
from rfd_tf.methods.bigan import BiGAN
from rfd_tf.methods.deepcluster import DeepCluster
from rfd_tf.methods.distillation import Distillation
from rfd_tf.methods.instance_discrimination import InstanceDiscrimination
from rfd_tf.methods.jigsaw import Jigsaw
from rfd_tf.methods.jigsaw_decoupling import JigsawFeatureDecoupling
from rfd_tf.methods.pirl import PretextInvariantRepresentations
from rfd_tf.methods.rotation import RotationPrediction
from rfd_tf.methods.rotation_feature_decoupling import RotationFeatureDecoupling

METHODS = {
    "aet": AutoEncodingTransformations,
    "bigan": BiGAN,
    "deepcluster": DeepCluster,
    "distillation": Distillation,
    "instance": InstanceDiscrimination,
    "jigsaw": Jigsaw,
    "pirl": PretextInvariantRepresentations,
    "rfd": RotationFeatureDecoupling,
    "rfd_jigsaw": JigsawFeatureDecoupling,
    "rotation": RotationPrediction,
}


def arguments(name: str) -> dict[str, object]:
    """Returns the arguments that a method's constructor adds to those of `Method`, with defaults.

    A method that is made from another, and hands on its keyword arguments, has the other's too.

    >>> arguments("rfd")["temperature"]
    0.07
    """
    return constructor_arguments(METHODS[name])


def all_arguments() -> list[str]:
    """Returns the arguments of all methods, each once.

    >>> "temperature" in all_arguments(), "backbone" in all_arguments()
    (True, False)
    """
    return list(dict.fromkeys(key for name in METHODS for key in arguments(name)))


__all__ = [
    "METHODS",
    "AutoEncodingTransformations",
    "BiGAN",
    "DeepCluster",
    "Distillation",
    "InstanceDiscrimination",
    "Jigsaw",
    "JigsawFeatureDecoupling",
    "Method",
    "PretextInvariantRepresentations",
    "RotationFeatureDecoupling",
    "RotationPrediction",
    "all_arguments",
    "arguments",
]
