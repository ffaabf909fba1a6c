"""Whether a network looks at the objects: saliency against boxes, over a set of pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from rfd_tf import applications
from rfd_tf.data import image_files
from rfd_tf.data.voc import IGNORED, VocSet
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation.subject import Subject
from rfd_tf.evaluation.transformed import judged_tensors
from rfd_tf.interpret import overlap, saliency

#: What saliency is taken of: the four outputs of the rotation classifier, or the feature's neurons.
LAYERS = ("rotation", "embedding")
MAPS = ("gradient", "smooth", "grad_cam", "attention")
COMBINATIONS = ("mean", "maximum")
RANDOM_PIXELS = "random pixels"


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures as squares, and where their objects are.

    Attributes:
        names: N names.
        images: uint8 `[N, S, S, 3]`.
        objects: bool `[N, S, S]`, the union of the boxes, or the mask's objects.
    """

    names: tuple[str, ...]
    images: np.ndarray
    objects: np.ndarray


@dataclasses.dataclass(frozen=True)
class Settings:
    """How saliency is made and judged.

    Args:
        map: of `MAPS`: gradients, smoothed gradients, Grad-CAM, or attention.
        group: of several neurons' maps: `maximum` makes one map, `each` keeps them apart.
        combine: of the Qs of several maps of an image: `mean` or `maximum`.
        quantile: share of a map's pixels that do not count as salient.
        threshold: a fixed value instead of the quantile.
        neurons: at most so many neurons of the embedding, evenly spread; all if 0.
        layer: of Grad-CAM and attention; see `saliency.map_of`.
        power: of attention.
        draws, noise: of the smoothed gradients; see `saliency.smooth_gradients`.
        seed: of noise and random pixels.

    Raises:
        UserError: unknown names, numbers out of range.

    >>> Settings(quantile=0.9).group
    'maximum'
    """

    map: str = "gradient"
    group: str = "maximum"
    combine: str = "mean"
    quantile: float | None = 0.8
    threshold: float | None = None
    neurons: int = 0
    layer: str | None = None
    power: int = 1
    draws: int = 16
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self):
        for kind, value, options in (
            ("kind of map", self.map, MAPS),
            ("group", self.group, saliency.GROUPS),
            ("combination", self.combine, COMBINATIONS),
        ):
            if value not in options:
                raise unknown(kind, value, options)
        if self.neurons < 0:
            raise UserError(f"the number of neurons is 0 (all) or more, not {self.neurons}")
        # Refuses a pair of thresholds, none, and values out of range.
        overlap.binary_map(np.zeros((1, 1)), self.threshold, self.quantile)


def read_pictures(voc_set: VocSet, image_size: int, max_images: int | None = None) -> Pictures:
    """Reads pictures, stretched to squares as the study does, with the objects' masks.

    Args:
        voc_set: pictures with boxes or masks.
        image_size: side S of the squares.
        max_images: read at most so many, evenly spread; all if None.

    Raises:
        UserError: a picture that cannot be read.
    """
    from PIL import Image

    chosen = list(voc_set.images)
    if max_images is not None and max_images < len(chosen):
        places = np.linspace(0, len(chosen) - 1, max_images).round().astype(int)
        chosen = [chosen[place] for place in places]
    size = (image_size, image_size)
    images, objects = [], []
    for one in chosen:
        try:
            pixels = Image.fromarray(image_files.read_rgb(str(one.image)))
        except Exception as error:  # Pillow raises many types on broken files
            raise UserError(
                f"'{one.image}' cannot be read: {image_files.reason_of(error)}"
            ) from None
        images.append(np.asarray(pixels.resize(size, Image.Resampling.BILINEAR)))
        if one.mask is not None:
            with Image.open(one.mask) as mask:
                values = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
            objects.append((values > 0) & (values != IGNORED))
        else:
            # (Of the annotated size, in case the file holds a thumbnail of it.)
            scale = np.array([image_size / one.width, image_size / one.height] * 2)
            objects.append(overlap.box_mask(one.boxes * scale, image_size))
    return Pictures(tuple(one.name for one in chosen), np.stack(images), np.stack(objects))


def layer_model(subject: Subject, layer: str, neurons: int = 0) -> keras.Model:
    """Returns the model from normalised pixels to the outputs whose saliency is asked for.

    Args:
        subject: a pretrained network or its random twin.
        layer: of `LAYERS`: `rotation`, the classifier's four outputs; or `embedding`, the neurons
            of the pooled feature.
        neurons: of the embedding, at most so many, evenly spread; all if 0.

    Raises:
        UserError: an unknown layer, or a run without a rotation classifier.
    """
    if layer not in LAYERS:
        raise unknown("layer", layer, LAYERS)
    model = subject.network()
    tensors = judged_tensors(subject, model)
    if layer == "embedding":
        outputs = tensors["f"] if "f" in tensors else tensors["pooled"]
        if 0 < neurons < outputs.shape[-1]:
            places = np.linspace(0, outputs.shape[-1] - 1, neurons).round().astype("int32")
            outputs = ops.take(outputs, places, axis=-1)
        return keras.Model(model.inputs, outputs)
    head = subject.heads.get("rotation_head")
    if head is None:
        raise UserError(
            f"{subject.title}: no rotation classifier was trained with this network (heads.npz of "
            "its run folder); ask for --layers=embedding"
        )
    name = next(name for name in ("f1", "f", "pooled") if name in tensors)
    kernel, bias = head
    if tensors[name].shape[-1] != len(kernel):
        raise UserError(
            f"the rotation classifier takes {len(kernel)} numbers, feature {name} has "
            f"{tensors[name].shape[-1]}"
        )
    return keras.Model(model.inputs, ops.matmul(tensors[name], kernel) + bias)


def maps_of(subject: Subject, model: keras.Model, images: np.ndarray, settings: Settings):
    """Returns saliency maps float32 `[N, maps, S, S]` of uint8 images, by the settings.

    Args:
        subject: whose normalisation to use.
        model: of `layer_model`.
        images: uint8 `[N, S, S, 3]`.
        settings: which map.
    """
    pixels = ops.convert_to_numpy(
        applications.preprocess_input(
            np.asarray(images, np.float32), mean=subject.mean, std=subject.std
        )
    )
    if settings.map == "gradient":
        return saliency.saliency_maps(model, pixels, group=settings.group)
    if settings.map == "smooth":
        return saliency.smooth_gradients(
            model,
            pixels,
            draws=settings.draws,
            noise=settings.noise,
            group=settings.group,
            seed=settings.seed,
        )
    if settings.map == "attention":
        return saliency.attention_map(model, pixels, settings.power, settings.layer)[:, None]
    maps = saliency.grad_cam(model, pixels, layer=settings.layer)
    return maps.max(axis=1, keepdims=True) if settings.group == "maximum" else maps


def judge(
    subject: Subject,
    pictures: Pictures,
    settings: Settings,
    layers: Sequence[str] = LAYERS,
    progress: bool = False,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Measures Q = |S and B| / |S or B| of the pretrained network, a random one, and random pixels.

    Args:
        subject: the pretrained network; its random twin has the same seed as the settings.
        pictures: with their objects.
        settings: which map, which pixels count.
        layers: of `LAYERS`.
        progress: whether to show a bar.
        batch_size: pictures at once.

    Returns:
        `rows`: list of `{"layer", "network", "q", "salient", "per_image"}`, networks "pretrained",
        "random init", and "random pixels" (as many pixels as the pretrained network's map, drawn
        at random); q the mean over the images, salient the mean share of salient pixels, per_image
        `[N]`. `shown`: layer -> network -> the first images' maps, bool `[n, S, S]` salient pixels
        and float32 `[n, S, S]`.

    Source: the overlap of a study of rotation prediction by saliency (facts: S the salient pixels,
    B the union of the boxes). With one fixed threshold for all networks, a random network's
    gradients may all lie below it: its Q is then 0 by construction and says nothing. A quantile of
    each map marks the same share in both, and random pixels show what that share alone reaches.
    """
    from tqdm import tqdm

    networks = [subject, subject.random_twin(settings.seed)]
    rows, shown = [], {}
    for layer in layers:
        shown[layer] = {}
        for network in networks:
            model = layer_model(network, layer, settings.neurons)
            quality, chance, share, kept = [], [], [], []
            starts = range(0, len(pictures.images), batch_size)
            title = f"{network.title}, {layer}"
            for start in tqdm(starts, desc=title, disable=None if progress else True):
                part = slice(start, start + batch_size)
                maps = maps_of(network, model, pictures.images[part], settings)
                salient = overlap.binary_map(maps, settings.threshold, settings.quantile)
                objects = pictures.objects[part, None]
                quality.append(_combined(overlap.overlap(salient, objects), settings))
                random = overlap.same_area(salient, settings.seed + start)
                chance.append(_combined(overlap.overlap(random, objects), settings))
                share.append(salient.mean(axis=(1, 2, 3)))
                if start == 0:
                    kept = [salient.any(axis=1), maps.max(axis=1)]
            shown[layer][network.title] = kept
            found = [(network.title, quality)]
            if network.is_pretrained:
                found.append((RANDOM_PIXELS, chance))
            for name, values in found:
                values = np.concatenate(values)
                rows.append(
                    {
                        "layer": layer,
                        "network": name,
                        "q": float(values.mean()),
                        "salient": float(np.concatenate(share).mean()),
                        "per_image": values,
                    }
                )
    return {"rows": rows, "shown": shown}


def _combined(quality: np.ndarray, settings: Settings) -> np.ndarray:
    """`[N, maps]` to `[N]`."""
    return quality.mean(axis=1) if settings.combine == "mean" else quality.max(axis=1)


def table(rows: Sequence[dict[str, Any]], settings: Settings) -> str:
    """The result as a Markdown table, Q and shares in percent.

    >>> rows = [{"layer": "rotation", "network": "pretrained", "q": 0.3, "salient": 0.2}]
    >>> print(table(rows, Settings()).splitlines()[2])
    | rotation | pretrained | 30.0 | 20.0 |
    """
    lines = ["| layer | network | Q, % | salient pixels, % |", "|---|---|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['layer']} | {row['network']} | {100 * row['q']:.1f} | "
            f"{100 * row['salient']:.1f} |"
        )
    if settings.threshold is not None:
        lines += [
            "",
            f"Fixed threshold {settings.threshold:g}: where a network's gradients are smaller than "
            "that everywhere, its Q is 0 by construction and says nothing of where it looks; give "
            "a quantile to compare networks.",
        ]
    return "\n".join(lines)


def sheet(pictures: Pictures, shown: dict[str, dict[str, Any]], settings: Settings, count: int = 6):
    """Draws pictures with their objects beside the maps of both networks, a row a picture.

    Args:
        pictures: of `judge`.
        shown: of `judge`.
        settings: of `judge`.
        count: rows, at most.

    Returns:
        A `matplotlib.figure.Figure`: the picture with its objects outlined; then, for each layer
        and network, the map, with the salient pixels' border in white.
    """
    from matplotlib.figure import Figure

    columns = [(layer, name) for layer, maps in shown.items() for name in maps]
    count = min(count, *(len(shown[layer][name][0]) for layer, name in columns))
    figure = Figure(figsize=(1.7 * (len(columns) + 1), 1.7 * count + 1.0), dpi=130)
    axes = figure.subplots(count, len(columns) + 1, squeeze=False)
    for row in range(count):
        axes[row, 0].imshow(pictures.images[row])
        _outline(axes[row, 0], pictures.objects[row], "red")
        for column, (layer, name) in enumerate(columns, start=1):
            salient, values = shown[layer][name]
            axes[row, column].imshow(values[row], cmap="magma")
            _outline(axes[row, column], salient[row], "white", 0.4)
    titles = ["picture, objects", *(f"{layer}\n{name}" for layer, name in columns)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    which = (
        f"threshold {settings.threshold:g}"
        if settings.threshold is not None
        else f"the strongest {100 * (1 - settings.quantile):.0f} % of each map"
    )
    caption = f"{settings.map} maps, each scaled by itself; white: {which}"
    figure.tight_layout(rect=(0, 0.5 / (1.7 * count + 1.0), 1, 1))
    figure.text(0.02, 0.01, caption, fontsize=8)
    return figure


def _outline(axis, mask: np.ndarray, color: str, width: float = 1.2) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors=color, linewidths=width)


def write(output: Path, pictures: Pictures, found: dict, settings: Settings, count: int) -> None:
    """Writes `saliency.md`, `.csv` (Q of each image), `.json` and `.png` to a folder.

    Raises:
        UserError: it cannot be written.
    """
    import csv

    from rfd_tf.evaluation.files import folder, save_figure, write_json, write_text

    output, rows = folder(output), found["rows"]
    with write_text(output / "saliency.md") as file:
        file.write(table(rows, settings) + "\n")
    with write_text(output / "saliency.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{row['layer']}, {row['network']}" for row in rows)])
        for place, name in enumerate(pictures.names):
            writer.writerow([name, *(f"{row['per_image'][place]:.5f}" for row in rows)])
    write_json(
        output / "saliency.json",
        {
            "settings": dataclasses.asdict(settings),
            "num_images": len(pictures.names),
            "image_size": int(pictures.images.shape[1]),
            "rows": [{k: v for k, v in row.items() if k != "per_image"} for row in rows],
        },
    )
    save_figure(sheet(pictures, found["shown"], settings, count), output / "saliency.png")
