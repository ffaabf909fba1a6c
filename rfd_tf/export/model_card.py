"""What an export is, for people (README.md) and for programs (card.json)."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfd_tf.export import snippets

if TYPE_CHECKING:
    import keras

Card = dict[str, Any]

CARD_FORMAT = 1
PACKAGES = {
    "saved_model": (),
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
    "litert": (),
    "keras": (),
}
SCORES_FILE = "evaluation.json"
NO_LICENCE = (
    "Not stated. Whoever publishes these weights states their terms, with regard to those of the "
    "images they were trained on."
)
FEATURES = {
    "f": "pooled feature of the image",
    "f1": "rotation-related half of the pooled feature",
    "f2": "rotation-unrelated half of the pooled feature",
}
TELEMETRY = (
    "onnxruntime 1.29 and later report their use to the vendor and keep an identifier under the "
    "home folder, unless `ORT_DISABLE_TELEMETRY=1` is set before the import."
)
HEADS = {
    "rotation_logits": "rotation classifier, before the softmax: 0, 90, 180, 270 degrees "
    "counter-clockwise",
    "projection": "projection of the instance loss, before it is brought to length 1",
}


def describe(
    model: keras.Model,
    record: Mapping[str, Any],
    *,
    name: str,
    weights: Path,
    source: Path,
    feature: str,
    output_shapes: Mapping[str, Iterable[int]],
    assumed: Iterable[str] = (),
    formats: Iterable[str] = (),
    licence: str = "",
) -> Card:
    """Returns the card of an export, as far as it is known before the files are written.

    Args:
        model: the backbone that was loaded.
        record: its complete record.
        name: how the model is called.
        weights: the weights file of the export, whose digest is taken.
        source: the weights file that was exported. Scores are read from `evaluation.json` beside
            it, where that is a report of `rfd_tf.evaluation` on this very file.
        feature: `"f"`, `"f1"` or `"f2"`: what `embedding` is.
        output_shapes: shape of each output without the batch, by name.
        assumed: entries of the record that the weights did not carry.
        formats: the formats that are written.
        licence: terms of use.
    """
    from rfd_tf.applications import hub
    from rfd_tf.applications.weights import sha256
    from rfd_tf.export.features import EMBEDDING, feature_range

    size = model.input_shape[1]
    place = record["feature"]["endpoint"]
    start, stop = feature_range(dict(record), feature)
    outputs = {
        output: {
            "dtype": "float32",
            "shape": ["batch", *(int(n) for n in shape)],
            "meaning": _meaning(output, feature, place),
        }
        for output, shape in output_shapes.items()
    }
    card: Card = {
        "format": CARD_FORMAT,
        "name": name,
        "backbone": (record.get("architecture") or {}).get("name") or record["backbone"],
        "arguments": dict(record["arguments"]),
        "parameters": int(model.count_params()),
        "method": record.get("method"),
        "dataset": record.get("dataset"),
        "epoch": record.get("epoch"),
        "feature": {
            "name": feature,
            "endpoint": place,
            "pooling": record["feature"].get("pooling") or "avg",
            "from_map": len(model.get_layer(place).output.shape) == 4,
            "channels": [start, stop if stop is not None else outputs[EMBEDDING]["shape"][-1]],
        },
        "preprocessing": {
            "color_order": "RGB",
            "range": [0, 255],
            "image_size": size,
            "mean": [float(value) for value in record["mean"]],
            "std": [float(value) for value in record["std"]],
            "normalization": "(pixels / 255 - mean) / std, inside the exported files",
            "resize": _resize_rule(size),
        },
        "inputs": {},
        "outputs": outputs,
        "formats": list(formats),
        "verification": {},
        "quantization": {},
        "scores": scores_of(source),
        "weights_sha256": sha256(weights),
        "licence": licence or NO_LICENCE,
        "limits": _limits(record, size, feature, set(assumed), set(formats)),
        "versions": _versions(formats),
    }
    if record.get("started_from"):
        # The file's name alone: its folder means nothing elsewhere.
        started = record["started_from"]
        place = started["weights"]
        called = place if hub.is_place(place) else Path(place).name
        card["started_from"] = {**started, "weights": called}
    if "saved_model" in card["formats"]:
        pixels = {"dtype": "uint8", "shape": ["batch", size, size, 3]}
        card["inputs"]["saved_model"] = {
            "serving_default": {"pixels": pixels},
            "image_bytes": {"image_bytes": {"dtype": "string", "shape": ["batch"]}},
        }
    if "keras" in card["formats"]:
        shape = ["batch", size, size, 3]
        card["inputs"]["keras"] = {
            "image": {"dtype": "float32", "shape": shape, "range": "normalised"}
        }
    return card


def _meaning(output: str, feature: str, place: str) -> str:
    from rfd_tf.export.features import EMBEDDING

    feature = feature if output == EMBEDDING else output
    if feature in FEATURES:
        return f"{FEATURES[feature]}, from {place}"
    return HEADS.get(output) or f"output of layer {output}"


def write(card: Card, directory: Path) -> None:
    """Lists the files in `directory` in the card, and writes README.md and card.json there."""
    from rfd_tf.applications.weights import sha256

    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    card["files"] = {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in paths
    }
    (directory / "README.md").write_text(readme(card), encoding="utf-8")
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (directory / "card.json").write_text(text, encoding="utf-8")


def readme(card: Card) -> str:
    """Returns the card as Markdown, with code for every file that runs unchanged."""
    return "\n\n".join(_sections(card)) + "\n"


def _sections(card: Card) -> Iterator[str]:
    yield f"# {card['name']}"
    yield _summary(card)
    yield "## Use"
    for title, code in snippets.snippets(card):
        yield f"{title}\n\n```python\n{code}\n```"
    yield "## Inputs and outputs"
    yield _table(("file", "input", "dtype", "shape"), _input_rows(card))
    rows = [
        (f"`{output}`", v["dtype"], _shape(v["shape"]), v["meaning"])
        for output, v in card["outputs"].items()
    ]
    yield _table(("output", "dtype", "shape", "meaning"), rows)
    yield "## Preprocessing"
    yield _preprocessing(card)
    if card["scores"] is not None:
        yield "## Scores"
        yield _scores_text(card["scores"])
    yield "## Compared with Keras"
    yield (
        "Each file was run on batches of 1, 2 and 7 images before it was released. Largest "
        "difference from the Keras model's output, and as a fraction of its largest value:"
    )
    yield _table(("file", "run", "output", "difference", "relative"), _difference_rows(card))
    if card["quantization"]:
        yield "## Quantised files"
        yield quantization_text(card)
    yield "## Files"
    rows = [
        (f"`{path}`", f"{v['bytes']:,}", f"`{v['sha256']}`") for path, v in card["files"].items()
    ]
    yield _table(("file", "bytes", "SHA-256"), rows)
    yield "## Licence"
    yield card["licence"]
    yield "## Limits"
    yield "\n".join(f"- {limit}" for limit in card["limits"])
    yield "## Versions"
    yield ", ".join(f"{package} {version}" for package, version in card["versions"].items())


def _summary(card: Card) -> str:
    size = card["preprocessing"]["image_size"]
    dimensions = card["outputs"]["embedding"]["shape"][-1]
    options = ", ".join(f"{key}={value!r}" for key, value in card["arguments"].items())
    trained = "trained by an unknown method"
    if card["method"]:
        trained = f"trained by `{card['method']}`"
        trained += f" on `{card['dataset']}`" if card["dataset"] else ""
        trained += f", epoch {card['epoch']}" if card["epoch"] is not None else ""
    if "started_from" in card:
        started = card["started_from"]
        trained += f", from the weights `{started['weights']}` (SHA-256 `{started['sha256'][:12]}`)"
    return (
        f"A {dimensions}-dimensional embedding of a {size} x {size} RGB image. "
        f"Backbone `{card['backbone']}`{f' ({options})' if options else ''}, "
        f"{card['parameters']:,} parameters, {trained}."
    )


def _preprocessing(card: Card) -> str:
    rules = card["preprocessing"]
    mean, std = (", ".join(f"{value:.6g}" for value in rules[key]) for key in ("mean", "std"))
    return (
        f"RGB pixels from 0 to 255, {rules['image_size']} x {rules['image_size']}. Normalisation, "
        f"`(pixels / 255 - mean) / std` with mean {mean} and std {std}, is inside the SavedModel, "
        f"the ONNX and the LiteRT file. {rules['resize'][0].upper()}{rules['resize'][1:]}; the "
        "SavedModel's `image_bytes` does that as well."
    )


def _resize_rule(size: int) -> str:
    from rfd_tf.data.decode import evaluation_resize

    return (
        f"images of another size have their shorter side resized to {evaluation_resize(size)} "
        f"pixels (bilinear, antialiased), then the centre {size} x {size} is cut out"
    )


def _limits(
    record: Mapping[str, Any], size: int, feature: str, assumed: set[str], formats: set[str]
) -> list[str]:
    limits = [
        f"The input is {size} x {size} pixels; another size is another export (`--image_size`).",
        "Trained without labels: there are no class outputs. The features are those that helped "
        "with the training images; on very different ones they may be worth little.",
    ]
    if size != record["image_size"]:
        limits.append(f"Trained on {record['image_size']} x {record['image_size']} pixels.")
    if feature == "f1":
        limits.append("`embedding` changes when the image is rotated.")
    if "saved_model" in formats:
        limits.append(
            "`image_bytes` reads JPEG, PNG, GIF (the first frame), WebP (not animated) and "
            "uncompressed BMP of 8, 24 or 32 bits; one file that cannot be decoded fails its batch."
        )
    if {"onnx", "litert"} & formats:
        limits.append(
            "ONNX and LiteRT take pixels: decoding and resizing is the caller's. Resizing without "
            "antialiasing gives other features."
        )
    if "onnx" in formats:
        limits.append(TELEMETRY)
    if assumed & {"mean", "std"}:
        limits.append(
            "The weights did not say how their pixels were normalised; ImageNet's mean and "
            "standard deviation are an assumption."
        )
    if "feature" in assumed:
        limits.append(
            "The weights did not say where their feature is; the last endpoint is an assumption."
        )
    return limits


def _versions(formats: Iterable[str]) -> dict[str, str]:
    import rfd_tf

    versions = {"rfd_tf": rfd_tf.__version__, "python": platform.python_version()}
    packages = ["tensorflow", "keras", "numpy"]
    packages += [package for kind in formats for package in PACKAGES[kind]]
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # Installed under another name, as tensorflow-cpu is.
            module = importlib.import_module(package)
            versions[package] = getattr(module, "__version__", "unknown")
    return versions


def scores_of(source: Path) -> dict[str, Any] | None:
    """Returns the report of an evaluation of these very weights, if there is one beside them."""
    from rfd_tf.applications.weights import sha256

    try:
        report = json.loads((source.parent / SCORES_FILE).read_bytes())
    except (OSError, ValueError):
        # Scores are an extra: a report that cannot be read is not worth an export.
        return None
    keys = {"task", "name", "images", "metric", "when", "value", "random_init"}
    fits = (
        isinstance(report, dict)
        and report.get("sha256") == sha256(source)
        and isinstance(report.get("results"), list)
        and all(isinstance(row, dict) and keys <= set(row) for row in report["results"])
    )
    # (The path of the evaluated weights is left out: it is private.)
    return {key: value for key, value in report.items() if key != "weights"} if fits else None


def _scores_text(report: Mapping[str, Any]) -> str:
    from rfd_tf.evaluation.base import BEST_EPOCH
    from rfd_tf.evaluation.table import shown

    data = report.get("data", {})
    where = ""
    if {"num_test", "test", "num_train", "train"} <= set(data):
        where = (
            f" on {data['num_test']:,} test images ({data['test']}), "
            f"{data['num_train']:,} training images ({data['train']})"
        )
    if seen := data.get("trained_on"):
        where += f", of which pretraining has seen {seen:,} test images without labels"
    started = ["starting_weights"]
    if not any(row.get("starting_weights") is not None for row in report["results"]):
        started = []
    beside = " and with the weights that it started from" if started else ""
    rows = [
        (
            row["task"],
            f"`{row['name']}`",
            row["images"],
            ", ".join(part for part in (row["metric"], row["when"]) if part),
            shown(row["value"], row.get("spread"), row["metric"]),
            *(
                shown(row.get(name), row.get(f"{name}_spread"), row["metric"])
                for name in ("random_init", *started)
            ),
        )
        for row in report["results"]
    ]
    header = ("task", "feature", "test images", "metric", "value", "random init", *started)
    header = tuple(name.replace("_", " ") for name in header)
    protocols = report.get("protocol") or {}
    remarks = "".join(
        f"\n\n`{task}`: {protocols[task]['published']}."
        for task in dict.fromkeys(row["task"] for row in report["results"])
        if "published" in (protocols.get(task) or {})
    )
    if any(row["when"] == BEST_EPOCH for row in report["results"]):
        remarks += "\n\nBest epoch: chosen on the test images, so its score is too high."
    return (
        f"Scores in percent{where}, next to those of the same network with random weights{beside}."
        f"\n\n{_table(header, rows)}{remarks}"
    )


def _input_rows(card: Card) -> Iterator[tuple[str, ...]]:
    for kind, inputs in card["inputs"].items():
        signatures = inputs if kind == "saved_model" else {"": inputs}
        for signature, named in signatures.items():
            for name, spec in named.items():
                label = f"{snippets.FILES[kind]}{f', `{signature}`' if signature else ''}"
                values = f"{spec['dtype']}{' (normalised)' if kind == 'keras' else ''}"
                yield label, f"`{name}`", values, _shape(spec["shape"])


def _difference_rows(card: Card) -> Iterator[tuple[str, ...]]:
    for kind, runs in card["verification"].items():
        for run, outputs in runs.items():
            for output, agreement in outputs.items():
                yield (
                    snippets.FILES[kind],
                    run,
                    f"`{output}`",
                    f"{agreement['largest_difference']:.2g}",
                    f"{agreement['relative_difference']:.2g}",
                )


def quantization_text(card: Card) -> str:
    """Returns how the quantised files differ from the float32 ones, as Markdown."""
    rows, evaluated = [], []
    calibrations = [found.get("calibration", {}) for found in card["quantization"].values()]
    overlap = any(each.get("evaluated") for each in calibrations)
    apart = "" if overlap else " that were not used for the calibration"
    for kind, found in card["quantization"].items():
        text = f"`{found['file']}`: {found['images']:,} images ({found['measured_on']})"
        if "calibration" in found:
            same = found["calibration"].get("evaluated")
            text += f", calibrated with {found['calibration']['images']:,} "
            text += "images, among them these: there were too few" if same else "others"
        if "measured_with" in found:
            text += f"; {found['measured_with']}"
        evaluated.append(text)
        for output, agreement in found["outputs"].items():
            knn = found.get("knn") if output == "embedding" else None
            rows.append((
                f"`{found['file']}`",
                f"`{output}`",
                f"{agreement['cosine']:.5f}",
                f"{agreement['lowest_cosine']:.5f}",
                f"{agreement['largest_difference']:.2g}",
                f"{agreement['relative_difference']:.2g}",
                f"{100 * knn['float32']:.1f} -> {100 * knn[kind]:.1f}" if knn else "",
            ))  # fmt: skip
    header = ("file", "output", "mean cosine", "lowest cosine", "difference", "relative",
              "kNN accuracy, %")  # fmt: skip
    return (
        "Inputs and outputs are those of the float32 files in the code above. Compared with "
        f"float32 on images{apart}: cosine of the outputs, largest "
        "difference, also as a fraction of the largest value, and for labelled images the accuracy "
        f"of kNN in float32 -> in the file.\n\n{_table(header, rows)}\n\n"
        + ". ".join(evaluated)
        + "."
    )


def _shape(shape: Iterable[Any]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
