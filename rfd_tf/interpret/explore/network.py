"""A run's network as an ONNX file, run by onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from rfd_tf.errors import UserError, shown
from rfd_tf.paths import absolute

#: In the order they are shown.
FEATURES = ("f1", "f2", "f")
ROTATION = "rotation_logits"
_EMBEDDING = "embedding"
_BATCH = 64


def exported(weights: str | os.PathLike, folder: str | os.PathLike) -> Path:
    """Returns a run's ONNX file with all that is shown; makes it where it is missing.

    The file gives `f`, where the feature is split `f1` and `f2`, and `rotation_logits` where the
    run folder has the head (`heads.npz`). It is made again when weights or outputs have changed.

    Args:
        weights: a run folder, or another folder with `backbone.weights.h5`.
        folder: the export is in its sub-folder `model`.

    Raises:
        UserError: there are no weights, or the file cannot be written.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> network = applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8))
    >>> record = {"format": 1, "backbone": "six_layer", "image_size": 16,
    ...           "arguments": {"filters": [4, 4, 4, 4, 4, 8]},
    ...           "feature": {"endpoint": "block6", "pooling": "avg", "split": [4, 4]}}
    >>> run = tempfile.mkdtemp()
    >>> _ = applications.save_backbone(network, f"{run}/backbone.weights.h5", record)
    >>> OnnxNetwork(exported(run, f"{run}/explore")).features
    ('f1', 'f2', 'f')
    """
    from rfd_tf.applications.weights import find_weights, read_record, sha256
    from rfd_tf.export import export_backbone

    source = find_weights(weights)
    split = ((read_record(source) or {}).get("feature") or {}).get("split")
    wanted = ["f", "f1", "f2"] if split else ["f"]
    if _has_rotation_head(source):
        wanted.append(ROTATION)
    target = absolute(folder) / "model"
    path = target / "model.onnx"
    if path.is_file():
        try:
            made = OnnxNetwork(path)
        except UserError:
            made = None
        if made is not None and made.outputs == set(wanted) and made.sha256 == sha256(source):
            return path
    export_backbone(source, target, ["onnx"], outputs=wanted, overwrite=True)
    return path


def _has_rotation_head(source: Path) -> bool:
    from rfd_tf.applications.weights import RUN_FILE
    from rfd_tf.evaluation.heads import FILE, load_heads

    if source.name != RUN_FILE or not (source.parent / FILE).exists():
        return False
    head = load_heads(source.parent).get("rotation_head")
    return head is not None and head[0].shape[1] == 4


class OnnxNetwork:
    """Pixels to features, by onnxruntime on the CPU.

    Args:
        path: an ONNX file of `rfd_tf.export` with the output `f`; see `exported`.

    Attributes:
        image_size: side S of its images, pixels.
        grey: uint8 `[3]`, the pixel that normalisation makes zero.
        sha256: of the weights that the file was made from.
        outputs: names of all outputs but `embedding`.
        features: those of `f1`, `f2` and `f` that it gives.

    Raises:
        UserError: no such file, or not such a file.

    >>> import tempfile
    >>> network = OnnxNetwork(exported("six_layer.rfd_cifar10", tempfile.mkdtemp()))
    >>> network(np.zeros((2, 32, 32, 3), np.uint8))["f1"].shape
    (2, 64)
    """

    def __init__(self, path: str | os.PathLike):
        from rfd_tf.export import OnnxModel

        try:
            self._model = OnnxModel(path)
            found = self._model.metadata
            self.sha256 = found["weights_sha256"]
            mean = np.array(found["preprocessing"]["mean"], np.float64)
            self.grey = np.clip(np.rint(mean * 255), 0, 255).astype(np.uint8)
        except (KeyError, TypeError, ValueError) as error:
            reason = shown(error, 200)
            raise UserError(f"'{path}' is not an ONNX file of rfd_tf ({reason})") from None
        self.image_size = self._model.image_size
        self.outputs = set(self._model.outputs) - {_EMBEDDING}
        self.features = tuple(name for name in FEATURES if name in self.outputs)
        if "f" not in self.features:
            raise UserError(f"'{path}' does not give f; export it with --outputs=f,f1,f2")

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs float32 `[N, D]` by name for pixels uint8 `[N, S, S, 3]`."""
        names = sorted(self.outputs & {*FEATURES, ROTATION})
        parts = []
        for start in range(0, len(pixels), _BATCH):
            parts.append(self._model(pixels[start : start + _BATCH], names))
        return {name: np.concatenate([part[name] for part in parts]) for name in names}
