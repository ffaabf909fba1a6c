"""What a method's training needs beside batches when Keras' own `fit` runs it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf.data.base import ArraySource
from rfd_tf.errors import UserError

_DEFAULT_BATCH_SIZE = 32  # Keras' own


@dataclasses.dataclass
class Batches:
    """What `fit` trains on, in the form that Keras takes.

    Attributes:
        x: for Keras' `fit`.
        batch_size, steps_per_epoch: the same, or None where `x` knows.
        plain: returns one pass of batches to fill the memory bank from, or None where `x` can be
            read only once.
        stream: the `rfd_tf.data.TrainingStream` that `x` comes from, or None.
    """

    x: Any
    batch_size: int | None
    steps_per_epoch: int | None
    plain: Callable[[], Iterable] | None
    stream: Any = None


def fit(
    method,
    keras_fit: Callable,
    x,
    *,
    chooses_order: bool,
    batch_size=None,
    steps_per_epoch=None,
    **options,
):
    """Trains a method by Keras' `fit`; see `Method.fit`.

    Args:
        method: a compiled `Method`.
        keras_fit: `fit` of the class above it.
        chooses_order: whether the method chooses the images of each epoch.
        x, batch_size, steps_per_epoch: see `Method.fit`.
        **options: the other arguments of `fit`.
    """
    check(method, options)
    epochs, first = options["epochs"], options["initial_epoch"]
    shuffle = options["shuffle"] or chooses_order
    batches = batches_of(method, x, batch_size, steps_per_epoch, shuffle, first)
    if not isinstance(batches.x, Mapping):
        options["shuffle"] = False  # datasets have an order of their own; Keras warns otherwise
    if options["validation_data"] is not None:
        options["validation_data"] = with_index(
            method, options["validation_data"], options.get("validation_steps"), "validation_steps"
        )
    if chooses_order and batches.stream is None:
        raise UserError(
            f"{type(method).__name__} chooses the images of each epoch, which x of type "
            f"{type(x).__name__} does not allow; give fit a uint8 array of images or the dataset "
            "of source.train_dataset(...)"
        )
    if method.compiled and keras.backend.backend() == "tensorflow":
        # An optimizer that is built within the first step has TensorFlow trace the step twice.
        with method.distribute_strategy.scope():
            method.optimizer.build(method.trainable_variables)
    if first == 0 and method.fill_bank and _untrained(method):
        fill_memory_bank(method, batches)
    images = batches.stream.images if batches.stream is not None else None
    # Keras runs whole calls of `steps_per_execution`: past the end of an epoch of a stream.
    whole = batches.stream is None or batches.steps_per_epoch % _steps_per_call(method) == 0
    if first >= epochs or (whole and not chooses_order):
        begin = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: method.begin_epoch(epoch, images)
        )
        listed = options["callbacks"]
        if isinstance(listed, keras.callbacks.CallbackList):
            listed.callbacks.insert(0, begin)
            begin.set_model(method)
        else:
            options["callbacks"] = [begin, *as_list(listed)]
        return keras_fit(
            batches.x,
            batch_size=batches.batch_size,
            steps_per_epoch=batches.steps_per_epoch,
            **options,
        )
    steps, size = batches.steps_per_epoch, batches.stream.batch_size
    listed = _Epochwise(
        as_list(options["callbacks"]),
        add_history=True,
        add_progbar=options["verbose"] != 0,
        verbose=options["verbose"],
        epochs=epochs,
        steps=steps,
        model=method,
    )
    for epoch in range(first, epochs):
        method.begin_epoch(epoch, images)
        order = method.epoch_order(epoch, steps * size)
        own = batches.stream.batches(epoch * steps, order=order, views=method.separate_views)
        keras_fit(
            own.take(steps),
            steps_per_epoch=steps,
            **{**options, "callbacks": listed, "epochs": epoch + 1, "initial_epoch": epoch},
        )
        if method.stop_training:
            break
    listed.finish()
    return method.history


class _Epochwise(keras.callbacks.CallbackList):
    """Callbacks of a training that calls Keras' `fit` once an epoch: it begins and ends once."""

    _begun, _last = False, None

    def on_train_begin(self, logs=None):
        if not self._begun:
            self._begun = True
            super().on_train_begin(logs)

    def on_train_end(self, logs=None):
        self._last = logs

    def finish(self) -> None:
        super().on_train_end(self._last)


def check(method, options: dict) -> None:
    """Raises a `UserError` for what Keras' `fit` cannot do with a method."""
    for name in ("y", "sample_weight", "class_weight"):
        if options.get(name) is not None:
            raise UserError(f"{type(method).__name__} learns without labels; {name} has no meaning")
    if options.get("validation_split"):
        raise UserError(
            "validation_split has no meaning here: every image has a row of its own; give "
            "validation_data"
        )
    if keras.backend.backend() != "tensorflow":
        if method.gradient_accumulation > 1:
            raise UserError(
                f"gradient_accumulation {method.gradient_accumulation} needs Keras' TensorFlow "
                f"backend, and this is {keras.backend.backend()}; use a smaller batch_size"
            )
        return
    import tensorflow as tf

    if isinstance(method.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise UserError(
            "Keras' fit cannot train on several machines; use rfd_tf.pretrain or "
            "rfd-tf pretrain with strategy=multiworker"
        )


def batches_of(
    method, x, batch_size, steps_per_epoch, shuffle: bool = True, epoch: int = 0
) -> Batches:
    """Finds out what `fit` was given; a stream is entered at an epoch.

    Raises:
        UserError: images of another size or number than the method's, or an endless dataset
            without `steps_per_epoch`.
    """
    from rfd_tf.data import training_stream

    stream = given = training_stream.stream_of(x)
    if stream is None and shuffle:
        stream = _stream_of_array(method, x, batch_size)
    if stream is not None:
        check_images(method, stream.image_size, stream.source.num_images)
        views = method.separate_views
        steps = steps_per_epoch or stream.steps_per_epoch(views)

        def plain():
            return stream.batches(augmented=False).take(stream.steps_per_epoch())

        # (Where `x` is the stream that is wanted, building it again would take longer than a step.)
        as_given = given is not None and epoch == 0 and views == 1
        entered = x if as_given else stream.batches(epoch * steps, views=views)
        return Batches(entered, None, steps, plain, stream)
    if _is_images(x):
        x = {"image": x, "index": np.arange(len(x))}
    if isinstance(x, Mapping):
        size, count = batch_size or _DEFAULT_BATCH_SIZE, len(x["index"])
        check_images(method, np.shape(x["image"])[-2], count)
        # (The last batch of an epoch has what is left.)
        for images in {min(size, count), count % size} - {0}:
            check_divides(method, images)
            method.check_step(images)

        def parts():
            for start in range(0, count, size):
                yield {name: value[start : start + size] for name, value in x.items()}

        return Batches(dict(x), batch_size, steps_per_epoch, parts)
    check_end(x, steps_per_epoch, "give fit steps_per_epoch")
    if _number_of_batches(x) == float("inf") and steps_per_epoch % _steps_per_call(method):
        raise UserError(
            f"steps_per_execution {_steps_per_call(method)} must divide steps_per_epoch "
            f"{steps_per_epoch} where the dataset has no end: Keras would train on more steps"
        )
    again = isinstance(x, keras.utils.PyDataset) or hasattr(x, "element_spec")
    return Batches(
        x,
        batch_size,
        steps_per_epoch,
        (lambda: itertools.islice(iter(x), steps_per_epoch)) if again else None,
    )


def _stream_of_array(method, x, batch_size):
    """A stream of images in memory, as they are, or None for anything else."""
    from rfd_tf.data import training_stream

    if isinstance(x, Mapping):
        index = x.get("index")
        alone = set(x) <= {"image", "index"} and "image" in x
        if not alone or (index is not None and not np.array_equal(index, np.arange(len(index)))):
            return None
        x = x["image"]
    if not _is_images(x) or np.ndim(x) != 4:
        return None
    images = np.asarray(x)
    if images.dtype != np.uint8:
        return None
    check_images(method, images.shape[2], len(images))
    return training_stream.TrainingStream(
        ArraySource(images),
        method.image_size,
        min(batch_size or _DEFAULT_BATCH_SIZE, len(images)),
        # From NumPy's generator, which keras.utils.set_random_seed sets.
        seed=int(np.random.randint(2**31)),
        augmentation={"crop": "none", "horizontal_flip": False},
    )


def check_images(method, size: int, count: int) -> None:
    """Raises a `UserError` unless the images are as large and as many as the method expects."""
    if size != method.image_size:
        raise UserError(
            f"the images are {size} pixels wide, and the backbone takes {method.image_size}; "
            f"give image_size={method.image_size}"
        )
    expected = getattr(method, "num_images", None)
    if expected is not None and count != expected:
        raise UserError(
            f"{type(method).__name__} was created for num_images={expected}, and there are "
            f"{count} images"
        )


def check_divides(method, images: int) -> None:
    """Raises a `UserError` unless `gradient_accumulation` divides the images of a batch."""
    if images % method.gradient_accumulation:
        raise UserError(
            f"gradient_accumulation {method.gradient_accumulation} must divide the {images} images "
            "of a batch; choose another batch_size or gradient_accumulation"
        )


def check_end(x, steps: int | None, way_out: str) -> None:
    """Raises a `UserError` for a dataset without end, unless steps are given."""
    if steps is None and _number_of_batches(x) == float("inf"):
        raise UserError(f"the dataset has no end; {way_out}")


def with_index(method, data, steps: int | None = None, name: str = "steps"):
    """Validation data with an index where it lacks one and the method needs none.

    Args:
        method: a `Method`.
        data: see `Method.fit`.
        steps: batches to take of a dataset, all if None.
        name: of the argument that gives them.

    Raises:
        UserError: labels, images whose index the method needs, or a dataset without end.
    """
    if isinstance(data, tuple):
        data, *labels = data
        if any(each is not None for each in labels):
            raise UserError(f"{type(method).__name__} learns without labels; give images alone")
    check_end(data, steps, f"give source.eval_dataset(...), or {name}")
    if _is_images(data):
        data = {"image": data}
    if not isinstance(data, Mapping) or "index" in data:
        return data
    if getattr(method, "num_images", None) is not None:
        raise UserError(
            f"{type(method).__name__} knows images by their index; give validation data as "
            "{'image': ..., 'index': ...}, with the index of images that it trains on"
        )
    return {**data, "index": np.arange(len(data["image"]))}


def fill_memory_bank(method, batches: Batches) -> None:
    """Fills the memory bank, where the method has one, by one forward pass.

    Raises:
        UserError: the batches can be read only once.
    """
    if method.memory_bank is None:
        return
    if batches.plain is None:
        raise UserError(
            f"the memory bank is filled by one pass before training, and x of type "
            f"{type(batches.x).__name__} can be read only once; give fit a dataset or an array, "
            "or create the method with fill_bank=False"
        )
    fill = method.fill_memory_bank
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        strategy = method.distribute_strategy

        @tf.function(reduce_retracing=True, autograph=False)
        def fill(batch):
            # All replicas see the whole batch: equal rows, and equal statistics.
            strategy.run(method.fill_memory_bank, args=(batch,))

    for data in batches.plain():
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        image, index = (ops.convert_to_tensor(batch[name]) for name in ("image", "index"))
        # Of several crops the first stands for the image.
        fill({"image": image[:, 0] if len(image.shape) == 5 else image, "index": index})


def images_of(x, steps: int | None = None):
    """The images of what `predict` was given.

    Args:
        x: images, a dict or an element with `"image"`, or a dataset of such elements.
        steps: batches to take of a dataset, all if None.

    Raises:
        UserError: an endless dataset, and no steps.
    """
    check_end(x, steps, "give predict source.eval_dataset(...), or steps")
    if hasattr(x, "element_spec"):
        return x.map(lambda *data: _image_of(data[0] if len(data) == 1 else data))
    return _image_of(x)


def _image_of(data):
    batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return batch["image"] if isinstance(batch, Mapping) else batch


def _steps_per_call(method) -> int:
    return int(getattr(method, "steps_per_execution", 1) or 1)


def _untrained(method) -> bool:
    return int(ops.convert_to_numpy(method.optimizer.iterations)) == 0


def as_list(callbacks: Any) -> list:
    """Returns callbacks as a list: one alone, several in any iterable, or None for none."""
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]


def _is_images(x) -> bool:
    return not isinstance(x, Mapping) and hasattr(x, "shape") and hasattr(x, "__getitem__")


def _number_of_batches(x) -> float | None:
    """How many batches a dataset has, infinity for an endless one, None where that is unknown."""
    if not hasattr(x, "element_spec"):
        return None
    count = int(x.cardinality())
    return {-1: float("inf"), -2: None}.get(count, count)
