"""Whether a network looks at the objects: saliency against boxes, over a set of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.data import image_files, pipeline
from rfd_tf.data.base import Source
from rfd_tf.data.subset import index_hash
from rfd_tf.data.views import NUM_ROTATIONS
from rfd_tf.data.voc import IGNORED, VocSet, upright, upright_mask
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation.features import FeatureExtractor
from rfd_tf.evaluation.subject import Subject
from rfd_tf.evaluation.transformed import evaluated_tensors
from rfd_tf.interpret import activation, overlap
from rfd_tf.interpret.saliency import COLORS, GROUPS, GradientMaps
from rfd_tf.rules import Rule, moot

#: What saliency is taken of: the four outputs of the rotation classifier, or the feature's neurons.
LAYERS = ("rotation", "embedding")
MAPS = ("gradient", "smooth", "grad_cam", "attention")
COMBINATIONS = ("mean", "maximum")
# Pictures whose maps are kept to be drawn.
_SHOWN = 16


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures as squares, and where their objects are.

    Attributes:
        name: of the set.
        names: of the N pictures.
        images: uint8 `[N, S, S, 3]`.
        objects: bool `[N, S, S]`, the union of the boxes, or the masks' objects; None where no
            objects are known.
    """

    name: str
    names: tuple[str, ...]
    images: np.ndarray
    objects: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of saliency maps and of Q.

    Args:
        map: gradient of the outputs by the input; smooth: averaged over noisy copies; grad_cam: a
            layer's map, weighted by gradients; attention: the strength of a layer's activations.
        group: for several neurons: `maximum` makes one map, `each` keeps one per neuron.
        combine: for several maps of an image: `mean` or `maximum` of their Qs.
        quantile: share of each map's pixels that do not count as salient.
        thresholds: layer -> fixed value from which a pixel counts, in addition to the quantile.
        neurons: largest number of neurons of the embedding, evenly spread; 0 for all.
        layer: layer for grad_cam and attention; the last with a map if None.
        power: for attention: the sum over channels of |activation| ** power.
        draws: number of noisy copies for smooth.
        noise: standard deviation of the copies' noise, relative to the image's range of values.
        colors: how the gradients of the three colours are combined: maximum or mean.
        seed: seed of the random network, noise and random pixels.

    Raises:
        UserError: unknown names, numbers out of range.

    >>> Settings(quantile=0.9).group
    'maximum'
    """

    map: Literal["gradient", "smooth", "grad_cam", "attention"] = "gradient"
    group: Literal["maximum", "each"] = "maximum"
    combine: Literal["mean", "maximum"] = "mean"
    quantile: float = 0.8
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    neurons: int = 0
    layer: str | None = None
    power: int = 1
    draws: int = 16
    noise: float = 0.15
    colors: Literal["maximum", "mean"] = "maximum"
    seed: int = 0

    #: When settings have an effect beside the others.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(("group", "neurons", "combine"), {"map": ("gradient", "smooth", "grad_cam")}),
        Rule(("combine",), {"group": ("each",)}),
        Rule(("layer",), {"map": ("grad_cam", "attention")}),
        Rule(("power",), {"map": ("attention",)}),
        Rule(("draws", "noise"), {"map": ("smooth",)}),
        Rule(("colors",), {"map": ("gradient", "smooth")}),
    )

    def __post_init__(self):
        for kind, value, options in (
            ("kind of map", self.map, MAPS),
            ("group", self.group, GROUPS),
            ("combination", self.combine, COMBINATIONS),
            ("reduction of colours", self.colors, COLORS),
        ):
            if value not in options:
                raise unknown(kind, value, options)
        for layer in self.thresholds:
            if layer not in LAYERS:
                raise unknown("layer of a threshold", layer, LAYERS)
        if self.neurons < 0:
            raise UserError(f"the number of neurons is 0 (all) or more, not {self.neurons}")
        if self.draws < 1 or self.noise < 0:
            raise UserError(
                f"smooth gradients take 1 draw or more and noise of at least 0; got {self.draws} "
                f"and {self.noise}"
            )
        # Values out of range are refused.
        overlap.binary_map(np.zeros((1, 1)), quantile=self.quantile)
        for threshold in self.thresholds.values():
            overlap.binary_map(np.zeros((1, 1)), threshold)

    def in_use(self) -> dict[str, Any]:
        """Returns the values in use by name; None for one without effect on this kind of map.

        >>> Settings(map="attention").in_use()["draws"] is None
        True
        """
        values = dataclasses.asdict(self)
        return {**values, **dict.fromkeys(name for name, _ in moot(self.rules, values))}

    def limits(self, layer: str) -> dict[str, dict[str, float]]:
        """What counts as salient: in words -> arguments of `overlap.binary_map`."""
        found = {f"strongest {100 * (1 - self.quantile):g} %": {"quantile": self.quantile}}
        if layer in self.thresholds:
            value = self.thresholds[layer]
            found[f"at least {value:g}"] = {"threshold": value}
        return found


def read_pictures(voc_set: VocSet, image_size: int, max_images: int | None = None) -> Pictures:
    """Reads pictures, stretched to squares, with the masks of their objects.

    Args:
        voc_set: pictures with boxes or masks.
        image_size: side S of the squares.
        max_images: read at most so many, chosen by a hash of their place; all if None.

    Raises:
        UserError: a picture or a mask cannot be read or has another size than its annotation.
    """
    from PIL import Image

    chosen = [voc_set.images[place] for place in _some(len(voc_set.images), max_images)]
    size = (image_size, image_size)
    images, objects = [], []
    for one in chosen:
        one = one if one.mask is not None else upright(one)
        pixels = Image.fromarray(_read(one.image, image_files.read_rgb))
        images.append(np.asarray(pixels.resize(size, Image.Resampling.BILINEAR)))
        if one.mask is not None:
            mask = _read(one.mask, lambda path: np.asarray(Image.open(path)))
            mask = np.ascontiguousarray(upright_mask(mask, one))
            values = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
            objects.append((values > 0) & (values != IGNORED))
            continue
        objects.append(
            overlap.box_mask(scale_boxes(one.boxes, pixels.size, image_size), image_size)
        )
    names = tuple(one.name for one in chosen)
    return Pictures(voc_set.name, names, np.stack(images), np.stack(objects))


def scale_boxes(boxes: np.ndarray, size: tuple[int, int], image_size: int) -> np.ndarray:
    """Moves boxes to where they lie once their picture is stretched to a square.

    Args:
        boxes: `[n, 4]`: left, top, right, bottom in pixels.
        size: width and height of the picture, pixels.
        image_size: side of the square.

    >>> scale_boxes(np.array([[10, 5, 20, 10]]), (40, 20), 10).tolist()
    [[2.5, 2.5, 5.0, 5.0]]
    """
    width, height = size
    return np.asarray(boxes) * (image_size / np.array([width, height, width, height]))


def without_objects(source: Source, image_size: int, max_images: int | None = None) -> Pictures:
    """Reads the images of a source, stretched to squares; where their objects are is not known.

    Args:
        source: images.
        image_size: side S of the squares.
        max_images: read at most so many, chosen by a hash of their index; all if None.

    >>> from rfd_tf.data import digits
    >>> without_objects(digits("test"), 16, max_images=3).images.shape
    (3, 16, 16, 3)
    """
    rows = _some(source.num_images, max_images)
    batches = pipeline.evaluation_dataset(
        source, image_size=image_size, batch_size=256, indices=rows, stretch=True
    )
    images, seen = [], []
    for batch in batches.as_numpy_iterator():
        images.append(batch["image"])
        seen.extend(batch["index"].tolist())
    if not seen:
        raise UserError(f"no image of '{source.name}' can be read")
    names = tuple(str(source.names[index] if source.names else index) for index in seen)
    return Pictures(source.name, names, np.concatenate(images), None)


def _some(count: int, most: int | None) -> np.ndarray:
    rows = np.arange(count)
    if most is None or most >= count:
        return rows
    return np.sort(np.argsort(index_hash(rows), kind="stable")[:most])


def _read(path, read: Callable[[str], np.ndarray]) -> np.ndarray:
    try:
        return read(str(path))
    except Exception as error:  # Pillow raises many types on broken files
        raise UserError(f"'{path}' cannot be read: {image_files.reason_of(error)}") from None


def layer_model(subject: Subject, layer: str, neurons: int = 0) -> keras.Model:
    """Returns the model from normalised pixels to the outputs whose saliency is asked for.

    Args:
        subject: a pretrained network or its random twin.
        layer: of `LAYERS`: `rotation`, the classifier's four outputs before softmax; or
            `embedding`, the neurons of the pooled feature, all of it where it is split.
        neurons: of the embedding, at most so many, evenly spread; all if 0.

    Returns:
        A functional model, `[None, S, S, 3]` to float32 `[None, D]`.

    Raises:
        UserError: an unknown layer, or a run without a rotation classifier.
    """
    if layer not in LAYERS:
        raise unknown("layer", layer, LAYERS)
    model = subject.network()
    tensors = evaluated_tensors(subject, model)
    if layer == "embedding":
        outputs = tensors["f"] if "f" in tensors else tensors["pooled"]
        if 0 < neurons < outputs.shape[-1]:
            places = np.linspace(0, outputs.shape[-1] - 1, neurons).round().astype("int32")
            outputs = ops.take(outputs, places, axis=-1)
        return keras.Model(model.inputs[0], outputs)
    head = subject.heads.get("rotation_head")
    if head is None:
        raise UserError(
            f"{subject.title}: no rotation classifier was trained with this network (heads.npz of "
            "its run folder); ask for --layers=embedding"
        )
    name = next(name for name in ("f1", "f", "pooled") if name in tensors)
    kernel, bias = head
    if (tensors[name].shape[-1], NUM_ROTATIONS) != kernel.shape:
        raise UserError(
            f"the rotation classifier has shape {kernel.shape}; feature {name} needs "
            f"({tensors[name].shape[-1]}, {NUM_ROTATIONS})"
        )
    return keras.Model(model.inputs[0], ops.matmul(tensors[name], kernel) + bias)


def rotation_accuracy(subject: Subject, images: np.ndarray) -> float:
    """Rotation classifier's accuracy on the four rotations of all images, 0 to 1.

    Args:
        subject: with a rotation classifier.
        images: uint8 `[N, S, S, 3]`.

    Raises:
        UserError: there is no rotation classifier.
    """
    extract = FeatureExtractor(layer_model(subject, "rotation"), subject.mean, subject.std)
    right = 0
    for turns in range(NUM_ROTATIONS):
        answers = extract(images, batch_size=64, rotations=np.full(len(images), turns))
        right += int((answers["features"].argmax(axis=-1) == turns).sum())
    return right / (NUM_ROTATIONS * len(images))


class Maps:
    """Makes one kind of map of one layer of a network.

    Args:
        subject: the network.
        layer: of `LAYERS`.
        settings: which map.

    Raises:
        UserError: see `layer_model` and `activation.map_of`.
    """

    def __init__(self, subject: Subject, layer: str, settings: Settings):
        self.subject, self.settings = subject, settings
        # Attention reads a layer in the middle, whatever the outputs are.
        outputs = "embedding" if settings.map == "attention" else layer
        self.model = layer_model(subject, outputs, settings.neurons)
        self.title = f"{subject.title}, {layer}"
        if settings.map in ("gradient", "smooth"):
            self._gradients = GradientMaps(
                self.model,
                group=settings.group,
                colors=settings.colors,
                draws=settings.draws if settings.map == "smooth" else 0,
                noise=settings.noise,
                seed=settings.seed,
            )
        else:
            activation.map_of(self.model, settings.layer)

    def __call__(self, images: np.ndarray, progress: bool = False) -> np.ndarray:
        """Returns float32 `[N, maps, S, S]`, at least 0, of uint8 images `[N, S, S, 3]`."""
        settings = self.settings
        pixels = ops.convert_to_numpy(
            applications.preprocess_input(
                np.asarray(images, np.float32), mean=self.subject.mean, std=self.subject.std
            )
        )
        if settings.map in ("gradient", "smooth"):
            return self._gradients(pixels, progress=self.title if progress else None)
        if settings.map == "attention":
            return activation.attention_map(self.model, pixels, settings.power, settings.layer)[
                :, None
            ]
        return activation.grad_cam(self.model, pixels, layer=settings.layer, group=settings.group)


def measure(
    subject: Subject,
    pictures: Pictures,
    settings: Settings,
    layers: Sequence[str] = LAYERS,
    progress: bool = False,
    reference: Subject | None = None,
    reference_title: str = "reference",
) -> dict[str, Any]:
    """Measures Q = |S and B| / |S or B| of a pretrained network and of its random twin.

    S are a map's salient pixels, B those of the objects. Beside each Q stands that of as many
    pixels drawn at random, and of as many around the centre.

    Args:
        subject: the pretrained network.
        pictures: where objects are not known, maps are made to be shown, and nothing is measured.
        settings: which map, which pixels count.
        layers: of `LAYERS`.
        progress: whether to show a bar.
        reference: another network beside these, such as a supervised one (RotNet, figure 3). Where
            it has no rotation classifier, it is left out of the layer `rotation` (not of attention
            maps, which do not need one).
        reference_title: what tables and figures call it.

    Returns:
        `rows`: of each layer, limit and network a dict `{"layer", "salient", "network", "q",
        "random_pixels", "central_pixels", "share", "per_image"}`: means over the images, `share`
        that of salient pixels; per_image holds the images' Q `[N]`.
        `rotation_accuracy`: network -> share, where there is a rotation classifier.
        `shown`: layer -> network -> the first images' salient pixels bool `[n, S, S]` (of the
        quantile), maps float32 `[n, S, S]` and Qs `[n]` or None.

    Raises:
        UserError: see `layer_model` and `check_reference`.

    With one fixed threshold for all networks, a random network's gradients may all lie below it:
    its Q is then 0 by construction and carries no information. A quantile marks the same share in
    every map.
    """
    twin = subject.random_twin(settings.seed)
    networks = {one.title: one for one in (subject, twin)}
    accuracy = {}
    if "rotation_head" in subject.heads:
        accuracy = {
            title: rotation_accuracy(one, pictures.images) for title, one in networks.items()
        }
    if reference is not None:
        check_reference(subject, reference, settings, layers)
        networks[reference_title] = reference
    rows, shown = [], {layer: {} for layer in layers}
    for layer in layers:
        for title, network in networks.items():
            if network is reference and not _has_layer(network, layer, settings):
                continue
            kept, measured = _of_network(Maps(network, layer, settings), layer, pictures, progress)
            shown[layer][title] = kept
            rows.extend(
                {"layer": layer, "salient": limit, "network": title, **values}
                for limit, values in measured.items()
            )
    return {"rows": rows, "rotation_accuracy": accuracy, "shown": shown}


def check_reference(
    subject: Subject, reference: Subject, settings: Settings, layers: Sequence[str]
) -> None:
    """Raises `UserError` where a network cannot stand beside another.

    Args:
        subject: the pretrained network.
        reference: the network beside it.
        settings: which map.
        layers: of `LAYERS`.
    """
    if reference.image_size != subject.image_size:
        raise UserError(
            f"the reference network takes images of {reference.image_size} pixels, the network of "
            f"--weights of {subject.image_size}; maps are compared on the same images"
        )
    wanted = [layer for layer in layers if _has_layer(reference, layer, settings)]
    if not wanted:
        raise UserError(
            "the reference network has no rotation classifier (heads.npz of its run folder); add "
            "embedding to --layers"
        )
    for layer in wanted:
        Maps(reference, layer, settings)


def _has_layer(network: Subject, layer: str, settings: Settings) -> bool:
    return layer != "rotation" or settings.map == "attention" or "rotation_head" in network.heads


def _of_network(maps: Maps, layer: str, pictures: Pictures, progress: bool):
    """What `measure` shows and measures of one layer of one network."""
    settings, limits = maps.settings, maps.settings.limits(layer)
    # Maps of each neuron are many: they are not held for all images.
    count = len(pictures.images)
    at_once = count if settings.group == "maximum" or settings.map == "attention" else 4
    if pictures.objects is None:
        count = at_once = min(count, _SHOWN)
    found: dict[str, list] = {limit: [] for limit in limits}
    kept: list[Any] = []
    for start in range(0, count, at_once):
        part = slice(start, min(start + at_once, count))
        values = maps(pictures.images[part], progress)
        for number, (limit, arguments) in enumerate(limits.items()):
            salient = overlap.binary_map(values, **arguments)
            if pictures.objects is not None:
                found[limit].append(_measured(salient, pictures.objects[part], settings, start))
            if number == 0 and start < _SHOWN:
                kept.append((salient[:_SHOWN].any(axis=1), values[:_SHOWN].max(axis=1)))
    shown = [np.concatenate(part)[:_SHOWN] for part in zip(*kept, strict=True)]
    if pictures.objects is None:
        return [*shown, None], {}
    measured = {}
    for limit, parts in found.items():
        table = np.concatenate(parts)
        names = ("q", "random_pixels", "central_pixels", "share")
        means = dict(zip(names, table.mean(axis=0).tolist(), strict=True))
        measured[limit] = {**means, "per_image": table[:, 0]}
    return [*shown, next(iter(measured.values()))["per_image"][: len(shown[0])]], measured


def _measured(
    salient: np.ndarray, objects: np.ndarray, settings: Settings, start: int
) -> np.ndarray:
    """Q, those of random and of central pixels, and the salient share: `[N, 4]`."""
    masks = (
        salient,
        overlap.same_area(salient, settings.seed + start),
        overlap.central_area(salient),
    )
    combine = np.mean if settings.combine == "mean" else np.max
    columns = [combine(overlap.overlap(mask, objects[:, None]), axis=1) for mask in masks]
    return np.stack([*columns, salient.mean(axis=(1, 2, 3))], axis=1)
