"""What the page asks of a network and a set of images."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from rfd_tf.errors import UserError
from rfd_tf.evaluation.feature_cache import FeatureCache
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.evaluation.knn import nearest
from rfd_tf.evaluation.splits import subset
from rfd_tf.interpret.explore.network import ROTATION, OnnxNetwork

TURNS = 4
CURVE_STEP = 15
_CHUNK = 256
_LARGEST_MAP = 48
_PATCH = 4  # a patch that occludes has this part of the side


def turn(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turns a square image counter-clockwise.

    Quarter turns move pixels and never blend them, as `numpy.rot90`. In between pixels are blended
    bilinearly, and the corners filled with the image's mirror image.

    Args:
        image: uint8 `[S, S, 3]`.
        degrees: any finite number.

    Returns:
        uint8 `[S, S, 3]`.

    >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    >>> np.array_equal(turn(image, 270), np.rot90(image, 3)), turn(image, 30.5).shape
    (True, (2, 2, 3))
    """
    quarters, rest = divmod(degrees % 360, 90)
    image = np.rot90(image, int(quarters))
    if not rest:
        return np.ascontiguousarray(image)
    size = len(image)
    margin = math.ceil(size * (math.sqrt(2) - 1) / 2) + 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    turned = Image.fromarray(padded).rotate(rest, Image.Resampling.BILINEAR)
    return np.asarray(turned)[margin : margin + size, margin : margin + size]


class Explorer:
    """A network, the images of a set, and their embeddings.

    The embeddings are taken once. Rotations are predicted by the classifier trained with the
    network; where there is none, by a linear one fitted to at most `fit_images` of the images,
    upright and rotated.

    Args:
        network: of the run.
        images: at the network's size; kept in memory.
        cache: keeps the embeddings and the fitted classifier; None computes them again.
        neighbours: number of nearest images shown for each feature.
        fit_images: see above.
        positions: patches that occlude, along a side.
        progress: whether to show progress bars.

    Attributes:
        embeddings: name -> float32 `[N, D]`.
        spread: name -> mean cosine distance between two different images, None for one image.
        rotation: where the rotation classifier comes from: "trained" or "fitted".

    Raises:
        UserError: features that are not finite numbers, images of another size, an option that is
            too small.

    >>> import tempfile
    >>> from rfd_tf.data import digits
    >>> from rfd_tf.interpret.explore import OnnxNetwork, exported
    >>> network = OnnxNetwork(exported("six_layer.rfd_cifar10", tempfile.mkdtemp()))
    >>> images = ImageSet(digits("test"), np.arange(20), network.image_size)
    >>> explorer = Explorer(network, images, neighbours=3)
    >>> answer = explorer.look(explorer.pixels[0], degrees=90)
    >>> len(answer["rotation"]), len(answer["neighbours"]["f2"])
    (4, 3)
    """

    def __init__(
        self,
        network: OnnxNetwork,
        images: ImageSet,
        cache: FeatureCache | None = None,
        *,
        neighbours: int = 12,
        fit_images: int = 500,
        positions: int = 11,
        progress: bool = False,
    ):
        if neighbours < 1 or positions < 2 or fit_images < 1:
            raise UserError(
                "neighbours and fit_images are 1 or more, positions 2 or more; got "
                f"{neighbours}, {fit_images} and {positions}"
            )
        if images.image_size != network.image_size:
            raise UserError(
                f"the network takes images of {network.image_size} pixels a side, not of "
                f"{images.image_size}"
            )
        self.network, self.images = network, images
        self.pixels = images.images()
        self._neighbours, self._positions = neighbours, positions
        self._progress = progress
        # One at a time: onnxruntime uses all cores for each.
        self._running = threading.Lock()
        self.embeddings = self._embeddings(cache)
        self.spread = {name: _spread(rows) for name, rows in self.embeddings.items()}
        self.rotation = "trained" if ROTATION in network.outputs else "fitted"
        self._head = None
        if self.rotation == "fitted":
            self.fit_images = min(fit_images, len(images))
            self._head = self._fitted_head(cache)

    # -- at the start -------------------------------------------------------------------------

    def _embeddings(self, cache: FeatureCache | None) -> dict[str, np.ndarray]:
        names = self.network.features
        kept = cache.get(names) if cache is not None else None
        if kept is not None and all(len(rows) == len(self.images) for rows in kept.values()):
            return {name: np.asarray(rows) for name, rows in kept.items()}
        found = self._through(self.pixels, "embeddings", names)
        for name, rows in found.items():
            if not np.isfinite(rows).all():
                raise UserError(f"{name} holds NaN or infinite values: the network diverged")
            _keep(cache, name, rows)
        return found

    def _through(
        self, pixels: np.ndarray, title: str, names: Iterable[str]
    ) -> dict[str, np.ndarray]:
        from rfd_tf.progress import tqdm

        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        with tqdm(total=len(pixels), desc=title, disable=not self._progress, leave=False) as bar:
            for start in range(0, len(pixels), _CHUNK):
                chunk = pixels[start : start + _CHUNK]
                given = self.network(chunk)
                for name, rows in parts.items():
                    rows.append(given[name])
                bar.update(len(chunk))
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _fitted_head(self, cache: FeatureCache | None) -> tuple[np.ndarray, np.ndarray]:
        names = [f"rotation_{part}_fitted_to_{self.fit_images}" for part in ("kernel", "bias")]
        kept = cache.get(names) if cache is not None else None
        if kept is not None:
            return tuple(np.asarray(kept[name]) for name in names)
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        feature = self.network.features[0]
        places = subset(np.arange(len(self.images)), self.fit_images)
        rows = [self.embeddings[feature][places]]
        for quarters in range(1, TURNS):
            turned = np.rot90(self.pixels[places], quarters, axes=(1, 2))
            title = f"rotation classifier, {90 * quarters} degrees"
            rows.append(self._through(turned, title, [feature])[feature])
        scaler = StandardScaler()
        scaled = scaler.fit_transform(np.concatenate(rows).astype(np.float64))
        fitted = LogisticRegression(max_iter=300).fit(scaled, np.repeat(range(TURNS), len(places)))
        # Scaling and classifier in one.
        kernel = fitted.coef_.T / scaler.scale_[:, None]
        bias = fitted.intercept_ - scaler.mean_ @ kernel
        head = kernel.astype(np.float32), bias.astype(np.float32)
        for name, part in zip(names, head, strict=True):
            _keep(cache, name, part)
        return head

    # -- questions ----------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Returns what is on show, ready for JSON."""
        source, rows = self.images.source, self.images.rows
        labels, names = self.images.labels, source.names
        return {
            "set": source.name,
            "num_images": len(self.images),
            "num_in_set": source.num_images,
            "image_size": self.network.image_size,
            "features": [
                {
                    "name": name,
                    "dimensions": int(self.embeddings[name].shape[1]),
                    "spread": self.spread[name],
                }
                for name in self.network.features
            ],
            "rotation": self.rotation,
            "rotation_feature": self.network.features[0],
            "fitted_to": self.fit_images if self.rotation == "fitted" else None,
            "names": [str(names[row] if names is not None else int(row)) for row in rows],
            "labels": None if labels is None else labels.tolist(),
            "class_names": None if source.class_names is None else list(source.class_names),
        }

    def look(self, image: np.ndarray, degrees: float = 0, place: int | None = None) -> dict:
        """Rotates an image and returns what the network predicts and finds similar.

        Args:
            image: uint8 `[S, S, 3]`.
            degrees: counter-clockwise, see `turn`.
            place: of the image in the set, 0 to N - 1; None for another image. Unturned, it is
                left out of its own neighbours.

        Returns:
            Ready for JSON: "rotation", the probabilities of 0, 90, 180 and 270 degrees;
            "distance", by feature, the cosine distance (0 to 2) to the same image unturned;
            "neighbours", by feature, a list of {"image": place, "similarity": cosine}, the most
            similar first.
        """
        given = self._run(np.stack([image, turn(image, degrees)]))
        upright = degrees % 360 == 0
        leave_out = place if upright else None
        neighbours = {}
        for name in self.network.features:
            rows = self.embeddings[name]
            asked = min(self._neighbours + (leave_out is not None), len(rows))
            found, similarity = nearest(rows, given[name][1:], asked)
            pairs = zip(found[0].tolist(), similarity[0].tolist(), strict=True)
            neighbours[name] = [
                {"image": row, "similarity": _clip(value, -1)}
                for row, value in pairs
                if row != leave_out
            ][: self._neighbours]
        return {
            "rotation": _softmax(self._logits(given)[1]).tolist(),
            "distance": {
                name: 0.0 if upright else float(_distance(given[name][:1], given[name][1:])[0])
                for name in self.network.features
            },
            "neighbours": neighbours,
        }

    def curve(self, image: np.ndarray) -> dict:
        """Turns an image once around, in steps of `CURVE_STEP` degrees.

        Args:
            image: uint8 `[S, S, 3]`.

        Returns:
            "degrees", and "distance", by feature the cosine distance to the image unturned at each.
        """
        angles = list(range(0, 360, CURVE_STEP))
        given = self._run(np.stack([turn(image, angle) for angle in angles]))
        distances = {
            name: [0.0, *_distance(given[name][:1], given[name][1:]).tolist()]
            for name in self.network.features
        }
        return {"degrees": angles, "distance": distances}

    def occlusion(self, image: np.ndarray, degrees: float = 0) -> dict:
        """Measures which parts of a rotated image matter, by covering one after another.

        A grey square, a quarter of the side, is laid on `positions` x `positions` places. "f1",
        "f2", "f": how far the feature moves, as cosine distance; "rotation": by how much the
        logarithm of the predicted rotation's probability falls, 0 where it rises. A pixel's value
        is the mean over the squares that cover it (Zeiler and Fergus, ECCV 2014, section 4.2; no
        gradient is taken).

        Args:
            image: uint8 `[S, S, 3]`.
            degrees: counter-clockwise, see `turn`.

        Returns:
            "size", the side G of the maps (at most 48), and "maps", by name: "values", G x G
            integers 0 to 255 by rows, and "largest", what 255 stands for.
        """
        image = turn(image, degrees)
        covers = self._covers(len(image))
        covered = np.where(covers[..., None], self.network.grey, image)
        given = self._run(np.concatenate([image[None], covered]))
        effects = {
            name: _distance(given[name][:1], given[name][1:]) for name in self.network.features
        }
        chances = np.log(np.maximum(_softmax(self._logits(given)), 1e-12))
        predicted = chances[0].argmax()
        effects["rotation"] = np.maximum(chances[0, predicted] - chances[1:, predicted], 0)
        size = min(len(image), _LARGEST_MAP)
        sampled = ((np.arange(size) + 0.5) * len(image) / size).astype(int)
        maps = {}
        for name, effect in effects.items():
            values = np.tensordot(effect, covers, 1) / covers.sum(0)
            values = values[np.ix_(sampled, sampled)]
            largest = float(values.max())
            scaled = np.rint(255 * values / largest) if largest > 0 else np.zeros_like(values)
            maps[name] = {"values": scaled.astype(int).ravel().tolist(), "largest": largest}
        return {"size": size, "maps": maps}

    def _covers(self, size: int) -> np.ndarray:
        """Which pixels each square covers: bool `[positions ** 2, S, S]`, each pixel by some."""
        steps = self._positions - 1
        side = max(round(size / _PATCH), math.ceil(size / steps))
        # The outermost squares reach half over the border, so that it is covered as often.
        starts = np.rint(np.linspace(-side / 2, size - side / 2, self._positions))
        at = np.arange(size)
        along = (at >= starts[:, None]) & (at < starts[:, None] + side)
        return (along[:, None, :, None] & along[None, :, None, :]).reshape(-1, size, size)

    def _run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        with self._running:
            return self.network(pixels)

    def _logits(self, given: dict[str, np.ndarray]) -> np.ndarray:
        if self._head is None:
            return given[ROTATION]
        kernel, bias = self._head
        return given[self.network.features[0]] @ kernel + bias


def _keep(cache: FeatureCache | None, name: str, rows: np.ndarray) -> None:
    if cache is not None:
        file = cache.rows(name, len(rows))
        file.append(rows)
        file.close()


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine distances of one row `[1, D]` to others `[N, D]`: `[N]`, 0 to 2."""
    return np.clip(1 - _unit(other) @ _unit(one)[0], 0, 2)


def _spread(rows: np.ndarray) -> float | None:
    """Mean cosine distance over all pairs of different rows."""
    count = len(rows)
    if count < 2:
        return None
    unit = _unit(rows)
    own = np.square(unit).sum()
    return float(1 - (np.square(unit.sum(axis=0)).sum() - own) / (count * (count - 1)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _clip(value: float, lowest: float) -> float:
    return max(lowest, min(1.0, value))
