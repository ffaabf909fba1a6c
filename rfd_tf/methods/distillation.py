"""Feature distillation: a student learns the embeddings of a frozen teacher."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf import losses
from rfd_tf.data import views
from rfd_tf.errors import UserError
from rfd_tf.layers import replicas
from rfd_tf.methods import options
from rfd_tf.methods.heads import Embedding
from rfd_tf.methods.rotation_feature_decoupling import RotationFeatureDecoupling
from rfd_tf.methods.teacher import Teacher
from rfd_tf.rules import ON, Rule

# Share of the centre that a batch leaves; the first 1 / (1 - share) batches count alike.
_MOMENTUM = 0.99
_DIGEST = "teacher_sha256"
_TEACHER = "teacher_"
# Teachers by the digest of their weights, for clones: a configuration has no weights.
_ALIVE: weakref.WeakValueDictionary[str, keras.Model] = weakref.WeakValueDictionary()


class Distillation(RotationFeatureDecoupling):
    """Learns the embedding that a frozen network has of the same augmented image.

    The student's feature, projected, points where the teacher's embedding does: the loss is their
    cosine distance (`losses.cosine_distance`). The teacher's embeddings are centred first, by
    their running mean over the training images: features after a ReLU share one direction, which
    a constant would predict. The losses of Rotation Feature Decoupling can be trained beside it,
    on the same features; with one of them the image is seen in four rotations, and the teacher
    sees the upright one.

    Args:
        backbone: functional Keras model from normalised pixels to features: the student.
        num_images: images in the dataset; needed with the instance loss only.
        teacher: the network to learn from, see `rfd_tf.methods.teacher.Teacher`: a Keras model,
            shipped weights by name, a run folder, a file, or `imagenet:NAME`. It is used as it
            is, in inference mode, and belongs neither to the trained weights nor to checkpoints
            and exports.
        teacher_endpoint: layer whose output is the teacher's embedding; the recorded feature, or
            the model's output, if None.
        teacher_mean, teacher_std: normalisation of the teacher's pixels; the recorded one, or
            ImageNet's, if None.
        lambda_distillation: weight of the loss, above 0.
        distillation_hidden: units of a hidden layer with ReLU between the student's feature and
            the teacher's embedding; 0 for a linear projection.
        lambda_rotation, lambda_distance, lambda_instance, lambda_contrast: weights of the losses
            of Rotation Feature Decoupling; all 0 for distillation alone.
        seed: of the heads, and see `RotationFeatureDecoupling`.
        **kwargs: further options of `RotationFeatureDecoupling`, which take effect with its
            losses.

    Batch: `{"image": [batch, size, size, 3] pixels 0-255, "index": [batch] integers}`; with
    losses of RFD also four crops, of which the first is distilled.

    Sources: regression of a teacher's features is FitNets' (Romero et al., ICLR 2015) on the last
    feature; the loss is BYOL's (Grill et al., NeurIPS 2020), the centre DINO's (Caron et al.,
    ICCV 2021). The combination is none of these.

    Raises:
        UserError: no such teacher, one that shares weights with the backbone, or an option out of
            range.

    >>> import numpy as np
    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", image_size=32)
    >>> method = Distillation(backbone, teacher="network_in_network.rfd_cifar10")
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> list(method(batch)), method.chance_levels()
    (['distillation_loss'], {'distillation_loss': 1.0})
    """

    any_image_size = False
    rules = (
        *RotationFeatureDecoupling.rules,
        Rule(
            ("decoupled",),
            dict.fromkeys(
                ("lambda_rotation", "lambda_distance", "lambda_instance", "lambda_contrast"), ON
            ),
        ),
    )

    def __init__(
        self,
        backbone: keras.Model,
        num_images: int | None = None,
        *,
        teacher: keras.Model | str | os.PathLike | None = None,
        teacher_endpoint: str | None = None,
        teacher_mean: Sequence[float] | None = None,
        teacher_std: Sequence[float] | None = None,
        lambda_distillation: float = 1.0,
        distillation_hidden: int = 0,
        lambda_rotation: float = 0.0,
        lambda_distance: float = 0.0,
        lambda_instance: float = 0.0,
        lambda_contrast: float = 0.0,
        decoupled: bool = True,
        seed: int = 0,
        **kwargs,
    ):
        lambda_distillation = options.number("lambda_distillation", lambda_distillation, 0)
        if not lambda_distillation:
            raise UserError(f"lambda_distillation {lambda_distillation} must be above 0")
        options.whole("distillation_hidden", distillation_hidden, 0)
        rotates = any((lambda_rotation, lambda_distance, lambda_instance, lambda_contrast))
        if num_images is None and (lambda_instance or kwargs.get("pu_weights") is not None):
            raise UserError("the instance loss and PU weights need num_images, the set's size")
        super().__init__(
            backbone,
            # (Without a memory bank the number has no effect.)
            2 if num_images is None else num_images,
            lambda_rotation=lambda_rotation,
            lambda_distance=lambda_distance,
            lambda_instance=lambda_instance,
            lambda_contrast=lambda_contrast,
            decoupled=bool(decoupled) and rotates,
            added_losses={"distillation_loss": lambda_distillation},
            seed=seed,
            **kwargs,
        )
        if not rotates:
            self.crops, self.views = (1,), 1
        if self.memory_bank is None and self.upright_probability is None:
            self.num_images = None
        found = Teacher(
            teacher,
            self.image_size,
            endpoint=teacher_endpoint,
            mean=teacher_mean,
            std=teacher_std,
        )
        shared = {id(one) for one in found.network.weights} & {id(w) for w in backbone.weights}
        if shared:
            raise UserError(
                f"teacher '{found.name}' has weights of the backbone, which would train it; give "
                "a copy: keras.models.clone_model and set_weights"
            )
        # Past Keras' `setattr`: what it tracks is trained, saved in checkpoints and exported.
        vars(self)["teacher_model"] = found.network
        self.teacher_name = found.name
        self.teacher_endpoint = found.endpoint
        self.teacher_mean, self.teacher_std = (
            None if values is None else list(values) for values in (found.mean, found.std)
        )
        self.teacher_sha256 = found.sha256()
        self.distillation_projection = Embedding(
            found.dimensions,
            self.feature_dimensions,
            distillation_hidden,
            seed=seed + 40,
            name="distillation_projection",
        )
        self.teacher_centre, self.teacher_batches = (
            self.add_weight(
                shape=shape,
                initializer="zeros",
                trainable=False,
                dtype="float32",
                autocast=False,
                name=name,
            )
            for shape, name in (
                ((found.dimensions,), "teacher_centre"),
                ((), "teacher_batches"),
            )
        )

    def call(self, batch, training=False):
        """Computes the losses of a batch; see `Method.call`. The bank moves only in training."""
        pixels = ops.cast(batch["image"], "float32")
        images = self.preprocess(pixels)
        if self.views > 1:
            pixels = pixels[:, 0] if len(pixels.shape) == 5 else pixels
            images = views.flatten_views(views.rotate(images))
        features = self.features(images, training=training)
        # The upright views lie at every fourth place.
        embedding = self.distillation_projection(features[:: self.views])
        # First, since RFD's own losses end in an update of the bank.
        loss = losses.cosine_distance(embedding, self.teach(pixels, training=training))
        outputs = self.losses_of(features, batch, training) if self.views > 1 else {}
        return {**outputs, "distillation_loss": loss}

    def teach(self, pixels, training=False):
        """The teacher's embeddings of pixels, centred, `[batch, teacher's dimensions]`, float32.

        Args:
            pixels: 0-255, `[batch, size, size, 3]`.
            training: whether the centre follows the batch.
        """
        embeddings = ops.stop_gradient(self.teacher_model(pixels, training=False))
        centre = ops.convert_to_tensor(self.teacher_centre)
        if training:
            batches = ops.convert_to_tensor(self.teacher_batches)
            share = ops.maximum(1.0 / (batches + 1.0), 1.0 - _MOMENTUM)
            mean = replicas.all_mean(ops.mean(embeddings, axis=0))
            centre = centre + share * (mean - centre)
            self.teacher_centre.assign(centre)
            self.teacher_batches.assign(batches + 1.0)
        return embeddings - centre

    def chance_levels(self) -> dict[str, float]:
        return {**super().chance_levels(), "distillation_loss": 1.0}

    def heads(self) -> dict[str, keras.layers.Dense]:
        """The projection to the teacher's embedding, and the heads of RFD's losses."""
        own = self.distillation_projection.layers_by_name("distillation_projection")
        return {**super().heads(), **own}

    def options(self) -> dict:
        """Returns the options in use, the teacher by its name."""
        return {**super().options(), "teacher": self.teacher_name}

    def identity(self) -> dict:
        """The digest of the teacher's weights."""
        return {_DIGEST: self.teacher_sha256}

    # -- what Keras saves: a teacher by name is loaded again, another is next to the weights --

    def get_config(self) -> dict:
        _ALIVE[self.teacher_sha256] = self.teacher_model
        config = {**super().get_config(), _DIGEST: self.teacher_sha256}
        return config if self._teacher_given else {**config, "teacher": self.teacher_name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Creates the method again; a teacher that was loaded by name must be the same."""
        config = dict(config)
        digest = config.pop(_DIGEST)
        method = super().from_config(config, custom_objects)
        alive = _ALIVE.get(digest)
        if method._teacher_given and alive is not None:
            method.teacher_model.set_weights(alive.get_weights())
        elif not method._teacher_given and method.teacher_sha256 != digest:
            raise UserError(
                f"the weights of teacher '{method.teacher_name}' have changed: sha256 "
                f"{digest[:12]}... when the method was saved, {method.teacher_sha256[:12]}... now"
            )
        method.teacher_sha256 = digest
        return method

    @property
    def _teacher_given(self) -> bool:
        return isinstance(self._arguments["teacher"], keras.Model)

    def save_own_variables(self, store) -> None:
        super().save_own_variables(store)
        if self._teacher_given:
            for number, value in enumerate(self.teacher_model.get_weights()):
                store[f"{_TEACHER}{number}"] = value

    def load_own_variables(self, store) -> None:
        own = {name: store[name] for name in store.keys()}
        if self._teacher_given:
            count = len(self.teacher_model.weights)
            self.teacher_model.set_weights([own.pop(f"{_TEACHER}{n}") for n in range(count)])
        super().load_own_variables(own)
