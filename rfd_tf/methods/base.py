"""What all methods share: the backbone, normalised pixels, and the only `train_step`."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf import applications, keras_settings
from rfd_tf.errors import UserError
from rfd_tf.layers import replicas


class Method(keras.Model):
    """A pretraining method around a backbone.

    A subclass declares its losses and diagnostics (`declare`), and computes them in `call` from
    a batch
    `{"image": [batch, height, width, 3] pixels 0-255, "index": [batch] integers}` with
    backend-neutral operations. This class weighs and sums the losses, differentiates, applies and
    logs, on one replica or many; Keras' JAX trainer takes the same model as it is.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        feature_endpoint: name of the layer whose output is the feature; the backbone's last
            endpoint when None. Maps `[batch, h, w, channels]` are averaged over their positions.
        mean, std: channel means and standard deviations of the pixels / 255.
        gradient_accumulation: number of parts a replica's batch is cut into, one after the
            other, to train with less memory. Batch normalisation sees each part by itself.

    The backbone may compute in bfloat16; heads and losses are float32.

    Raises:
        UserError: for an endpoint that the backbone lacks; Keras is set to channels_first or to
            another floatx than float32.

    A method that trains features to be small, for example:

    >>> class Small(Method):
    ...     def __init__(self, backbone, **kwargs):
    ...         super().__init__(backbone, **kwargs)
    ...         self.declare({"size": 1.0})
    ...         self.built = True
    ...     def call(self, batch, training=False):
    ...         features = self.features(self.preprocess(batch["image"]), training=training)
    ...         return {"size": ops.mean(ops.square(features))}
    >>> method = Small(applications.build("six_layer", image_size=32))
    >>> list(method({"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.arange(2)}))
    ['size']
    """

    #: How many crops of an image a batch may hold.
    crops: tuple[int, ...] = (1,)

    def __init__(
        self,
        backbone: keras.Model,
        *,
        feature_endpoint: str | None = None,
        mean: Sequence[float] = applications.IMAGENET_MEAN,
        std: Sequence[float] = applications.IMAGENET_STD,
        gradient_accumulation: int = 1,
        **kwargs,
    ):
        keras_settings.check_loaded()
        # Float32 here keeps a mixed policy from rounding the batch; the backbone has its own.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.backbone = backbone
        self.feature_endpoint = feature_endpoint or applications.endpoints(backbone)[-1]
        self.feature_model = applications.pooled_feature_model(backbone, self.feature_endpoint)
        self.feature_dimensions = int(self.feature_model.output_shape[-1])
        self.image_size = int(backbone.input_shape[1])
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.gradient_accumulation = int(gradient_accumulation)
        #: Images of a training step over all replicas, once that is known; chance levels of what
        #: is compared within the batch rest on it.
        self.batch_size: int | None = None
        #: The `MemoryBank` that batches' indices address, in methods that have one.
        self.memory_bank = None

    def declare(self, loss_weights: dict[str, float], diagnostics: Sequence[str] = ()) -> None:
        """Names what `call` returns; a subclass does so once, in its constructor.

        Args:
            loss_weights: weight of each loss in the sum that is trained, by name.
            diagnostics: names of further values, logged and never trained.
        """
        self.loss_weights = {name: float(weight) for name, weight in loss_weights.items()}
        self.log_names = ("loss", *self.loss_weights, *diagnostics)
        # Running sums of what is logged and, last, the number of steps summed.
        self.log_totals = self.add_weight(
            shape=(len(self.log_names) + 1,),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            name="log_totals",
        )

    # -- for subclasses ---------------------------------------------------------------------

    def call(self, batch, training=False):
        """Computes `{name: float32 scalar}` for every declared name, the mean over this
        replica's batch."""
        raise TypeError(f"{type(self).__name__} must define call(batch, training)")

    def chance_levels(self) -> dict[str, float]:
        """The value that a logged quantity has when nothing has been learnt, by name."""
        return {}

    def begin_epoch(self, epoch: int, images=None) -> None:
        """Called before epoch number `epoch` (0-based) trains.

        Args:
            epoch: number of the epoch.
            images: function that returns an iterable of batches
                `{"image": uint8, "index": int64}`, all images once in order, not augmented, or
                those of the increasing indices it is given; None where there are none. Images
                that cannot be read are missing.
        """

    def epoch_order(self, epoch: int, count: int) -> np.ndarray | None:
        """Chooses the images that an epoch trains on; asked after `begin_epoch`.

        What it answers must follow from the method's weights and options, so that a resumed run
        and every machine see the same.

        Args:
            epoch: number of the epoch.
            count: images the epoch takes.

        Returns:
            int64 `[count]`, the images' indices in the order of training; or None, for every
            epoch, where each image is to be seen once in random order.
        """
        return None

    def heads(self) -> dict[str, keras.layers.Dense]:
        """The linear layers on the feature, by name, that are worth keeping with the backbone."""
        return {}

    def record(self) -> dict:
        """What must be known, beside the weights, to use the backbone's feature."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.image_size,
            "feature": {"endpoint": self.feature_endpoint, "pooling": "avg"},
        }

    def figures(self, images) -> dict:
        """Draws what the method does with a few images, after an epoch.

        It must leave the method's random generators alone, or looking would change the training.

        Args:
            images: uint8 `[batch, size, size, 3]`, NumPy, not augmented.

        Returns:
            Pictures, uint8 `[height, width, 3]`, NumPy, by name; a run keeps the latest of each
            in `figures/`, and all in TensorBoard.
        """
        return {}

    # -- shared pieces ----------------------------------------------------------------------

    def preprocess(self, images):
        """Pixels 0-255 of any dtype to normalised float32."""
        return applications.preprocess_input(
            ops.cast(images, "float32"), mean=self.mean, std=self.std
        )

    def features(self, preprocessed, training=False):
        """Pooled features `[batch, feature_dimensions]`, float32, of normalised images."""
        return ops.cast(self.feature_model(preprocessed, training=training), "float32")

    def named_features(self, images) -> dict:
        """Evaluation-mode features of pixels, by name: `f`, and its parts where it has some."""
        return {"f": self.features(self.preprocess(images), training=False)}

    def reset_optimizer_state(self, variables) -> None:
        """Sets what the optimizer remembers of variables, such as momentum, to zero.

        Args:
            variables: trainable weights, whose meaning has changed.
        """
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or not optimizer.built:
            return
        trained = [id(variable) for variable in self.trainable_variables]
        state = {id(variable) for variable in optimizer.variables}
        for kept in vars(optimizer).values():
            # What an optimizer keeps for each variable, it keeps in a list of their order.
            if not isinstance(kept, list) or len(kept) != len(trained):
                continue
            for variable in variables:
                slot = kept[trained.index(id(variable))]
                if id(slot) in state and slot.shape == variable.shape:
                    slot.assign(np.zeros(slot.shape, "float32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the losses in `y_pred`, the dict that `call` returned."""
        total = 0.0
        for name, weight in self.loss_weights.items():
            total = total + weight * y_pred[name]
        return total

    # -- training ---------------------------------------------------------------------------

    def train_step(self, *arguments):
        """One optimizer step on one batch; returns the logs' means since the last reset.

        With several replicas, each sees its part of the global batch; gradients are those of the
        global batch's mean loss, and the logs are means over the replicas. On other backends than
        TensorFlow this is the step of Keras' own trainer, whose logs are those of the step.
        """
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*arguments)
        import tensorflow as tf

        (data,) = arguments

        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        parts = self._parts(batch)
        gradients, outputs = None, None
        for part in parts:
            # Each part waits for the one before, or their activations would be held together.
            waited = [] if gradients is None else [g for g in gradients if g is not None]
            with tf.control_dependencies(waited):
                with tf.GradientTape() as tape:
                    part_outputs = self(part, training=True)
                    loss = self.compute_loss(y_pred=part_outputs)
                    # The optimizer adds the replicas' gradients up.
                    share = loss / (len(parts) * replicas.num_replicas())
                part_gradients = tape.gradient(share, variables)
                part_outputs = {"loss": loss, **part_outputs}
            gradients = _add(gradients, part_gradients)
            outputs = _add(outputs, [part_outputs[name] for name in self.log_names])
        # TensorFlow's graph rewriting may drop the order of a weight's update and of its reads that
        # this weight's gradient does not depend on; they all end in the outputs.
        with tf.control_dependencies(outputs):
            gradients = [None if g is None else tf.identity(g) for g in gradients]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._log(ops.stack(outputs) / len(parts))

    def _parts(self, batch) -> list:
        count = self.gradient_accumulation
        if count == 1:
            return [batch]
        size = batch["index"].shape[0]
        if size is None or size % count:
            raise UserError(
                f"gradient_accumulation {count} must divide the {size} images a replica gets; "
                "choose another batch_size or gradient_accumulation"
            )
        step = size // count
        return [
            {name: value[start : start + step] for name, value in batch.items()}
            for start in range(0, size, step)
        ]

    def _log(self, values) -> dict:
        values = replicas.all_mean(ops.cast(values, "float32"))
        self.log_totals.assign_add(ops.concatenate([values, ops.ones((1,), "float32")]))
        return self.logs()

    def logs(self) -> dict:
        """The mean of every logged value since `reset_metrics`, by name."""
        totals = ops.convert_to_tensor(self.log_totals)
        means = totals[:-1] / ops.maximum(totals[-1], 1.0)
        return {name: means[position] for position, name in enumerate(self.log_names)}

    def reset_metrics(self):
        """Sets what is logged back to the beginning of an epoch."""
        super().reset_metrics()
        self.log_totals.assign(np.zeros(self.log_totals.shape, "float32"))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Logs of trainers other than this class' own: the values of this step."""
        return {"loss": self.compute_loss(y_pred=y_pred), **y_pred}


def _add(total, values):
    if total is None:
        return list(values)
    return [
        b if a is None else a if b is None else a + b for a, b in zip(total, values, strict=True)
    ]
