"""Training of heads and networks for an evaluation, which resumes where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rfd_tf.errors import UNREADABLE_NPZ, UserError
from rfd_tf.paths import replacing

# Seconds between two states on disk: a short training is not worth one.
SAVE_AFTER = 30.0


class TrainingState:
    """The variables and the history of a training after its last finished epoch.

    Args:
        folder: folder of the file; None keeps nothing.
        name: of the training, part of the file's name.
        identity: JSON-ready; a file of another identity is ignored.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> TrainingState(folder, "probe", {"seed": 0}).save(3, [np.ones(2)], {"upright": [0.5]})
    >>> TrainingState(folder, "probe", {"seed": 0}).load()[::2]
    (3, {'upright': [0.5]})
    >>> TrainingState(folder, "probe", {"seed": 1}).load() is None
    True
    """

    def __init__(self, folder: Path | None, name: str, identity: Any):
        text = json.dumps(identity, sort_keys=True, default=str)
        self._identity = hashlib.sha256(text.encode()).hexdigest()
        name = re.sub(r"[^a-z0-9]+", "_", name.lower())
        self._path = None if folder is None else folder / f"unfinished_{name}.npz"

    def load(self) -> tuple[int, list[np.ndarray], dict] | None:
        """Returns (finished epochs, arrays, history), or None where there is nothing to resume."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                if meta["identity"] != self._identity:
                    return None
                arrays = [file[f"array{i}"] for i in range(meta["arrays"])]
        except UNREADABLE_NPZ:
            return None
        return meta["epoch"], arrays, meta["history"]

    def save(self, epoch: int, arrays: Sequence[np.ndarray], history: dict) -> None:
        """Keeps the state after so many epochs; an interruption leaves the old one or the new."""
        if self._path is None:
            return
        meta = {
            "identity": self._identity,
            "epoch": epoch,
            "arrays": len(arrays),
            "history": history,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            named = {f"array{i}": array for i, array in enumerate(arrays)}
            with replacing(self._path) as writing, open(writing, "wb") as file:
                np.savez(file, meta=np.array(json.dumps(meta)), **named)
        except OSError as error:
            raise UserError(f"cannot write '{self._path}': {error.strerror}") from None

    def remove(self) -> None:
        """Removes the file, once its training's results are kept elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Diverged(UserError):
    """A training whose loss is no longer finite."""


class AfterEpoch(keras.callbacks.Callback):
    """Keras callback: after each epoch checks the loss, evaluates the network and saves the state.

    Args:
        title: of the training, for messages.
        state: where to keep it, at most every `SAVE_AFTER` seconds.
        variables: that the training changes.
        history: ready for JSON; kept with the variables.
        evaluate: see `fit`.

    Raises:
        UserError: the loss is no longer finite.
    """

    def __init__(
        self,
        title: str,
        state: TrainingState,
        variables: Sequence[Any],
        history: dict,
        evaluate: Callable[[int, dict], None],
    ):
        super().__init__()
        self._title, self._state, self._variables = title, state, variables
        self._history, self._evaluate, self._saved = history, evaluate, time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        check_loss((logs or {}).get("loss", 0.0), self._title, epoch + 1)
        self._evaluate(epoch + 1, self._history)
        if time.monotonic() - self._saved >= SAVE_AFTER:
            arrays = [keras.ops.convert_to_numpy(variable) for variable in self._variables]
            self._state.save(epoch + 1, arrays, self._history)
            self._saved = time.monotonic()


class Progress(keras.callbacks.Callback):
    """Keras callback: a bar of the steps of the whole training.

    Args:
        title: before the bar.
        done: steps that an earlier call finished.
        total: steps of the whole training.
    """

    def __init__(self, title: str, done: int, total: int):
        from rfd_tf.progress import tqdm

        super().__init__()
        # (None: no bar in a log file.)
        self._bar = tqdm(total=total, initial=done, desc=title, unit="step", disable=None)

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update(1)

    def on_train_end(self, logs=None):
        self._bar.close()


def fit(
    model: keras.Model,
    stream: Callable[[int], Any],
    title: str,
    state: TrainingState,
    evaluate: Callable[[int, dict], None],
    *,
    epochs: int,
    steps: int,
    changing: Sequence[Any] | None = None,
    progress: str | None = None,
) -> dict:
    """Trains a network to its last epoch, from where an interrupted training stopped.

    Args:
        model: compiled, with an optimizer of its own.
        stream: returns the batches from a number of finished epochs on, as `model.fit` takes them.
        title: of the training, for messages.
        state: where to keep it, at most every `SAVE_AFTER` seconds; left to the caller to remove.
        evaluate: called after each epoch with the number of epochs done and the history, to which
            it adds its results.
        epochs: in all.
        steps: of an epoch.
        changing: the model's variables that the training changes; all of its weights if None.
        progress: what stands before the progress bar; no bar if None.

    Returns:
        The history, ready for JSON.

    Raises:
        UserError: the loss is no longer finite.

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> batch = np.ones((2, 1)), np.ones((2, 1))
    >>> fit(model, lambda done: (batch for _ in range(4)), "line", TrainingState(None, "", 0),
    ...     lambda epoch, history: history.update(done=epoch), epochs=2, steps=2)
    {'done': 2}
    """
    model.optimizer.build(model.trainable_variables)
    kept = [*(model.weights if changing is None else changing), *model.optimizer.variables]
    done, history, found = 0, {}, state.load()
    if found is not None:
        done, arrays, history = found
        for variable, array in zip(kept, arrays, strict=True):
            variable.assign(array)
    callbacks = [AfterEpoch(title, state, kept, history, evaluate)]
    if progress is not None:
        callbacks.append(Progress(progress, done * steps, epochs * steps))
    if done < epochs:
        model.fit(
            stream(done),
            initial_epoch=done,
            epochs=epochs,
            steps_per_epoch=steps,
            verbose=0,
            shuffle=False,
            callbacks=callbacks,
        )
    return history


def check_loss(loss: float, title: str, epoch: int) -> None:
    """Raises `Diverged` where a training's loss is no longer finite.

    >>> check_loss(float("nan"), "fc8", 3)
    Traceback (most recent call last):
    ...
    rfd_tf.evaluation.training_state.Diverged: the training of fc8 has diverged: its loss is nan in
    epoch 3; choose a lower learning rate
    """
    if not np.isfinite(loss):
        raise Diverged(
            f"the training of {title} has diverged: its loss is {loss} in epoch {epoch}; choose a "
            "lower learning rate"
        )


def is_evaluated(epoch: int, epochs: int, every: int) -> bool:
    """Whether the network is evaluated after so many epochs: after each `every`-th, and the last.

    >>> [epoch for epoch in range(1, 8) if is_evaluated(epoch, 7, every=3)]
    [3, 6, 7]
    """
    return epoch % every == 0 or epoch == epochs
