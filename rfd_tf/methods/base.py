"""The base class of methods: the backbone, normalised pixels, and the only `train_step`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications, keras_settings
from rfd_tf.applications.image_size import at_size
from rfd_tf.errors import UserError
from rfd_tf.layers import generators, replicas
from rfd_tf.methods import fitting
from rfd_tf.rules import Rule, moot, refuse_moot

#: Arguments of constructors that are not options but describe the images.
_DATA = ("num_images", "pu_weights")
# Name of a random generator's state in a saved method, before its number.
_GENERATOR = "generator_"


def constructor_arguments(kind: type) -> dict[str, object]:
    """Returns the arguments that a method's constructor adds to those of `Method`, with defaults.

    A method that is made from another, and hands on its keyword arguments, has the other's too.
    """
    found: dict[str, object] = {}
    for each in kind.__mro__:
        if each is Method:
            break
        for name, parameter in inspect.signature(each.__init__).parameters.items():
            if name not in ("self", "backbone", "kwargs"):
                found.setdefault(name, parameter.default)
    return found


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
        fill_bank: whether `fit` fills the memory bank, where there is one, by a forward pass
            before the first step.
        added_losses: for the constructor of a method that extends another: the weights of the
            losses that its `call` adds to the other's, by name.

    `compile(optimizer=...)`, `fit`, `evaluate`, `save`, `keras.models.load_model`,
    `keras.models.clone_model` and `export` are Keras' own. `predict` returns the features of
    images, and `export` writes the network that computes them.

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
    #: Views of an image that pass through the backbone together.
    views = 1
    #: How many views of an image are examples of their own, shuffled over the batches of an epoch;
    #: a batch then has `"view"`, integers `[batch]`, and `call` computes these views.
    separate_views: int = 1
    #: Whether training may use images smaller than the backbone's; see `add_image_size`.
    any_image_size = False
    #: When options have an effect beside the others; an option that is given without is refused.
    rules: tuple[Rule, ...] = (Rule(("fill_bank",), {}, "as there is no memory bank"),)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # So that Keras finds the class when it loads a saved method.
        package = cls.__module__.partition(".")[0]
        keras.saving.register_keras_serializable(package=package)(cls)
        if "call" in vars(cls):
            # Validation must not change what training draws next.
            cls.call = generators.kept_outside_training(cls.call)

    def __new__(cls, *args, **kwargs):
        method = super().__new__(cls, *args, **kwargs)
        # Past Keras' `setattr`, which works from its constructor on and would track the backbone.
        vars(method)["_arguments"] = _bound(cls, args, kwargs)
        return method

    def __init__(
        self,
        backbone: keras.Model,
        *,
        feature_endpoint: str | None = None,
        mean: Sequence[float] = applications.IMAGENET_MEAN,
        std: Sequence[float] = applications.IMAGENET_STD,
        gradient_accumulation: int = 1,
        fill_bank: bool = True,
        added_losses: Mapping[str, float] | None = None,
        **kwargs,
    ):
        keras_settings.check_loaded()
        refuse_moot(self.rules, constructor_arguments(type(self)), self._arguments)
        # Float32 here keeps a mixed policy from rounding the batch; the backbone has its own.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.backbone = backbone
        self.feature_endpoint = feature_endpoint or applications.endpoints(backbone)[-1]
        self.feature_model = applications.pooled_feature_model(backbone, self.feature_endpoint)
        self.feature_dimensions = int(self.feature_model.output_shape[-1])
        self.image_size = _side_of(backbone)
        # Past Keras' `setattr`, which would track the backbone's layers twice.
        vars(self)["_other_size"] = None
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.gradient_accumulation = int(gradient_accumulation)
        self.fill_bank = bool(fill_bank)
        self._added_losses = dict(added_losses or {})
        # XLA makes convolutional networks slower on CPUs: `jit_compile="auto"` leaves it off.
        self.supports_jit = keras.backend.backend() != "tensorflow"
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
        loss_weights = {**loss_weights, **self._added_losses}
        self.loss_weights = {name: float(weight) for name, weight in loss_weights.items()}
        self.log_names = ("loss", *self.loss_weights, *diagnostics)
        # Running sums over the images of what is logged and, last, the number of images.
        self.log_totals = self.add_weight(
            shape=(len(self.log_names) + 1,),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            name="log_totals",
        )
        # The same for trainers that support only Keras' own metrics.
        self.log_metrics = []
        if keras.backend.backend() != "tensorflow":
            self.log_metrics = [keras.metrics.Mean(name=name) for name in self.log_names]

    # -- for subclasses ---------------------------------------------------------------------

    def call(self, batch, training=False):
        """Computes `{name: float32 scalar}` for every declared name, the mean over this
        replica's batch. Outside training it leaves the method's random generators as they are."""
        raise TypeError(f"{type(self).__name__} must define call(batch, training)")

    def chance_levels(self) -> dict[str, float]:
        """Returns the value at chance level of logged quantities, by name."""
        return {}

    def single_image_problem(self) -> str | None:
        """Returns why a training step on a single image cannot train, or None.

        A step over all replicas is meant, or a part of it under `gradient_accumulation`. The
        default checks for batch normalisation of one value per channel, whose output is constant.
        """
        if self.views > 1:
            return None
        for layer in self.feature_model.layers:
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
                if math.prod(layer.input.shape[1:-1]) == 1:
                    return f"batch normalisation '{layer.name}' has one value of each channel"
        return None

    def check_step(self, images: int) -> None:
        """Raises a `UserError` for a number of images that cannot train.

        Args:
            images: of a step, over all replicas.
        """
        alone = images // self.gradient_accumulation == 1
        problem = self.single_image_problem() if alone else None
        if problem:
            raise UserError(
                f"batch_size {images} with gradient_accumulation {self.gradient_accumulation} "
                f"leaves single images, and {problem}; give a batch_size of "
                f"{2 * self.gradient_accumulation} or more, or accumulate fewer parts"
            )

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
        """Chooses the images that an epoch trains on; called after `begin_epoch`.

        The result must depend on the method's weights and options alone, so that a resumed run and
        every machine get the same.

        Args:
            epoch: number of the epoch.
            count: images the epoch takes.

        Returns:
            int64 `[count]`, the images' indices in the order of training; or None, in every
            epoch, to train on each image once in random order.
        """
        return None

    def heads(self) -> dict[str, keras.layers.Dense]:
        """Returns the linear layers on the feature, by name, that are saved with the backbone."""
        return {}

    def options(self) -> dict:
        """Returns the constructor's options with the values in use, those of `Method` included.

        An option that the method chooses has the chosen value; one without
        effect beside the others is None. Data (the number of images, PU weights) are left out.

        >>> from rfd_tf.methods import RotationFeatureDecoupling
        >>> backbone = applications.build("six_layer", image_size=32)
        >>> RotationFeatureDecoupling(backbone, num_images=100).options()["num_negatives"]
        50
        """
        values = {**constructor_arguments(type(self)), **self._arguments}
        unused = {name for name, _ in moot(self.rules, values)}
        found = {}
        for name, default in constructor_arguments(type(self)).items():
            value = self._arguments.get(name, default)
            if name not in _DATA:
                value = getattr(self, name, None) if value is None else value
                found[name] = None if name in unused else value
        return {
            **found,
            "feature_endpoint": self.feature_endpoint,
            "mean": list(self.mean),
            "std": list(self.std),
            "gradient_accumulation": self.gradient_accumulation,
        }

    def check_epochs(self, epochs: int) -> None:
        """Raises a `UserError` where an option takes effect in no epoch of so many."""

    def record(self) -> dict:
        """Returns what the use of the backbone's feature needs beside the weights."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.image_size,
            "feature": {"endpoint": self.feature_endpoint, "pooling": "avg"},
        }

    def identity(self) -> dict:
        """Returns what a resumed run must share with the one it resumes, JSON-able, by name."""
        return {}

    def figures(self, images) -> dict:
        """Draws a few images as the method sees them, after an epoch.

        The method's random generators must not be used: drawing must not change the training.

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

    def add_image_size(self, size: int) -> None:
        """Prepares training on images of another size as well, with the same weights.

        Args:
            size: side of the square images, pixels.

        Raises:
            UserError: the method or the backbone needs images of one size.
        """
        if not self.any_image_size:
            raise UserError(f"{type(self).__name__} trains on images of one size")
        vars(self)["_other_size"] = at_size(self.feature_model, size)

    def features(self, preprocessed, training=False):
        """Pooled features `[batch, feature_dimensions]`, float32, of normalised images."""
        model, other = self.feature_model, self._other_size
        if other is not None and preprocessed.shape[-2] == other.input_shape[-2]:
            model = other
        return ops.cast(model(preprocessed, training=training), "float32")

    def named_features(self, images) -> dict:
        """Returns evaluation-mode features of pixels, by name: `f`, and its parts, if any."""
        return {"f": self.features(self.preprocess(images), training=False)}

    def reset_optimizer_state(self, variables) -> None:
        """Sets the optimizer's state of variables, such as momentum, to zero.

        Args:
            variables: trainable weights, whose meaning has changed.
        """
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or not optimizer.built:
            return
        for variable in variables:
            for slot in _optimizer_slots(optimizer, variable, self.trainable_variables):
                slot.assign(np.zeros(slot.shape, "float32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the losses in `y_pred`, the dict that `call` returned."""
        total = 0.0
        for name, weight in self.loss_weights.items():
            total = total + weight * y_pred[name]
        return total

    # -- what Keras saves -------------------------------------------------------------------

    def get_config(self) -> dict:
        """The constructor's arguments, serialised; the state is in the weights."""
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._arguments.items()
        }

    def save_own_variables(self, store) -> None:
        """Saves the method's own state, and that of its random generators, which Keras leaves."""
        super().save_own_variables(store)
        for number, state in enumerate(generators.states(self)):
            store[f"{_GENERATOR}{number}"] = state

    def load_own_variables(self, store) -> None:
        """Loads what `save_own_variables` saved."""
        own = {name: store[name] for name in store.keys()}
        for number, state in enumerate(generators.states(self)):
            state.assign(own.pop(f"{_GENERATOR}{number}"))
        super().load_own_variables(own)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Creates the method again from `get_config`."""
        with keras.saving.custom_object_scope(custom_objects or {}):
            return cls(
                **{
                    name: keras.saving.deserialize_keras_object(value)
                    for name, value in config.items()
                }
            )

    # -- prediction -------------------------------------------------------------------------

    @functools.cached_property
    def pixel_model(self) -> keras.Model:
        """The network from pixels 0-255, `[batch, size, size, 3]`, to features `[batch, d]`."""
        size = self.image_size
        pixels = keras.Input((size, size, 3), dtype="float32", name="image")
        features = self.feature_model(self.preprocess(pixels), training=False)
        return keras.Model(pixels, ops.cast(features, "float32"), name="features")

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Returns the features of images in evaluation mode; see `keras.Model.predict`.

        Args:
            x: pixels 0-255 `[N, size, size, 3]`, a dict with them as `"image"`, or a dataset of
                either, such as `source.eval_dataset(...)`.
            batch_size, verbose, steps, callbacks: see `keras.Model.predict`.

        Returns:
            NumPy float32 `[N, feature_dimensions]`.
        """
        images = fitting.images_of(x, steps)
        return self.pixel_model.predict(images, batch_size, verbose, steps, callbacks)

    def export(self, filepath, *args, **kwargs):
        """Exports the network from pixels to features; see `keras.Model.export`.

        `rfd_tf.export.export_backbone` exports a run with its preprocessing, checked against Keras.
        """
        return self.pixel_model.export(filepath, *args, **kwargs)

    # -- training ---------------------------------------------------------------------------

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        **kwargs,
    ):
        """Trains by Keras' own loop; see `keras.Model.fit`.

        On one device it trains as `rfd_tf.training.Pretraining` does, number by number: epochs are
        begun (`begin_epoch`), and the memory bank is filled before the first step unless
        `fill_bank` is False. Runs on several machines, and runs that resume within an epoch, need
        `Pretraining`.

        Args:
            x: the dataset of `source.train_dataset(...)`; images in memory, uint8
                `[N, size, size, 3]`, or a dict of them as `"image"` and their `"index"`; or any
                dataset of batches `{"image", "index"}`. Methods that choose the images of each
                epoch, such as DeepCluster, take the first two.
            epochs, verbose, callbacks, validation_data, initial_epoch, steps_per_epoch, **kwargs:
                see `keras.Model.fit`. Validation data have the forms of `x`.
            batch_size: of images in memory, 32 when None.
            y, sample_weight, class_weight, validation_split: have no meaning without labels.

        Returns:
            Keras' `History`: the mean over the epoch of every declared loss and diagnostic.

        Raises:
            UserError: an argument that has no meaning here, images of another size or number than
                the method's, or what Keras' loop cannot do.
        """
        return fitting.fit(
            self,
            super().fit,
            x,
            chooses_order=type(self).epoch_order is not Method.epoch_order,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            **kwargs,
        )

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """Returns the mean losses over the images; what training has logged so far stays.

        Args:
            x: see `fit`.
            y, sample_weight: have no meaning without labels.
            batch_size, verbose, steps, callbacks, return_dict: see `keras.Model.evaluate`.

        Raises:
            UserError: labels, images whose index the method needs, or a dataset without end and no
                steps.
        """
        logged = ops.convert_to_numpy(self.log_totals)
        try:
            return super().evaluate(
                fitting.with_index(self, (x, y, sample_weight), steps),
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )
        finally:
            self.log_totals.assign(logged)

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
        return self._log(ops.stack(outputs) / len(parts), ops.shape(batch["index"])[0])

    def test_step(self, *arguments):
        """Evaluates one batch; returns the logs' means over the images since `evaluate` began.

        On other backends than TensorFlow this is the step of Keras' own trainer.
        """
        if keras.backend.backend() != "tensorflow":
            return super().test_step(*arguments)
        (data,) = arguments
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(batch, training=False)
        outputs = {"loss": self.compute_loss(y_pred=outputs), **outputs}
        values = ops.stack([outputs[name] for name in self.log_names])
        return self._log(values, ops.shape(batch["index"])[0])

    def _parts(self, batch) -> list:
        """Cuts a replica's batch into the parts of `gradient_accumulation`, after its checks."""
        import tensorflow as tf

        count = self.gradient_accumulation
        size = batch["index"].shape[0]
        if size is not None:
            fitting.check_divides(self, size)
            self.check_step(size * replicas.num_replicas())
        else:
            # Known only when the step runs, as of a dataset whose last batch may be smaller.
            size = tf.shape(batch["index"])[0]
            problem = self.single_image_problem()
            uneven = f"gradient_accumulation {count} must divide the images of every batch"
            tf.debugging.assert_equal(size % count, 0, f"{uneven}; drop the remainder")
            if problem:
                alone = f"a batch leaves single images, and {problem}; drop the remainder"
                images = size * replicas.num_replicas()
                tf.debugging.assert_none_equal(images // count, 1, message=alone)
        if count == 1:
            return [batch]
        step = size // count
        return [
            {name: value[part * step : (part + 1) * step] for name, value in batch.items()}
            for part in range(count)
        ]

    def _log(self, values, images) -> dict:
        values = replicas.all_mean(ops.cast(values, "float32"))
        # The last batch of a pass may be smaller.
        values = ops.concatenate([values, ops.ones((1,), "float32")])
        count = ops.cast(images, "float32") * replicas.num_replicas()
        self.log_totals.assign_add(values * count)
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
        """Logs of trainers other than this class' own: the means since the last reset."""
        outputs = {"loss": self.compute_loss(y_pred=y_pred), **y_pred}
        images = ops.shape(x["index"])[0]
        for name, metric in zip(self.log_names, self.log_metrics, strict=True):
            metric.update_state(outputs[name], sample_weight=images)
        return {metric.name: metric.result() for metric in self.log_metrics}


def _bound(cls, args, kwargs) -> dict[str, Any]:
    """Names the arguments of a constructor's call."""
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _side_of(backbone: keras.Model) -> int:
    height, width, channels = backbone.input_shape[1:]
    if height is None or height != width or channels != 3:
        raise UserError(
            f"backbone '{backbone.name}' takes images of shape {(height, width, channels)}; "
            "pretraining needs square ones of a fixed size: build it with "
            "input_shape=(size, size, 3)"
        )
    return int(height)


def _add(total, values):
    if total is None:
        return list(values)
    return [
        b if a is None else a if b is None else a + b for a, b in zip(total, values, strict=True)
    ]


def _optimizer_slots(optimizer, variable, trained) -> list[keras.Variable]:
    """What an optimizer keeps of a weight, in the weight's shape, such as its momentum.

    `Optimizer.add_variable_from_reference` of Keras begins the name of such a variable with the
    path of the weight. Weights of one path have theirs in their own order.
    """

    def prefix(weight) -> str:
        return weight.path.replace("/", "_") + "_"

    own = prefix(variable)
    longer = tuple(prefix(one) for one in trained if len(prefix(one)) > len(own))
    twins = [one for one in trained if prefix(one) == own]
    place = next(number for number, one in enumerate(twins) if one is variable)
    named: dict[str, list] = {}
    for slot in optimizer.variables:
        if slot.name.startswith(own) and not slot.name.startswith(longer):
            named.setdefault(slot.name, []).append(slot)
    return [slots[place] for slots in named.values() if slots[place].shape == variable.shape]
