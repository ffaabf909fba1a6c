"""The training loop: the same on one device, several, and several machines."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from rfd_tf.data import record_files, streams
from rfd_tf.data.remote import cache
from rfd_tf.errors import UserError
from rfd_tf.training import strategy as strategies


def distribute(
    strategy: tf.distribute.Strategy, dataset: tf.data.Dataset, device: str | None = None
):
    """Hands a worker's batches to its replicas, each a contiguous part, in order.

    Batches are copied to GPUs while the step before trains.

    Args:
        strategy: the strategy that trains.
        dataset: this worker's batches (its slice of every global batch), of a fixed size.
        device: that one replica trains on; the GPU if None and TensorFlow sees one.

    Returns:
        An iterable whose elements `strategy.run` takes.
    """
    _, num_workers = strategies.worker(strategy)
    local = strategy.num_replicas_in_sync // num_workers
    if strategy.num_replicas_in_sync == 1:
        if device is None and tf.config.list_physical_devices("GPU"):
            device = "/GPU:0"
        if device is None:
            return dataset
        return dataset.apply(tf.data.experimental.prefetch_to_device(device, buffer_size=2))
    if local > 1:
        # (TensorFlow's own re-batching assumes that every worker reads the global batch.)
        dataset = dataset.map(
            lambda batch: {
                name: tf.reshape(
                    value, [local, value.shape[0] // local, *value.shape.as_list()[1:]]
                )
                for name, value in batch.items()
            }
        ).unbatch()
    return strategy.distribute_datasets_from_function(lambda _: dataset.prefetch(2 * local))


def make_step_function(strategy: tf.distribute.Strategy, step: Callable, steps: int = 1):
    """Compiles `steps` calls of a replica's step function, each on the iterator's next batch."""

    # AutoGraph rewrites the source of all that is called here, which takes seconds, for branches
    # on tensors; methods have none, as under Keras' own `fit`.
    @tf.autograph.experimental.do_not_convert
    def run_once(iterator):
        outputs = strategy.run(step, args=(next(iterator),))
        return tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], outputs
        )

    @tf.function
    def function(iterator):
        if steps > 1:
            for _ in tf.range(steps - 1):
                run_once(iterator)
        return run_once(iterator)

    return function


def fill_memory_bank(method, dataset, steps: int, strategy: tf.distribute.Strategy) -> None:
    """Fills the memory bank by one forward pass over a dataset of the training's form.

    The images of the last, incomplete batch keep their initial rows.

    Args:
        method: a method with `fill_memory_bank(batch)`.
        dataset: this worker's batches, not augmented.
        steps: batches in one pass.
        strategy: the strategy that trains.
    """

    def step(batch):
        method.fill_memory_bank(batch)
        return tf.constant(0)

    function = make_step_function(strategy, step)
    iterator = iter(distribute(strategy, dataset))
    for _ in range(steps):
        function(iterator)


def train(
    method,
    dataset,
    *,
    epochs: int,
    steps_per_epoch: int,
    start_step: int = 0,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    steps_per_execution: int = 1,
    jit_compile: bool = False,
    images: Callable | None = None,
    epoch_dataset: Callable[[int, int], tf.data.Dataset | None] | None = None,
) -> None:
    """Trains a compiled method to the end of `epochs`.

    Args:
        method: a compiled `rfd_tf.methods.Method`, built under the strategy's scope.
        dataset: this worker's batches, infinite, the first being that of step `start_step`.
        epochs: epochs in all, those already done included.
        steps_per_epoch: optimizer steps an epoch.
        start_step: optimizer steps already done; may lie within an epoch.
        strategy: the strategy that trains; the current one when None.
        callbacks: Keras callbacks; their `params` hold `epochs`, `steps` and `start_step`. One
            that sets `method.stop_training` after a batch ends training there, in the middle of
            the epoch; `on_epoch_end` is then not called.
        steps_per_execution: steps run by one call into TensorFlow, where an epoch has that many.
        jit_compile: whether XLA compiles the steps.
        images: see `Method.begin_epoch`.
        epoch_dataset: function of an epoch's number and the step to begin at, called when the
            method has begun the epoch; returns this worker's batches from there on, of that epoch
            at least, or None to continue with the dataset before.

    Raises:
        UserError: a loss became NaN or infinite; the message names the first such term.
    """
    strategy = strategy or tf.distribute.get_strategy()
    several = max(1, min(steps_per_execution, steps_per_epoch))
    functions = {}
    train_step = method.train_step
    if jit_compile:
        train_step = tf.function(train_step, autograph=False, jit_compile=True)
    finite = FiniteCheck()
    method.stop_training = False
    iterator = None
    listed = keras.callbacks.CallbackList(
        list(callbacks),
        model=method,
        add_history=False,
        add_progbar=False,
        epochs=epochs,
        steps=steps_per_epoch,
        start_step=start_step,
        check_finite=finite.check,
    )
    listed.on_train_begin()
    step = start_step
    logs: dict = {}
    for epoch in range(start_step // steps_per_epoch, epochs):
        if step % steps_per_epoch == 0:
            method.reset_metrics()
        method.begin_epoch(epoch, images)
        own = epoch_dataset(epoch, step) if epoch_dataset else None
        if own is not None or iterator is None:
            iterator = iter(distribute(strategy, dataset if own is None else own))
        listed.on_epoch_begin(epoch)
        while step < (epoch + 1) * steps_per_epoch:
            run = min(several, (epoch + 1) * steps_per_epoch - step)
            if run not in functions:
                functions[run] = make_step_function(strategy, train_step, run)
            # Tensors, so that callbacks which look at none keep the device busy.
            with _readable_images():
                logs = functions[run](iterator)
            finite.add(step + 1, step + run, logs)
            step += run
            listed.on_train_batch_end(step - 1, logs)
            if method.stop_training and step % steps_per_epoch:
                break
        finite.check()
        logs = {name: float(value) for name, value in logs.items()}
        if step % steps_per_epoch == 0:
            listed.on_epoch_end(epoch, logs)
        if method.stop_training:
            break
    listed.on_train_end(logs)


@contextlib.contextmanager
def _readable_images():
    """Logs in one line which images were removed or damaged."""
    try:
        with record_files.damage_reported():
            yield
    except tf.errors.InvalidArgumentError as error:
        if streams.NOTHING_READ not in str(error):
            raise
        why = f" ({cache.trouble[0]})" if cache.trouble else "; is their folder still there?"
        raise UserError(
            f"{streams.NOTHING_READ}{why}. The last checkpoint is kept, and the same command "
            "resumes from it"
        ) from None


class FiniteCheck:
    """Notices losses that are NaN or infinite, without waiting for the device at every step.

    The logs are running means of the epoch: what was not finite once stays so until its end.
    """

    _MOST = 100  # calls between looks

    def __init__(self):
        self._logs: list[tuple[int, int, dict]] = []

    def add(self, first: int, last: int, logs: dict) -> None:
        """Takes the logs after steps `first` to `last`, counted from 1; looks now and then."""
        self._logs.append((first, last, logs))
        if len(self._logs) >= self._MOST:
            self.check()

    def check(self) -> None:
        """Looks at the steps since the last look.

        Raises:
            UserError: names the first step, and its first loss term, that is not finite.
        """
        held, self._logs = self._logs, []
        if not held or not _not_finite(held[-1][2]):
            return
        first, last, logs = next(each for each in held if _not_finite(each[2]))
        name = _not_finite(logs)
        when = f"step {last}" if first == last else f"one of steps {first} to {last}"
        raise UserError(
            f"{name} became {float(logs[name])} at {when}; lower --learning_rate, or raise the "
            "temperature; the last checkpoint is kept"
        )


def _not_finite(logs: dict) -> str | None:
    """The first name whose value is NaN or infinite, their sum `loss` last, or None."""
    for name in [name for name in logs if name != "loss"] + ["loss"]:
        if not math.isfinite(float(logs.get(name, 0.0))):
            return name
    return None
