"""Reports without labels whether a method learns: measures per epoch, a verdict at the end."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.errors import UserError
from rfd_tf.evaluation.feature_measures import (
    alignment,
    effective_rank,
    neighbours,
    neighbours_kept,
    rotation_leak,
    spread,
    uniformity,
)
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.files import folder
from rfd_tf.paths import absolute
from rfd_tf.training.callbacks import TensorBoard, grid

#: Largest number of images to measure: enough for a rank of a few hundred.
IMAGES = 512
#: Share of the training images to measure, so that an epoch of few images stays quick...
IMAGES_SHARE = 1 / 8
#: ...but no fewer than these, if there are as many.
FEWEST_IMAGES = 128
#: Neighbours of an image that are compared between epochs.
NEIGHBOURS = 10
#: Name of the sheet of nearest neighbours.
SHEET = "nearest_neighbours"

#: Below it the features of different images are nearly equal: see `spread`. Random networks, whose
#: features lie closest, have 0.05 and more.
MIN_SPREAD = 0.01
#: Below them the feature uses hardly more than one direction: absolutely, and as a share of the
#: effective rank before training.
MIN_RANK, MIN_RANK_SHARE = 1.1, 0.125
#: Below it the weights count as unchanged; a dozen useful steps move them by 0.02.
MIN_MOVED = 0.001
#: Smallest relative fall of a loss since the first epoch, and smallest relative gain over chance of
#: a loss or an accuracy: above the noise of means over an epoch of few images.
MIN_FALL, MIN_GAIN = 0.01, 0.05
#: Below it the memory bank hardly varies in more than one direction: two, one of which has an
#: eighth of the other's length, have 1.42; see `effective_rank`.
MIN_BANK_RANK = 1.4

# Numbers of images: those also measured in a crop and in four rotations, which take extra passes;
# those whose neighbours are saved in the checkpoint.
_VIEWS = 128
_QUERIES = 128
# Sampled entries of the backbone's weights, which estimate the change of all to a tenth.
_WEIGHTS = 256
# Side of the crop as a share of the image's side.
_CROP = 0.75
# Largest number of measured rows of the bank.
_BANK_ROWS = 4096
_SHEET_ROWS, _SHEET_NEIGHBOURS, _SHEET_SIDE, _SHEETS = 8, 7, 64, 10
_TITLE_HEIGHT = 14


_COLLAPSED = "features hardly differ between images"


def number_of_images(num_images: int) -> int:
    """Returns how many of the training images are measured.

    >>> number_of_images(50_000), number_of_images(1_500), number_of_images(40)
    (512, 187, 40)
    """
    return min(IMAGES, max(FEWEST_IMAGES, int(num_images * IMAGES_SHARE)), num_images)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The state of a training in one word, with the reason.

    Attributes:
        word: "learning", "stalled" or "collapsed".
        reason: the values that decided.
        advice: what to change; empty if all that the method predicts is better than chance.

    >>> print(Verdict("stalled", "the loss did not fall", "raise learning_rate"))
    stalled: the loss did not fall; raise learning_rate
    """

    word: str
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        return "; ".join(part for part in (f"{self.word}: {self.reason}", self.advice) if part)


def chance_levels(num_images: int, f2: bool) -> dict[str, float]:
    """Returns the chance levels of the measures of `FeatureHealth`, by name.

    Args:
        num_images: number of measured images.
        f2: whether the method's feature has a half that should not encode the rotation.

    >>> chance_levels(201, True)
    {'neighbours_kept': 0.05, 'f2_leak': 0.25}
    """
    levels = {"neighbours_kept": min(NEIGHBOURS, num_images - 1) / (num_images - 1)}
    return {**levels, "f2_leak": 1 / NUM_ROTATIONS} if f2 else levels


class FeatureHealth(keras.callbacks.Callback):
    """Measures features without labels; reports at the end of training whether the method learns.

    Adds to the logs of an epoch, in evaluation mode and on images without augmentation:

    - `feature_spread`, `effective_rank`, `uniformity` of the feature f;
    - `alignment` of an image with a crop of it, of three quarters of its side;
    - `f2_leak`, if the feature is split: `rotation_leak` of f2;
    - `neighbours_kept`: the share of each image's 10 nearest neighbours that it also had at the
      previous measurement; missing at the first one;
    - `weights_moved`: distance of the backbone's trainable weights from those before training, as
      a share of their length;
    - `bank_effective_rank`, if there is a memory bank: the effective rank of its centred rows.

    Warns when a collapse begins, and again after a recovery. Draws a sheet of nearest neighbours
    among the images about ten times per training.

    Args:
        images: uint8 `[n, size, size, 3]`, 2 or more; a few hundred are enough.
        every: epochs between measurements; the last epoch is always measured.
        directory: folder of the sheet, `nearest_neighbours.png`; None for none.
        tensorboard: the `TensorBoard` callback of `rfd_tf` in the same training, to add the sheets
            and, at step 0, the values before training; or None.
        state: the result of `state()` in the training to resume.
        say: called with the verdict at the end, as one line.

    Attributes:
        before: the same measures before training; empty if unknown.
        history: the logs of the epochs so far.
        verdict: the `Verdict` on the epochs so far; None before the first measurement.

    Raises:
        UserError: fewer than 2 images, or another type or shape.

    >>> from rfd_tf import applications, data, methods
    >>> source = data.digits()
    >>> method = methods.RotationPrediction(applications.build("six_layer", 16))
    >>> method.compile(optimizer=keras.optimizers.SGD(0.0))
    >>> health = FeatureHealth(data.load_images(source, 16, np.arange(64)), say=None)
    >>> batches = source.train_dataset(16, 50)
    >>> _ = method.fit(batches, steps_per_epoch=2, callbacks=[health], verbose=0)
    >>> health.verdict.word
    'stalled'
    """

    def __init__(
        self,
        images: np.ndarray,
        *,
        every: int = 1,
        directory: str | os.PathLike | None = None,
        tensorboard: TensorBoard | None = None,
        state: Mapping[str, Any] | None = None,
        say: Callable[[str], Any] | None = print,
    ):
        super().__init__()
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) < 2:
            raise UserError(
                "FeatureHealth needs 2 images or more, uint8 [n, size, size, 3]; got "
                f"{images.dtype} {list(images.shape)}"
            )
        self.images = images
        self.every = max(1, every)
        self.directory = None if directory is None else absolute(directory)
        self.tensorboard = tensorboard
        self.say = say
        self.history: list[dict[str, float]] = []
        state = state or {}
        self.before: dict[str, float] = dict(state.get("before") or {})
        self._weights = state.get("weights")
        self._neighbours = state.get("neighbours")
        self._crops = _cropped(images[: self._views])
        self._extract: FeatureExtractor | None = None
        self._warned: set[str] = set()

    @property
    def _views(self) -> int:
        """The number of images also measured in a crop and in their rotations."""
        return min(_VIEWS, max(2, len(self.images) // 4))

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on all epochs so far."""
        levels = self.model.chance_levels() if self.history else {}
        return verdict(self.history, self.before, levels)

    def state(self) -> dict[str, Any]:
        """Returns the state to save in a checkpoint, so that a resumed training measures the same.

        JSON-able: measures and a sample of the weights before training, and the neighbours of the
        last measurement.
        """
        return {"before": self.before, "weights": self._weights, "neighbours": self._neighbours}

    def on_train_begin(self, logs=None):
        side = self.model.image_size
        if self.images.shape[1:] != (side, side, 3):
            raise UserError(
                f"FeatureHealth has images {list(self.images.shape[1:])}, and the backbone takes "
                f"[{side}, {side}, 3]; give images of image_size={side}"
            )
        # A resumed run of an older version has no state: its start is unknown.
        if self._weights is None and not self.params.get("start_step"):
            self._weights = self._sampled_weights()
            self.before = self._measure()[0]
            self._neighbours = None  # the first epoch has none before it

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        done, epochs = epoch + 1, self.params["epochs"]
        if done % self.every == 0 or done == epochs:
            values, f = self._measure()
            logs.update(values)
            self._warn(values, done)
            between = self.every * -(-epochs // (self.every * _SHEETS))
            if f is not None and (done % between == 0 or done == epochs):
                self._draw(f, done)
            self._write_before(epoch)
        self.history.append({name: float(value) for name, value in logs.items()})

    def on_train_end(self, logs=None):
        found = self.verdict
        if found and self.say:
            self.say(f"health: {found}")

    # -- measures ---------------------------------------------------------------------------

    def _measure(self) -> tuple[dict[str, float], np.ndarray | None]:
        """Returns the measures, and f `[n, dimensions]`, or None if it is not finite."""
        method = self.model
        if self._extract is None:
            self._extract = FeatureExtractor(method.feature_model, method.mean, method.std)
        f = self._features(self.images)
        if not np.isfinite(f).all():
            return {"feature_spread": float("nan"), "effective_rank": float("nan")}, None
        views = self._views
        values = {
            "feature_spread": spread(f),
            "effective_rank": effective_rank(f),
            "alignment": alignment(f[:views], self._features(self._crops)),
            "uniformity": uniformity(f),
        }
        split = method.record()["feature"].get("split")
        if split:
            turned = [
                self._features(self.images[:views], np.full(views, turns, "int32"))
                for turns in range(1, NUM_ROTATIONS)
            ]
            f2 = np.stack([f[:views], *turned], axis=1)[..., split[0] :]
            values["f2_leak"] = rotation_leak(f2)
        found = neighbours(f, min(NEIGHBOURS, len(f) - 1))[:_QUERIES].tolist()
        if self._neighbours is not None:
            values["neighbours_kept"] = neighbours_kept(self._neighbours, found)
        self._neighbours = found
        if self._weights is not None:
            start, now = np.asarray(self._weights), np.asarray(self._sampled_weights())
            length = np.linalg.norm(start)
            moved = np.linalg.norm(now - start) / length if length else 0.0
            values["weights_moved"] = float(moved)
        bank = method.memory_bank
        if bank is not None and min(bank.num_images - 1, bank.dimensions) > 1:
            count = min(_BANK_ROWS, bank.num_images)
            index = np.linspace(0, bank.num_images - 1, count).astype("int64")
            rows = ops.convert_to_numpy(bank.lookup(index))
            near = spread(rows) < MIN_SPREAD
            values["bank_effective_rank"] = 0.0 if near else effective_rank(rows, centred=True)
        return values, f

    def _features(self, images, rotations=None) -> np.ndarray:
        return self._extract(images, batch_size=64, rotations=rotations)["features"]

    def _sampled_weights(self) -> list[float]:
        """Returns entries of the backbone's trainable weights, evenly spaced over all of them."""
        weights = self.model.backbone.trainable_variables
        total = sum(int(np.prod(weight.shape)) for weight in weights)
        wanted = np.linspace(0, total - 1, min(total, _WEIGHTS)).astype("int64")
        found, first = [], 0
        for weight in weights:
            # (As a tensor: NumPy does not read every variable.)
            values = ops.convert_to_numpy(ops.cast(weight, "float32")).reshape(-1)
            own = wanted[(wanted >= first) & (wanted < first + len(values))] - first
            found += [float(value) for value in values[own]]
            first += len(values)
        return found

    # -- what is shown ----------------------------------------------------------------------

    def _warn(self, values: Mapping[str, float], done: int) -> None:
        collapses = {what: (value, least) for what, value, least in _collapses(values, self.before)}
        for what, (value, least) in collapses.items():
            if what not in self._warned:
                warnings.warn(
                    f"{what} is {value:.3g} after epoch {done}, below {least:.3g}: {_COLLAPSED} "
                    "(they have collapsed); lower learning_rate, or check the images",
                    stacklevel=1,
                )
        self._warned = set(collapses)

    def _draw(self, f: np.ndarray, done: int) -> None:
        if self.directory is None and self.tensorboard is None:
            return
        picture = neighbour_sheet(
            self.images, f, f"Left: images. Right: their nearest neighbours by f, epoch {done}"
        )
        if self.directory is not None:
            from PIL import Image

            Image.fromarray(picture).save(folder(self.directory) / f"{SHEET}.png")
        if self.tensorboard is not None:
            import tensorflow as tf

            with self.tensorboard.writer.as_default():
                tf.summary.image(SHEET.replace("_", " "), picture[None], step=done)

    def _write_before(self, epoch: int) -> None:
        if self.tensorboard is None or epoch >= self.every:
            return
        import tensorflow as tf

        with self.tensorboard.writer.as_default():
            for name, value in self.before.items():
                tf.summary.scalar(name, value, step=0)


def verdict(
    history: Sequence[Mapping[str, float]],
    before: Mapping[str, float],
    chance_levels: Mapping[str, float],
) -> Verdict | None:
    """Returns the verdict on a training, from the logs of its epochs.

    Collapsed: at the last measurement, the feature's spread, its effective rank or the memory
    bank's rank is below its bound. Stalled: the backbone's weights have hardly moved; or no loss or
    accuracy of the method is better than chance, and one is worse or their sum has not fallen since
    the first epoch. Learning: neither.

    Args:
        history: the logs of each epoch; see `FeatureHealth`.
        before: the measures before training; empty if unknown.
        chance_levels: of logged quantities, see `Method.chance_levels`.

    Returns:
        The verdict, or None if nothing was measured yet.

    >>> epochs = [{"loss": 2.0, "effective_rank": 9.0, "feature_spread": 0.5, "weights_moved": 0.2}]
    >>> print(verdict(epochs, {"effective_rank": 8.0}, {"loss": 2.3}))
    learning: loss 2 (chance 2.3), effective rank 9 (before training 8)
    """
    measured = [row for row in history if "effective_rank" in row]
    if not measured:
        return None
    last = measured[-1]
    first, now = history[0].get("loss"), history[-1].get("loss")
    loss = [f"loss {first:.4g} to {now:.4g}"] if first is not None and len(history) > 1 else []
    for what, value, least in _collapses(last, before):
        reason = f"{what} is {value:.3g}, below {least:.3g}: {_COLLAPSED}"
        if loss and now > first:
            return Verdict("collapsed", f"{loss[0]}, {reason}", "lower learning_rate")
        return Verdict("collapsed", reason, "lower learning_rate, or check the images")
    moved = last.get("weights_moved", 1.0)
    if moved < MIN_MOVED:
        return Verdict(
            "stalled",
            f"the backbone's weights have moved by {moved:.1g} of their length, less than "
            f"{MIN_MOVED:g}",
            "raise learning_rate, train longer, or unfreeze layers",
        )
    better, level, worse = _task(last, chance_levels)
    fell = bool(loss) and first - now > MIN_FALL * abs(first)
    if not better and worse:
        reason = f"{', '.join(worse)}: worse than chance, and nothing is better"
        return Verdict("stalled", reason, "lower learning_rate, or train longer")
    if not better and not fell and (loss or chance_levels):
        reason = ", ".join([*loss, "nothing that the method predicts is better than chance"])
        return Verdict("stalled", reason, "change learning_rate, or train longer")
    reasons = [*loss, *better] if fell else better
    reasons += [
        _beside(name, last[name], chance_levels, before)
        for name in ("effective_rank", "f2_leak")
        if name in last
    ]
    pending = [*level, *worse] if better else []
    reason = ", ".join(reasons)
    if pending:
        return Verdict("learning", reason, f"no better than chance yet: {', '.join(pending)}")
    return Verdict("learning", reason)


def _collapses(
    values: Mapping[str, float], before: Mapping[str, float]
) -> Iterator[tuple[str, float, float]]:
    """Yields the measures below their bounds, with value and bound."""
    rank = max(MIN_RANK, MIN_RANK_SHARE * before.get("effective_rank", 0.0))
    for name, what, least in (
        ("feature_spread", "the features' spread", MIN_SPREAD),
        ("effective_rank", "the features' effective rank", rank),
        ("bank_effective_rank", "the memory bank's effective rank", MIN_BANK_RANK),
    ):
        # (Not below it either: NaN.)
        if name in values and not values[name] >= least:
            yield what, values[name], least


def _task(
    values: Mapping[str, float], chance_levels: Mapping[str, float]
) -> tuple[list[str], list[str], list[str]]:
    """Returns the losses and accuracies better than, at and worse than chance, as texts."""
    better, level, worse = [], [], []
    for name, chance in chance_levels.items():
        value = values.get(name)
        if value is None or name.endswith("_f2") or name in ("f2_leak", "neighbours_kept"):
            continue
        if name.endswith("accuracy"):
            gain = (value - chance) / max(1 - chance, 1e-12)
        else:
            gain = (chance - value) / max(abs(chance), 1e-12)
        side = level if abs(gain) <= MIN_GAIN else better if gain > 0 else worse
        side.append(_beside(name, value, chance_levels))
    return better, level, worse


def _beside(name: str, value: float, chance_levels, before=None) -> str:
    """Returns a value as text, with its chance level and its value before training."""

    def shown(number: float) -> str:
        share = name.endswith("accuracy") or name == "f2_leak"
        return f"{100 * number:.1f} %" if share else f"{number:.4g}"

    levels = [("before training", (before or {}).get(name)), ("chance", chance_levels.get(name))]
    beside = ", ".join(f"{what} {shown(level)}" for what, level in levels if level is not None)
    return f"{name.replace('_', ' ')} {shown(value)}" + (f" ({beside})" if beside else "")


def neighbour_sheet(images: np.ndarray, features: np.ndarray, title: str = "") -> np.ndarray:
    """Draws evenly spaced images, each next to its nearest neighbours by cosine similarity.

    Args:
        images: uint8 `[n, size, size, 3]`; drawn with a side of at most 64 pixels.
        features: `[n, dimensions]`.
        title: a line of text above, cut off at the right edge.

    Returns:
        uint8 `[height, width, 3]`: up to 8 rows of an image and up to 7 neighbours.

    >>> neighbour_sheet(np.zeros((20, 8, 8, 3), "uint8"), np.eye(20)).shape
    (80, 82, 3)
    """
    from PIL import Image, ImageDraw

    k = min(_SHEET_NEIGHBOURS, len(images) - 1)
    queries = np.linspace(0, len(images) - 1, min(_SHEET_ROWS, len(images))).astype(int)
    nearest = neighbours(features, k)[queries]
    side = min(_SHEET_SIDE, images.shape[1])

    def drawn(rows: np.ndarray, columns: int) -> np.ndarray:
        small = [np.asarray(Image.fromarray(each).resize((side, side))) for each in images[rows]]
        edged = np.pad(small, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
        return grid(edged, columns)

    left, right = drawn(queries, 1), drawn(nearest.reshape(-1), k)
    gap = np.full((len(left), 2, 3), 255, "uint8")
    sheet = np.concatenate([left, gap, right], axis=1)
    if not title:
        return sheet
    head = Image.new("RGB", (sheet.shape[1], _TITLE_HEIGHT), "white")
    ImageDraw.Draw(head).text((2, 1), title, "black")
    return np.concatenate([np.asarray(head), sheet])


def _cropped(images: np.ndarray) -> np.ndarray:
    """Returns a crop of each image, at a fixed random position, resized to the images' size."""
    from PIL import Image

    side = images.shape[1]
    window = _CROP * side
    places = np.random.default_rng(0).uniform(0, side - window, (len(images), 2))
    return np.stack(
        [
            np.asarray(
                Image.fromarray(image).resize(
                    (side, side), Image.Resampling.BILINEAR, (x, y, x + window, y + window)
                )
            )
            for image, (x, y) in zip(images, places, strict=True)
        ]
    )
