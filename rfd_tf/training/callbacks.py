"""What happens while a method trains: progress, metrics file, monitor, TensorBoard, checkpoints."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable

import keras
import numpy as np

from rfd_tf.errors import UserError, shown
from rfd_tf.paths import absolute, replacing
from rfd_tf.training.optimizers import last_rate
from rfd_tf.training.saving import BackgroundSaver
from rfd_tf.training.stopping import StopRequest

#: First columns of metrics.csv, in this order; others follow.
COLUMNS = (
    "epoch",
    "step",
    "loss",
    "rotation_loss",
    "distance_loss",
    "instance_loss",
    "rotation_accuracy",
    "rotation_accuracy_f2",
    "knn_accuracy",
    "knn_accuracy_random_init",
    "images_per_second",
    "learning_rate",
)


class Throughput(keras.callbacks.Callback):
    """Adds `images_per_second` and `learning_rate`, that of the last step, to an epoch's logs.

    The first call into TensorFlow of an epoch may compile and is left out of the speed, unless the
    epoch has no other.

    Args:
        batch_size: original images in a global batch.
        optimizer: where the learning rate is read.
    """

    def __init__(self, batch_size: int, optimizer):
        super().__init__()
        self.batch_size = batch_size
        self.optimizer = optimizer

    def on_epoch_begin(self, epoch, logs=None):
        steps_done = max(epoch * self.params["steps"], self.params["start_step"])
        # When, and after how many steps, each call into TensorFlow returned.
        self.calls = [(time.perf_counter(), steps_done)]

    def on_train_batch_end(self, batch, logs=None):
        del self.calls[2:]
        self.calls.append((time.perf_counter(), batch + 1))

    def on_epoch_end(self, epoch, logs=None):
        started, before = self.calls[1 if len(self.calls) > 2 else 0]
        seconds = max(time.perf_counter() - started, 1e-9)
        logs["images_per_second"] = (self.calls[-1][1] - before) * self.batch_size / seconds
        logs["learning_rate"] = last_rate(self.optimizer)


class Monitor(keras.callbacks.Callback):
    """Adds `knn_accuracy`, the answer to "is it working?", to an epoch's logs.

    Args:
        measure: returns the kNN accuracy of the model's feature as it is now, 0 to 1.
        random_init: the accuracy of the untrained network, to compare with; None leaves it blank.
        every: epochs between measurements; the last epoch is always measured.
        start: the accuracy of the weights that training started from, likewise.

    Attributes:
        latest: the accuracy measured last, None before the first measurement.
    """

    def __init__(
        self,
        measure: Callable[[], float],
        random_init: float | None,
        every: int = 1,
        start: float | None = None,
    ):
        super().__init__()
        self.measure = measure
        self.random_init = random_init
        self.every = max(1, every)
        self.start = start
        self.latest: float | None = None

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params["epochs"]
        if last or (epoch + 1) % self.every == 0:
            logs["knn_accuracy"] = self.latest = self.measure()
        if self.random_init is not None:
            logs["knn_accuracy_random_init"] = self.random_init
        if self.start is not None:
            logs["knn_accuracy_starting_weights"] = self.start


class MetricsFile(keras.callbacks.Callback):
    """Writes metrics.csv, a row an epoch; epochs count from 1.

    On resuming, rows of epochs that will be trained again are dropped. The file is replaced as a
    whole, so that an interrupted write loses nothing.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = absolute(path)
        self.rows: list[dict] = []

    def on_train_begin(self, logs=None):
        done = self.params["start_step"] // self.params["steps"]
        if done and self.path.exists():
            try:
                with open(self.path, newline="", encoding="utf-8-sig") as file:
                    self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= done]
            except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
                raise UserError(
                    f"'{self.path}' is damaged ({shown(error)}); remove or repair it: without it, "
                    "the resumed run writes its later epochs only"
                ) from None

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "step": (epoch + 1) * self.params["steps"]}
        row.update({name: f"{value:.6g}" for name, value in logs.items()})
        self.rows.append(row)
        present = {name for row in self.rows for name in row}
        columns = [*COLUMNS, *sorted(present - set(COLUMNS))]
        with (
            replacing(self.path) as writing,
            open(writing, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


class Progress(keras.callbacks.Callback):
    """A progress bar with the time left to the end of training, and a line for each epoch.

    In a log file there is no bar; the lines give the time left.

    Args:
        chance_levels: value of each logged quantity before anything is learned, shown beside it.
    """

    def __init__(self, chance_levels: dict[str, float] | None = None):
        super().__init__()
        self.chance_levels = chance_levels or {}
        self.bar = None
        self.started = 0.0

    def on_train_begin(self, logs=None):
        from rfd_tf.progress import tqdm

        self.started = time.perf_counter()
        self.bar = tqdm(
            total=self.params["epochs"] * self.params["steps"],
            initial=self.params["start_step"],
            unit="step",
            dynamic_ncols=True,
            disable=None,
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update(batch + 1 - self.bar.n)

    def on_epoch_end(self, epoch, logs=None):
        from tqdm import tqdm

        done = (epoch + 1) * self.params["steps"] - self.params["start_step"]
        to_do = (self.params["epochs"] - epoch - 1) * self.params["steps"]
        left = (time.perf_counter() - self.started) / done * to_do
        parts = [f"epoch {epoch + 1}/{self.params['epochs']} ({tqdm.format_interval(left)} left)"]
        for name, value in logs.items():
            part = f"{name} {value:.4g}"
            if name in self.chance_levels:
                part += f" (chance {self.chance_levels[name]:.4g})"
            parts.append(part)
        tqdm.write("  ".join(parts))
        sys.stdout.flush()

    def on_train_end(self, logs=None):
        self.bar.close()


class TensorBoard(keras.callbacks.Callback):
    """Writes TensorBoard event files: scalars with their chance levels, and the rotated views.

    Args:
        directory: folder for the event files.
        chance_levels: drawn as constant curves beside the logged quantities.
        images: `[views, height, width, channels]` uint8, shown once as a grid of four columns.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        chance_levels: dict[str, float] | None = None,
        images: np.ndarray | None = None,
    ):
        super().__init__()
        self.directory = str(absolute(directory))
        self.chance_levels = chance_levels or {}
        self.images = images
        self.writer = None

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self.writer = tf.summary.create_file_writer(self.directory)
        if self.images is not None:
            with self.writer.as_default():
                tf.summary.image("rotated views", grid(self.images, 4)[None], step=0)

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        with self.writer.as_default():
            for name, value in logs.items():
                tf.summary.scalar(name, value, step=epoch + 1)
            for name, value in self.chance_levels.items():
                tf.summary.scalar(f"chance/{name}", value, step=epoch + 1)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


class Figures(keras.callbacks.Callback):
    """Keeps the pictures that a method draws of what it does; see `Method.figures`.

    Args:
        images: uint8 `[batch, size, size, 3]`, what the pictures are drawn of.
        directory: folder of the PNG files, the latest of each picture; made when there is one.
        tensorboard: the `TensorBoard` callback of the same training, whose event file then holds
            the pictures of all epochs, or None. (A second file in its folder would hide the first
            from TensorBoard.)
        every: epochs between pictures; the last epoch is always drawn.
    """

    def __init__(
        self,
        images: np.ndarray,
        directory: str | os.PathLike,
        tensorboard: TensorBoard | None = None,
        every: int = 1,
    ):
        super().__init__()
        self.images = images
        self.directory = absolute(directory)
        self.tensorboard = tensorboard
        self.every = max(1, every)

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        if done % self.every and done != self.params["epochs"]:
            return
        figures = self.model.figures(self.images)
        if not figures:
            return
        from PIL import Image

        self.directory.mkdir(exist_ok=True)
        for name, picture in figures.items():
            Image.fromarray(picture).save(self.directory / f"{name}.png")
        if self.tensorboard is not None:
            import tensorflow as tf

            with self.tensorboard.writer.as_default():
                for name, picture in figures.items():
                    tf.summary.image(name.replace("_", " "), picture[None], step=done)


class Checkpoint(keras.callbacks.Callback):
    """Saves the run at the end of every so many epochs, and of the last; within epochs where asked.

    A checkpoint within an epoch that is due while the one before is still being written is put
    off until that is done. It comes before `on_epoch_end`: have this callback last.

    Args:
        saver: the `BackgroundSaver`.
        method: the `Method`.
        optimizer: its optimizer.
        description: returns JSON-able facts for every checkpoint, asked when it is saved.
        at_epoch_end: called with the number of epochs done after such a checkpoint was begun.
        every: epochs between checkpoints.
        every_steps: steps between checkpoints within an epoch; 0 for none.
        every_minutes: minutes between checkpoints within an epoch; 0 for none.
        stop: asked for a stop, it saves and ends training.
    """

    def __init__(
        self,
        saver: BackgroundSaver,
        method,
        optimizer,
        description: Callable[[], dict] = dict,
        at_epoch_end: Callable[[int], None] = lambda epoch: None,
        every: int = 1,
        every_steps: int = 0,
        every_minutes: float = 0.0,
        stop: StopRequest | None = None,
    ):
        super().__init__()
        self.saver, self.method, self.optimizer = saver, method, optimizer
        self.description = description
        self.at_epoch_end = at_epoch_end
        self.every = max(1, every)
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.stop = stop or StopRequest()
        self.last_step, self.last_time = 0, 0.0

    def on_train_begin(self, logs=None):
        self.last_step, self.last_time = self.params["start_step"], time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self.saver.check()
        step = batch + 1
        if step % self.params["steps"] == 0:
            return  # the epoch is about to end
        if self.stop.signal:
            self._save(step)
            self.model.stop_training = True
        elif self._due(step) and not self.saver.busy:
            self._save(step)

    def _due(self, step: int) -> bool:
        minutes = (time.monotonic() - self.last_time) / 60
        return bool(
            (self.every_steps and step - self.last_step >= self.every_steps)
            or (self.every_minutes and minutes >= self.every_minutes)
        )

    def _save(self, step: int) -> None:
        # No checkpoint is to hold what a loss that is no number has made of the weights.
        self.params.get("check_finite", lambda: None)()
        epoch = step // self.params["steps"]
        description = {**self.description(), "step": step, "epoch": epoch}
        self.saver.save(self.method, self.optimizer, description)
        self.last_step, self.last_time = step, time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        last = done == self.params["epochs"]
        if done % self.every == 0 or last or self.stop.signal:
            self._save(done * self.params["steps"])
            started = time.perf_counter()
            self.at_epoch_end(done)
            self.saver.stalled += time.perf_counter() - started
        if self.stop.signal and not last:
            self.model.stop_training = True


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Lays `[n, height, width, channels]` out as one picture of so many columns."""
    rows = -(-len(images) // columns)
    padding = rows * columns - len(images)
    images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
    _, height, width, channels = images.shape
    images = images.reshape(rows, columns, height, width, channels)
    return images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
