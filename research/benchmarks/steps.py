"""The training steps that benchmarks time: those of the methods, and the bare one of a backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rfd_tf import applications, methods
from rfd_tf.data import views
from rfd_tf.training import optimizers
from rfd_tf.training import strategy as strategies
from rfd_tf.training.pretraining import dtype_policy


def default_policy() -> str:
    """The dtype policy that `--mixed_precision=auto` means on this machine."""
    return strategies.precision_policy("auto")


def optimizer() -> keras.optimizers.Optimizer:
    """The optimizer that pretraining uses, with every part of it at work."""
    return optimizers.SGD(0.01, momentum=0.9, nesterov=True, coupled_weight_decay=5e-4)


class MethodStep:
    """A training step of a method on one batch of random pixels.

    Args:
        backbone: name of a backbone.
        image_size: side of the images, pixels.
        batch_size: images, of which each is seen in four views by RFD.
        num_images: images of the dataset, rows of the memory bank.
        method: name of the method.
        crops: crops of an image in the batch.
        policy: Keras dtype policy of the backbone; the default precision's when None.
        stock: whether to use Keras' own layers in place of this package's.
        backbone_options: further arguments of the backbone.
        **arguments: of the method.

    Calling it runs one step and returns the loss as a number, when the step is done.

    >>> step = MethodStep("six_layer", 16, batch_size=2, num_images=10, num_negatives=4)
    >>> step() > 0
    True
    """

    def __init__(
        self,
        backbone: str,
        image_size: int,
        batch_size: int,
        num_images: int,
        *,
        method: str = "rfd",
        crops: int = 1,
        policy: str | None = None,
        stock: bool = False,
        backbone_options: dict[str, Any] | None = None,
        **arguments: Any,
    ):
        self.policy = policy or default_policy()
        with dtype_policy(self.policy):
            network = applications.build(backbone, image_size, **(backbone_options or {}))
        if stock:
            if self.policy != "float32":
                raise ValueError("stock layers are compared in float32")
            network = applications.portable(network)
        if "num_images" in methods.arguments(method):
            arguments["num_images"] = num_images
        self.method = methods.METHODS[method](network, **arguments)
        self.method.compile(optimizer=optimizer(), jit_compile=False)
        self.method.optimizer.build(self.method.trainable_variables)
        self.batch = random_batch(batch_size, image_size, num_images, crops)
        self.function = tf.function(self.method.train_step)

    def __call__(self) -> float:
        return float(self.function(self.batch)["loss"])


class BareStep:
    """Forward pass, backward pass and update of a feature model, with no method around it.

    The loss is the mean of the feature.

    Args:
        model: from normalised views to the feature; it is trained.
        images: the views, `[views, size, size, 3]`, rotated and normalised already.

    >>> step = MethodStep("six_layer", 16, batch_size=2, num_images=10, num_negatives=4)
    >>> isinstance(BareStep.beside(step)(), float)
    True
    """

    def __init__(self, model: keras.Model, images: tf.Tensor):
        self.model, self.views = model, images
        self.optimizer = optimizer()
        self.optimizer.build(self.model.trainable_variables)
        self.function = tf.function(self._step)

    @classmethod
    def beside(cls, step: MethodStep) -> BareStep:
        """Returns the bare step of a method's backbone, in its precision, on its batch's views."""
        with dtype_policy(step.policy):
            model = keras.models.clone_model(step.method.feature_model)
        images = views.rotate(step.method.preprocess(step.batch["image"]))
        return cls(model, tf.identity(views.flatten_views(images)))

    def _step(self, images: tf.Tensor) -> tf.Tensor:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.cast(self.model(images, training=True), tf.float32))
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def __call__(self) -> float:
        return float(self.function(self.views))


def random_batch(
    batch_size: int, image_size: int, num_images: int, crops: int = 1
) -> dict[str, tf.Tensor]:
    """A batch of random pixels, of images spread over the whole memory bank."""
    draw = np.random.default_rng(0)
    several = (crops,) if crops > 1 else ()
    pixels = draw.integers(0, 256, (batch_size, *several, image_size, image_size, 3), "uint8")
    index = np.linspace(0, num_images - 1, batch_size).astype("int64")
    return {"image": tf.constant(pixels), "index": tf.constant(index)}


def timed(step: Callable[[tf.Tensor], Any], *arguments: tf.Tensor) -> Callable[[], None]:
    """Makes of a TensorFlow function something that returns when its work is done."""

    def run() -> None:
        for value in tf.nest.flatten(step(*arguments)):
            value.numpy()

    return run
