"""Losses: pure functions on tensors, each usable without the rest of the library."""

from rfd_tf.losses.adversarial import adversarial_loss, discrimination_accuracy
from rfd_tf.losses.classification import classification_accuracy, classification_loss
from rfd_tf.losses.cosine_distance import cosine_distance
from rfd_tf.losses.cross_entropy import (
    positive_unlabeled_weights,
    rotation_accuracy,
    rotation_cross_entropy,
)
from rfd_tf.losses.distance import DISTANCES, rotation_irrelevance
from rfd_tf.losses.instance_softmax import instance_softmax
from rfd_tf.losses.nce import chance_level as nce_chance_level
from rfd_tf.losses.nce import nce, nce_probabilities
from rfd_tf.losses.transformation_error import transformation_error
from rfd_tf.losses.view_contrast import view_contrast

__all__ = [
    "DISTANCES",
    "adversarial_loss",
    "classification_accuracy",
    "classification_loss",
    "cosine_distance",
    "discrimination_accuracy",
    "instance_softmax",
    "nce",
    "nce_chance_level",
    "nce_probabilities",
    "positive_unlabeled_weights",
    "rotation_accuracy",
    "rotation_cross_entropy",
    "rotation_irrelevance",
    "transformation_error",
    "view_contrast",
]
