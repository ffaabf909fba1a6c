"""What a pretrained network is worth: tasks that each yield named results.

A new task is one file with a `Task` (or an `Evaluator`, on frozen features) and one line in
`TASKS`.
"""

from collections.abc import Callable

from rfd_tf.evaluation.base import Data, ImageSet, Result, Settings, Subject, Task
from rfd_tf.evaluation.detection import Detection
from rfd_tf.evaluation.feature_measures import (
    alignment,
    effective_rank,
    rotation_leak,
    spread,
    uniformity,
)
from rfd_tf.evaluation.features import FeatureExtractor, extract_features, feature_tensors
from rfd_tf.evaluation.finetune import FineTuning
from rfd_tf.evaluation.frozen import Evaluator
from rfd_tf.evaluation.health import FeatureHealth, Verdict
from rfd_tf.evaluation.invariance import Invariance
from rfd_tf.evaluation.knn import KNearestNeighbours, default_k, knn_accuracy, knn_predictions
from rfd_tf.evaluation.linear import LinearProbes, Probe
from rfd_tf.evaluation.linear_protocol import PublishedLinearProbes, linear
from rfd_tf.evaluation.lowshot import LowShot
from rfd_tf.evaluation.monitor import NeighbourMonitor, comparison
from rfd_tf.evaluation.nonlinear import NonlinearProbes
from rfd_tf.evaluation.retrain import RetrainedLayers
from rfd_tf.evaluation.retrieval import Retrieval
from rfd_tf.evaluation.rotated import RotatedClassification
from rfd_tf.evaluation.rotated_voc import RotatedVocClassification
from rfd_tf.evaluation.rotation import Rotation
from rfd_tf.evaluation.runner import evaluate, table
from rfd_tf.evaluation.segmentation import Segmentation
from rfd_tf.evaluation.semi_supervised import SemiSupervised
from rfd_tf.evaluation.voc_classification import VocClassification

#: Task's name -> its class, or a function that makes it of its options.
TASKS: dict[str, Callable[..., Task]] = {
    "knn": KNearestNeighbours,
    "linear": linear,
    "nonlinear": NonlinearProbes,
    "lowshot": LowShot,
    "semi_supervised": SemiSupervised,
    "finetune": FineTuning,
    "retrain": RetrainedLayers,
    "rotated": RotatedClassification,
    "invariance": Invariance,
    "retrieval": Retrieval,
    "rotation": Rotation,
    "voc_classification": VocClassification,
    "rotated_voc": RotatedVocClassification,
    "segmentation": Segmentation,
    "detection": Detection,
}

__all__ = [
    "TASKS",
    "Data",
    "Detection",
    "Evaluator",
    "FeatureExtractor",
    "FeatureHealth",
    "FineTuning",
    "ImageSet",
    "Invariance",
    "KNearestNeighbours",
    "LinearProbes",
    "LowShot",
    "NeighbourMonitor",
    "NonlinearProbes",
    "Probe",
    "PublishedLinearProbes",
    "Result",
    "RetrainedLayers",
    "Retrieval",
    "RotatedClassification",
    "RotatedVocClassification",
    "Rotation",
    "Segmentation",
    "SemiSupervised",
    "Settings",
    "Subject",
    "Task",
    "Verdict",
    "VocClassification",
    "alignment",
    "default_k",
    "effective_rank",
    "evaluate",
    "extract_features",
    "feature_tensors",
    "knn_accuracy",
    "knn_predictions",
    "linear",
    "rotation_leak",
    "spread",
    "table",
    "uniformity",
    "comparison",
]
