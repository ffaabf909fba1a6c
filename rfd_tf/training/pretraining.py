"""Puts source, method, optimizer and strategy together, and trains."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Sequence
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from rfd_tf.data.base import Source, fingerprint
from rfd_tf.data.training_stream import TrainingStream
from rfd_tf.errors import UserError
from rfd_tf.layers import dropout
from rfd_tf.layers.batch_norm import batch_normalizations
from rfd_tf.methods.base import Method
from rfd_tf.rules import ON, Rule, moot
from rfd_tf.training import loop, optimizers, schedules
from rfd_tf.training import strategy as strategies


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are cropped and changed; see `rfd_tf.data.pipeline.training_dataset`.

    Args:
        crop: `pad` (zero border, then a crop), `resized` (a part of the image, resized), `stretch`
            (the whole image, its sides made equal), `window` (a square at a random place, its side
            7/8 of the image's shorter one; all of that below 96 pixels) or `none`.
        crop_area: smallest and largest share of the image that `resized` keeps.
        padding: pixels of `pad`'s border; an eighth of the image's side when None.
        horizontal_flip: mirror half of the images.
        color_jitter: strength of random brightness, contrast and saturation, 0 for none.
        hue: largest random turn of the colours, a share of the circle up to 0.5, 0 for none.
        grayscale: share of images made grey.
        crops: independent crops and colour changes of an image in one step. With one crop for each
            rotation, no two views of an image are rotated copies of one another.

    >>> Augmentation(crop="resized", color_jitter=0.4).horizontal_flip
    True
    """

    crop: str = "pad"
    crop_area: tuple[float, float] = (0.08, 1.0)
    padding: int | None = None
    horizontal_flip: bool = True
    color_jitter: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    crops: int = 1

    #: When settings have an effect beside the others, by their names in `rfd_tf.config`.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(("crop_area_min",), {"crop": ("resized",)}),
        Rule(("padding",), {"crop": ("pad",)}),
    )

    def in_use(self, image_size: int) -> dict:
        """Returns the values in use for images of a size; None for one without effect.

        >>> [Augmentation(crop=crop).in_use(32)["padding"] for crop in ("pad", "none")]
        [4, None]
        """
        values = {**dataclasses.asdict(self), "crop_area": list(self.crop_area)}
        if self.padding is None:
            values["padding"] = image_size // 8
        unused = [
            name.replace("crop_area_min", "crop_area") for name, _ in moot(self.rules, values)
        ]
        return {**values, **dict.fromkeys(unused)}


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How long and how fast a method learns.

    Args:
        epochs: passes over the dataset.
        batch_size: original images in a global batch (the views are more).
        steps_per_epoch: optimizer steps an epoch; as many as full batches when None.
        learning_rate, schedule, lr_table, warmup_epochs, decay_rate, decay_epochs: see
            `schedules.build`. A warm-up that is as long as the training or longer is shortened to
            half of it, with a warning.
        optimizer, momentum, nesterov, weight_decay, undecayed: see `optimizers.build`; the decay of
            `sgd` is coupled.
        backbone_learning_rate_scale: learning rate of the backbone, a share of that of the heads.
        steps_per_execution: steps run by one call into TensorFlow.
        small_epochs: share of the epochs, from the first on, that train on images of three quarters
            of the size, which takes little more than half as long; see `small_size`. Where method
            or backbone take images of one size only, all epochs do, with a warning.

    >>> Optimization(epochs=0)
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: epochs 0 must be at least 1
    """

    epochs: int = 100
    batch_size: int = 128
    steps_per_epoch: int | None = None
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    schedule: str = "cosine"
    lr_table: str | None = None
    warmup_epochs: float = 0.0
    decay_rate: float = 0.5
    decay_epochs: float = 10.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    undecayed: Sequence[str] = ()
    backbone_learning_rate_scale: float = 1.0
    steps_per_execution: int = 1
    small_epochs: float = 0.0

    #: When settings have an effect beside the others.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ("learning_rate",),
            {"schedule": ("cosine", "exponential", "constant")},
            "whose rates stand in lr_table",
        ),
        Rule(("lr_table",), {"schedule": ("step",)}),
        Rule(("warmup_epochs",), {"schedule": ("cosine",)}),
        Rule(("decay_rate", "decay_epochs"), {"schedule": ("exponential",)}),
        Rule(("nesterov",), {"optimizer": ("sgd",)}),
        Rule(("nesterov",), {"momentum": ON}),
        Rule(("undecayed",), {"weight_decay": ON}),
    )

    def __post_init__(self):
        if self.epochs < 1:
            raise UserError(f"epochs {self.epochs} must be at least 1")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise UserError(f"steps_per_epoch {self.steps_per_epoch} must be at least 1")
        if self.steps_per_execution < 1:
            raise UserError(f"steps_per_execution {self.steps_per_execution} must be at least 1")
        if not 0 <= self.small_epochs <= 1:
            raise UserError(f"small_epochs {self.small_epochs} must be a share from 0 to 1")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum {self.momentum} must be at least 0 and below 1")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay {self.weight_decay} must be at least 0")
        if self.warmup_epochs >= self.epochs and self.schedule == "cosine":
            shortened = self.epochs / 2
            warnings.warn(
                f"the warm-up of {self.warmup_epochs:g} epochs is shortened to {shortened:g}, half "
                f"of epochs {self.epochs}",
                stacklevel=1,
            )
            # (The way to set a field of a frozen dataclass.)
            object.__setattr__(self, "warmup_epochs", shortened)

    def in_use(self) -> dict:
        """Returns the values in use; None for one without effect beside the others.

        >>> Optimization(schedule="constant", warmup_epochs=0).in_use()["decay_rate"] is None
        True
        """
        values = {**dataclasses.asdict(self), "undecayed": list(self.undecayed)}
        return {**values, **dict.fromkeys(name for name, _ in moot(self.rules, values))}


def small_size(image_size: int) -> int:
    """Returns three quarters of a side in pixels, a multiple of 4 as networks halve their maps.

    >>> [small_size(side) for side in (32, 96, 224, 16)]
    [24, 72, 168, 16]
    """
    return max(4 * round(image_size * 3 / 16), min(16, image_size))


@contextlib.contextmanager
def dtype_policy(name: str):
    """Makes layers built inside follow a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def set_batch_norm_momentum(backbone: keras.Model, momentum: float) -> None:
    """Sets the share that moving statistics keep at a step, in every batch normalisation.

    Args:
        backbone: a Keras model, changed in place before its training step is traced.
        momentum: from 0 to 1.

    Raises:
        UserError: the network has no batch normalisation.

    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", 32)
    >>> set_batch_norm_momentum(backbone, 0.99)
    >>> backbone.get_layer("block1_conv_bn").momentum
    0.99
    """
    layers = list(batch_normalizations(backbone))
    if not layers:
        raise UserError(
            f"batch_norm_momentum={momentum} has no effect on backbone '{backbone.name}', which "
            "has no batch normalisation; leave it out"
        )
    for layer in layers:
        layer.momentum = momentum


class Pretraining:
    """A method about to be trained on a source.

    Args:
        build_backbone: makes the backbone; called under the strategy's scope and the policy.
        build_method: makes the method from the backbone; called under the strategy's scope.
        source: the images.
        image_size: side of the square training images, pixels.
        optimization, augmentation: see there.
        strategy: the strategy that trains; the current one when None.
        policy: Keras dtype policy of the backbone, `float32` or `mixed_bfloat16`.
        jit_compile: see `strategy.uses_xla`.
        seed: of the weights, the order of the images and the augmentation.

    Attributes:
        method: the compiled `Method`.
        optimizer: its optimizer, built.
        steps_per_epoch: optimizer steps an epoch.

    Raises:
        UserError: a batch that cannot be split evenly, or larger than the dataset.

    >>> from rfd_tf import applications, data, methods
    >>> pretraining = Pretraining(
    ...     build_backbone=lambda: applications.build("six_layer", 16, filters=(4, 4, 4, 4, 4, 8)),
    ...     build_method=methods.RotationPrediction,
    ...     source=data.digits(),
    ...     image_size=16,
    ...     optimization=Optimization(epochs=1, batch_size=32, steps_per_epoch=1),
    ... )
    >>> pretraining.train()
    >>> sorted(pretraining.method.logs())
    ['loss', 'rotation_accuracy', 'rotation_loss']
    """

    def __init__(
        self,
        *,
        build_backbone: Callable[[], keras.Model],
        build_method: Callable[[keras.Model], Method],
        source: Source,
        image_size: int,
        optimization: Optimization = Optimization(),
        augmentation: Augmentation = Augmentation(),
        strategy: tf.distribute.Strategy | None = None,
        policy: str = "float32",
        jit_compile: str = "auto",
        seed: int = 0,
    ):
        self.source = source
        self.image_size = image_size
        self.optimization = optimization
        self.augmentation = augmentation
        self.strategy = strategy or tf.distribute.get_strategy()
        self.policy = policy
        self.seed = seed
        self.stream = TrainingStream(
            source, image_size, optimization.batch_size, seed, dataclasses.asdict(augmentation)
        )
        # Building a dataset takes longer than its first batches, and each iterator begins anew.
        self._datasets: dict[tuple, tf.data.Dataset] = {}
        keras.utils.set_random_seed(seed)
        with self.strategy.scope():
            with dtype_policy(policy):
                backbone = build_backbone()
            self.method = build_method(backbone)
            self.steps_per_epoch = optimization.steps_per_epoch or self.stream.steps_per_epoch(
                self.method.separate_views
            )
            self.optimizer = optimizers.build(
                optimization.optimizer,
                schedules.build(
                    optimization.schedule,
                    rate=optimization.learning_rate,
                    epochs=optimization.epochs,
                    steps_per_epoch=self.steps_per_epoch,
                    warmup_epochs=optimization.warmup_epochs,
                    table=optimization.lr_table,
                    decay_rate=optimization.decay_rate,
                    decay_epochs=optimization.decay_epochs,
                ),
                momentum=optimization.momentum,
                nesterov=optimization.nesterov,
                weight_decay=optimization.weight_decay,
                undecayed=optimization.undecayed,
                scaled=self.method.backbone.trainable_variables,
                scale=optimization.backbone_learning_rate_scale,
            )
            # (The loop compiles the step itself.)
            self.method.compile(optimizer=self.optimizer, jit_compile=False)
            self.method.batch_size = optimization.batch_size
            self.optimizer.build(self.method.trainable_variables)
        if augmentation.crops not in self.method.crops:
            options = " or ".join(str(count) for count in self.method.crops)
            raise UserError(
                f"{augmentation.crops} crops of an image do not suit the method "
                f"{type(self.method).__name__}; give --crops={options}"
            )
        self.jit_compile = strategies.uses_xla(
            jit_compile,
            num_replicas=self.strategy.num_replicas_in_sync,
            compiles=all(layer.supports_jit for layer in self.method.backbone.layers),
        )
        strategies.check_batch(
            self.strategy, optimization.batch_size, self.method.gradient_accumulation
        )
        self.method.check_epochs(optimization.epochs)
        self._small_stream, self._small_steps = self.stream, 0
        if small_epochs := round(optimization.small_epochs * optimization.epochs):
            self._begin_small(small_epochs)
        self.method.check_step(optimization.batch_size)
        random = dropout.not_agreeing(self.method.backbone)
        if random and self.strategy.num_replicas_in_sync > 1:
            warnings.warn(
                f"the backbone's layers {', '.join(random)} draw their random numbers on each "
                "replica by itself: training on several differs from training on one; "
                "rfd_tf.layers.Dropout agrees across replicas",
                stacklevel=2,
            )

    def _begin_small(self, epochs: int) -> None:
        """Prepares epochs on smaller images, where method and backbone take them."""
        size = small_size(self.image_size)
        try:
            with self.strategy.scope():
                self.method.add_image_size(size)
        except UserError as error:
            warnings.warn(
                f"all epochs train on images of {self.image_size} pixels, not the first {epochs} "
                f"on {size}: {error}",
                stacklevel=3,
            )
            return
        self._small_stream = dataclasses.replace(self.stream, image_size=size)
        self._small_steps = epochs * self.steps_per_epoch

    def settings(self) -> dict:
        """Returns what the training was built with, by the names of the arguments, JSON-able.

        They are the arguments of `Optimization`, `Augmentation`, the method's constructor and this
        class with the values in use: what was left open has the value chosen, and what has no
        effect beside the others is None. `batch_norm_momentum` is that of the backbone, None where
        its layers have several or there are none.
        """
        momenta = {layer["momentum"] for layer in self.built()["batch_normalization"]}
        return {
            **self.method.options(),
            **self.optimization.in_use(),
            **self.augmentation.in_use(self.image_size),
            "image_size": self.image_size,
            "steps_per_epoch": self.steps_per_epoch,
            "steps_per_execution": min(self.optimization.steps_per_execution, self.steps_per_epoch),
            "batch_norm_momentum": momenta.pop() if len(momenta) == 1 else None,
            "mixed_precision": self.policy.removeprefix("mixed_"),
            "jit_compile": str(self.jit_compile).lower(),
        }

    def built(self) -> dict:
        """Returns what the objects themselves hold, JSON-able: the method's class, the optimizer's
        configuration with its schedule, and each kind of batch normalisation in the backbone."""
        kinds = []
        for layer in batch_normalizations(self.method.backbone):
            kind = {
                "momentum": float(layer.momentum),
                "epsilon": float(layer.epsilon),
                "unbiased_moving_variance": getattr(layer, "unbiased_moving_variance", False),
            }
            if kind not in kinds:
                kinds.append(kind)
        optimizer = json.loads(json.dumps(self.optimizer.get_config(), default=float))
        return {
            "method": type(self.method).__name__,
            "optimizer": {"class": type(self.optimizer).__name__, **optimizer},
            "batch_normalization": kinds,
        }

    def dataset(
        self,
        start_step: int = 0,
        augmented: bool = True,
        order: np.ndarray | None = None,
        order_step: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> tf.data.Dataset:
        """This worker's batches, the first being that of step `start_step`.

        Batches that begin in the epochs of smaller images hold these, also past their end.

        Args:
            start_step: the step to begin at.
            augmented: whether images are cropped and changed, and views that are examples of
                their own are chosen; without, an epoch visits each image once.
            order, order_step, shard: see `rfd_tf.data.pipeline.training_dataset`; the shard is
                this worker's when None.
        """
        small = augmented and order is None and start_step < self._small_steps
        shard = shard or strategies.worker(self.strategy)
        kept = (start_step, augmented, shard) if order is None else None
        dataset = self._datasets.get(kept)
        if dataset is None:
            dataset = (self._small_stream if small else self.stream).batches(
                start_step,
                augmented=augmented,
                order=order,
                order_step=order_step,
                shard=shard,
                views=self.method.separate_views,
            )
            if kept:
                self._datasets[kept] = dataset
        return dataset

    def epoch_dataset(self, epoch: int, step: int) -> tf.data.Dataset | None:
        """This worker's batches of an epoch, or None to continue with those of the epoch before.

        There are some where the method chooses the images of the epoch, and where the epochs of
        smaller images are over.

        Args:
            epoch: its number.
            step: the step to begin at, within the epoch.

        Raises:
            UserError: the method chose otherwise on another machine.
        """
        batch_size = self.optimization.batch_size
        order = self.method.epoch_order(epoch, self.steps_per_epoch * batch_size)
        if order is None:
            over = 0 < self._small_steps == epoch * self.steps_per_epoch
            return self.dataset(step) if over else None
        digest = fingerprint([np.ascontiguousarray(order).tobytes()])
        strategies.check_same(self.strategy, {"order of images": digest})
        # Whole, also where training begins within the epoch: a source may order the images itself.
        return self.dataset(step, order=order, order_step=epoch * self.steps_per_epoch)

    def sample(self, count: int) -> np.ndarray:
        """Some of the images trained on, the same on every machine, not augmented.

        Args:
            count: how many; fewer where an epoch has not as many.

        Returns:
            uint8 `[count, size, size, 3]`.
        """
        size = self.optimization.batch_size
        wanted = min(self.stream.steps_per_epoch(), -(-count // size))
        taken = self.dataset(augmented=False, shard=(0, 1)).take(wanted)
        return np.concatenate([batch["image"].numpy() for batch in taken])[:count]

    def fill_memory_bank(self) -> None:
        """Fills the memory bank by one forward pass over the images, not augmented."""
        steps = self.stream.steps_per_epoch()
        loop.fill_memory_bank(self.method, self.dataset(augmented=False), steps, self.strategy)

    def train(self, start_step: int = 0, callbacks: Sequence[keras.callbacks.Callback] = ()):
        """Trains to the last epoch; see `rfd_tf.training.loop.train`."""
        loop.train(
            self.method,
            self.dataset(start_step),
            epochs=self.optimization.epochs,
            steps_per_epoch=self.steps_per_epoch,
            start_step=start_step,
            strategy=self.strategy,
            callbacks=callbacks,
            steps_per_execution=self.optimization.steps_per_execution,
            jit_compile=self.jit_compile,
            images=self.stream.images,
            epoch_dataset=self.epoch_dataset,
        )
