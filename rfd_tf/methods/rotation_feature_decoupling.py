"""Rotation Feature Decoupling (Feng, Xu, Tao, CVPR 2019)."""

from __future__ import annotations

import math
from typing import Literal

import keras
import numpy as np
from keras import ops

from rfd_tf import losses
from rfd_tf.data import views
from rfd_tf.errors import UserError, unknown
from rfd_tf.layers import generators, replicas
from rfd_tf.layers.memory_bank import normalize
from rfd_tf.methods.heads import linear
from rfd_tf.methods.recognition import MemoryBankMethod
from rfd_tf.rules import GIVEN, ON, Rule

INSTANCE_VIEWS = ("mean", "each")
NUM_ROTATIONS = views.NUM_ROTATIONS


class RotationFeatureDecoupling(MemoryBankMethod):
    """Splits the feature in two: one half predicts the rotation, the other the instance.

    Each image is seen in four rotations. With the feature f = [f1; f2]:

    - rotation: weighted cross-entropy of a linear classifier on f1; the weights discount rotated
      views that look upright (positive-unlabelled learning);
    - distance: of f2 to its mean over the four rotations, which makes it rotation-irrelevant;
    - instance: the projected, normalised mean of f2 recognises its own row of a memory bank among
      all others, by noise-contrastive estimation or by the exact softmax.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        num_images: images in the dataset, one row of the memory bank each.
        lambda_rotation, lambda_distance, lambda_instance: weights of the losses; a loss of weight
            0 is not computed, and without the instance loss there is no memory bank.
        lambda_contrast: weight of a fourth loss, 0 in the paper: NT-Xent, where the projected f2 of
            a view matches the other views of its image in the batch; see
            `losses.view_contrast`. It needs one crop per rotation.
        decoupled: `False` uses the whole feature for every loss (the paper's ablation).
        split: share of the feature's dimensions that f1 gets, above 0 and below 1.
        instance_views: what must recognise the image's row: `mean`, the mean of f2 over the
            rotations (the paper), or `each` rotation's f2 by itself. The bank holds the embedding
            of the mean either way.
        distance: `mean_squared` (the published program) or `euclidean` (the paper).
        pu_weights: `[num_images, 4]` probabilities, 0 to 1, that a rotated view looks upright
            (column 0 is not used), or None for equal weights.
        pu_gamma: exponent of the probability in the weight 1 - p**gamma.
        pu_start_epoch: 0-based epoch from which the weights count.
        seed: of the heads, the bank and the negatives.
        **kwargs: projection, temperature, negatives and bank, see
            `rfd_tf.methods.recognition.MemoryBankMethod`.

    Batch: `{"image": [batch, size, size, 3] pixels 0-255, "index": [batch] integers}`. Images are
    the augmented originals; the rotations are made here, on the device. Images
    `[batch, 4, size, size, 3]` give every rotation a crop of its own. An optional entry
    `"negatives": [batch, count] integers` prescribes the NCE's negatives instead of drawing them.

    What differs between paper and published program, and which is the default, is in the
    losses' docstrings. The rotation accuracy of the same classifier on f2 is logged and never
    trained: it shows whether rotation leaks into f2.

    Raises:
        UserError: for unknown options, fewer images than negatives, weights of another shape.

    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", image_size=32)
    >>> method = RotationFeatureDecoupling(backbone, num_images=100, num_negatives=16)
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> sorted(method(batch))[:3]
    ['distance_loss', 'instance_loss', 'rotation_accuracy']
    """

    crops = (1, NUM_ROTATIONS)
    views = NUM_ROTATIONS
    any_image_size = True
    rules = (
        Rule(
            (
                "instance_loss", "instance_views", "negatives", "num_negatives", "normalizer",
                "exclude_positive", "bank_momentum", "bank_initialization", "bank_dtype",
                "fill_bank",
            ),
            {"lambda_instance": ON},
            "since without the instance loss there is no memory bank",
        ),
        *MemoryBankMethod.rules,
        Rule(
            ("projection_dimensions", "projection_hidden", "temperature"),
            {"lambda_instance": ON, "lambda_contrast": ON},
        ),
        Rule(("distance",), {"lambda_distance": ON}),
        Rule(("split",), {"decoupled": ON}),
        Rule(("pu_weights", "pu_gamma", "pu_start_epoch"), {"lambda_rotation": ON}),
        Rule(("pu_gamma", "pu_start_epoch"), {"pu_weights": GIVEN}),
    )  # fmt: skip

    def __init__(
        self,
        backbone: keras.Model,
        num_images: int,
        *,
        lambda_rotation: float = 1.0,
        lambda_distance: float = 1.0,
        lambda_instance: float = 1.0,
        lambda_contrast: float = 0.0,
        decoupled: bool = True,
        split: float = 0.5,
        instance_views: Literal["mean", "each"] = "mean",
        distance: Literal["mean_squared", "euclidean"] = "mean_squared",
        pu_weights=None,
        pu_gamma: float = 2.0,
        pu_start_epoch: int = 0,
        seed: int = 0,
        **kwargs,
    ):
        weights = {
            "rotation_loss": lambda_rotation,
            "distance_loss": lambda_distance,
            "instance_loss": lambda_instance,
            "contrast_loss": lambda_contrast,
        }
        for name, value in weights.items():
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"weight {value} of {name} must be a number of at least 0")
        if not any(weights.values()) and not kwargs.get("added_losses"):
            raise UserError("all loss weights are 0; nothing would be trained")
        if instance_views not in INSTANCE_VIEWS:
            raise unknown("kind of instance views", instance_views, INSTANCE_VIEWS)
        if distance not in losses.DISTANCES:
            raise unknown("distance", distance, losses.DISTANCES)
        super().__init__(backbone, num_images, **kwargs)
        self.decoupled = bool(decoupled)
        self.instance_views = instance_views
        self.distance = distance
        self.pu_gamma = float(pu_gamma)
        self.pu_start_epoch = int(pu_start_epoch)
        self.split = self._split_sizes(split)
        diagnostics = ["rotation_accuracy", "rotation_accuracy_f2"] if lambda_rotation else []
        if not self.decoupled or self.split[0] != self.split[1]:
            # The classifier takes f1; it can be applied to f2 only where both are as long.
            diagnostics = diagnostics[:1]
        self.declare({name: value for name, value in weights.items() if value}, diagnostics)

        self.rotation_head = None
        if lambda_rotation:
            self.rotation_head = linear(
                NUM_ROTATIONS, self.split[0], "rotation_head", seed=seed + 10
            )
        self.projection = self.projection_hidden = self.normalizing_constant = None
        if lambda_instance or lambda_contrast:
            inputs = self.split[1]
            dimensions, hidden = self.embedding_sizes
            if hidden:
                self.projection_hidden = linear(hidden, inputs, "projection_hidden", seed=seed + 13)
                inputs = hidden
            self.projection = linear(dimensions, inputs, "projection", seed=seed + 11)
        if lambda_instance:
            self.normalizing_constant = self.add_memory_bank(seed + 12)
        self.upright_probability = self.pu_active = None
        if pu_weights is not None:
            self._add_pu_weights(pu_weights)
        self.built = True

    def _split_sizes(self, split: float) -> tuple[int, int]:
        total = self.feature_dimensions
        if not self.decoupled:
            return total, total
        first = round(total * split)
        if not 0 < first < total:
            raise UserError(
                f"split {split} leaves one half of the {total} feature dimensions empty; "
                "choose a share above 0 and below 1"
            )
        return first, total - first

    def _add_pu_weights(self, pu_weights) -> None:
        probability = np.asarray(pu_weights, dtype="float32")
        if probability.shape != (self.num_images, NUM_ROTATIONS):
            raise UserError(
                f"PU weights have shape {probability.shape}; this dataset needs "
                f"({self.num_images}, {NUM_ROTATIONS}), a row an image"
            )
        if not (
            np.isfinite(probability).all() and probability.min() >= 0 and probability.max() <= 1
        ):
            raise UserError("PU weights hold values that are no probabilities from 0 to 1")
        self.upright_probability = self.add_weight(
            shape=probability.shape,
            initializer=lambda shape, dtype=None: probability,
            trainable=False,
            autocast=False,
            name="upright_probability",
        )
        self.pu_active = self.add_weight(
            shape=(),
            # For loops that begin no epochs.
            initializer=keras.initializers.Constant(float(self.pu_start_epoch <= 0)),
            trainable=False,
            autocast=False,
            name="pu_active",
        )

    # -- the losses -------------------------------------------------------------------------

    def split_features(self, features):
        """`[..., dimensions]` to the pair f1, f2; both the whole feature when not decoupled."""
        if not self.decoupled:
            return features, features
        return features[..., : self.split[0]], features[..., self.split[0] :]

    def call(self, batch, training=False):
        """Computes the losses of a batch; see `Method.call`. The bank moves only in training."""
        images = views.rotate(self.preprocess(batch["image"]))
        features = self.features(views.flatten_views(images), training=training)
        return self.losses_of(features, batch, training)

    def losses_of(self, features, batch, training=False) -> dict:
        """Computes the losses from the features `[batch * 4, dimensions]` of the rotated views."""
        index = batch["index"]
        f1, f2 = self.split_features(features)
        outputs = {}
        if self.rotation_head is not None:
            outputs.update(self._rotation(f1, f2, index))
        f2 = ops.reshape(f2, (-1, NUM_ROTATIONS, f2.shape[-1]))
        if "distance_loss" in self.loss_weights:
            outputs["distance_loss"] = losses.rotation_irrelevance(f2, self.distance)
        if "contrast_loss" in self.loss_weights:
            each = self.embed(f2)
            outputs["contrast_loss"] = losses.view_contrast(
                each,
                self.temperature,
                replicas.gather_with_gradient(each),
                replicas.replica_index() * ops.shape(each)[0],
            )
        if self.memory_bank is not None:
            embedding = self.embed(ops.mean(f2, axis=1))
            negatives = batch.get("negatives")
            if self.instance_views == "each":
                query = self.embed(views.flatten_views(f2))
                rows = ops.repeat(index, NUM_ROTATIONS, axis=0)
                if negatives is not None:
                    negatives = ops.repeat(negatives, NUM_ROTATIONS, axis=0)
            else:
                query, rows = embedding, index
            outputs["instance_loss"] = self.recognition.loss(
                query, rows, negatives, training=training
            )
            if training:
                self.memory_bank.update(index, embedding)
        return outputs

    def embed(self, f2):
        """The embedding that the bank holds, `[batch, projection_dimensions]`, of length 1."""
        if self.projection_hidden is not None:
            f2 = ops.relu(self.projection_hidden(f2))
        return normalize(self.projection(f2))

    def rotation_weights(self, index):
        """Weights `[batch, 4]` of the views' cross-entropy, or None while all count alike."""
        if self.upright_probability is None:
            return None
        probability = ops.take(self.upright_probability, index, axis=0)
        weights = losses.positive_unlabeled_weights(probability, self.pu_gamma)
        active = ops.convert_to_tensor(self.pu_active)
        return active * weights + (1.0 - active)

    def _rotation(self, f1, f2, index) -> dict:
        labels = ops.tile(ops.arange(NUM_ROTATIONS), (ops.shape(index)[0],))
        logits = self.rotation_head(f1)
        weights = self.rotation_weights(index)
        if weights is not None:
            weights = ops.reshape(weights, (-1,))
        outputs = {
            "rotation_loss": losses.rotation_cross_entropy(logits, labels, weights),
            "rotation_accuracy": losses.rotation_accuracy(logits, labels),
        }
        if "rotation_accuracy_f2" in self.log_names:
            leaked = self.rotation_head(ops.stop_gradient(f2))
            outputs["rotation_accuracy_f2"] = losses.rotation_accuracy(leaked, labels)
        return outputs

    def instance_logits(self, embedding, index, negatives=None):
        """Similarities to the bank's rows / temperature, as the NCE takes them.

        Args:
            embedding: `[batch, projection_dimensions]`, of length 1.
            index: `[batch]` integers, the images' own rows.
            negatives: `[batch, count]` integers, the rows to compare with; drawn when None, without
                moving the generator.

        Returns:
            A pair: logits `[batch, 1 + negatives]`, column 0 the positive; and `valid`, see
            `MemoryBank.negatives`.
        """
        with generators.kept(self):
            return self.recognition.logits(embedding, index, negatives)

    # -- around training --------------------------------------------------------------------

    def begin_epoch(self, epoch: int, images=None) -> None:
        if self.pu_active is not None:
            self.pu_active.assign(float(epoch >= self.pu_start_epoch))

    def single_image_problem(self) -> str | None:
        if "contrast_loss" in self.loss_weights:
            return "the contrast loss has no views of other images to compare with"
        return super().single_image_problem()

    def fill_memory_bank(self, batch) -> None:
        """Replaces the bank's rows of a batch by its embeddings.

        Run over the dataset before training, it spares the first epoch its comparison with random
        rows. Batch statistics are used, as training will; the moving ones follow them.
        """
        images = views.flatten_views(views.rotate(self.preprocess(batch["image"])))
        _, f2 = self.split_features(self.features(images, training=True))
        mean = ops.mean(ops.reshape(f2, (-1, NUM_ROTATIONS, f2.shape[-1])), axis=1)
        self.memory_bank.update(batch["index"], self.embed(mean), momentum=0.0)

    def chance_levels(self) -> dict[str, float]:
        levels = {
            "rotation_loss": math.log(NUM_ROTATIONS),
            "rotation_accuracy": 0.25,
            "rotation_accuracy_f2": 0.25,
        }
        if self.memory_bank is not None:
            levels["instance_loss"] = self.recognition.chance_level()
        if self.batch_size:
            # Parts of a batch are trained one by one and compare within themselves.
            compared = NUM_ROTATIONS * (self.batch_size // self.gradient_accumulation)
            levels["contrast_loss"] = math.log(compared - 1)
        return {name: value for name, value in levels.items() if name in self.log_names}

    def named_features(self, images) -> dict:
        """Evaluation-mode `f`, and `f1` and `f2` where the feature is split, of pixels."""
        features = self.features(self.preprocess(images), training=False)
        if not self.decoupled:
            return {"f": features}
        f1, f2 = self.split_features(features)
        return {"f": features, "f1": f1, "f2": f2}

    def heads(self) -> dict[str, keras.layers.Dense]:
        """The classifier of rotations, on f1, and the projection of the instance loss, on f2."""
        layers = {
            "rotation_head": self.rotation_head,
            "projection_hidden": self.projection_hidden,
            "projection": self.projection,
        }
        return {name: layer for name, layer in layers.items() if layer is not None}

    def check_epochs(self, epochs: int) -> None:
        if self.pu_active is not None and self.pu_start_epoch >= epochs:
            raise UserError(
                f"the PU weights would never count: pu_start_epoch {self.pu_start_epoch} is not "
                f"below epochs {epochs} (epochs count from 0); give a lower pu_start_epoch, more "
                "epochs, or no pu_weights"
            )

    def record(self) -> dict:
        record = super().record()
        if self.decoupled:
            record["feature"]["split"] = list(self.split)
        return record
