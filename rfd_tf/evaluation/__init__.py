"""What frozen features are worth: evaluators that each yield (name, value).

A new evaluator is one file with an `Evaluator` and one line in `TASKS`.
"""

from rfd_tf.evaluation.base import Evaluator
from rfd_tf.evaluation.features import FeatureExtractor, extract_features, feature_tensors
from rfd_tf.evaluation.knn import KNearestNeighbours, default_k, knn_accuracy, knn_predictions
from rfd_tf.evaluation.linear import LinearProbes, Probe
from rfd_tf.evaluation.monitor import NeighbourMonitor
from rfd_tf.evaluation.runner import evaluate, table

TASKS: dict[str, type[Evaluator]] = {
    KNearestNeighbours.name: KNearestNeighbours,
    LinearProbes.name: LinearProbes,
}

__all__ = [
    "TASKS",
    "Evaluator",
    "FeatureExtractor",
    "KNearestNeighbours",
    "LinearProbes",
    "NeighbourMonitor",
    "Probe",
    "default_k",
    "evaluate",
    "extract_features",
    "feature_tensors",
    "knn_accuracy",
    "knn_predictions",
    "table",
]
