"""Is the exported file the same function as the Keras model? Runs both and compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rfd_tf.paths import expanded

if TYPE_CHECKING:
    import keras

BATCH_SIZES = (1, 2, 7)
TOLERANCE = 1e-4

Features = Mapping[str, np.ndarray]
Report = dict[str, dict[str, float]]


class ExportMismatch(RuntimeError):
    """An exported file gives other features than the Keras model it was made from.

    >>> compare("example", {"embedding": np.ones(2)}, {"f": np.ones(2)})
    Traceback (most recent call last):
    ...
    rfd_tf.export.verify.ExportMismatch: example gives ['f'], not ['embedding']
    """


def verification_images(image_size: int, count: int = sum(BATCH_SIZES)) -> np.ndarray:
    """Returns images to compare models on: always the same ones, noise and structure in turn.

    The structured ones tell left from right, top from bottom and red from blue, so that a
    transposed or mirrored input, or swapped channels, cannot go unnoticed.

    Args:
        image_size: height and width in pixels.
        count: how many.

    Returns:
        uint8 `[count, image_size, image_size, 3]`.

    >>> verification_images(32).shape
    (10, 32, 32, 3)
    """
    rng = np.random.default_rng(20)
    down, right = np.mgrid[0:image_size, 0:image_size] / max(1, image_size - 1)
    images = []
    for number in range(count):
        if number % 2:
            image = rng.uniform(0, 256, (image_size, image_size, 3))
        else:
            slope = rng.uniform(-1, 1, (3, 2))
            waves = rng.uniform(1, 6, (3, 2))
            plane = down[..., None] * slope[:, 0] + right[..., None] * slope[:, 1]
            wave = np.sin(6.28 * (down[..., None] * waves[:, 0] + right[..., None] * waves[:, 1]))
            image = 128 + 90 * plane + 60 * wave
        images.append(image)
    if count > 3:
        # Saturated pixels are common in photographs, and the extremes of the input.
        images[3][: image_size // 2] = 255
        images[3][image_size // 2 :, : image_size // 2] = 0
    return np.clip(np.stack(images), 0, 255).astype(np.uint8)


def verification_files(image_size: int) -> tuple[list[bytes], np.ndarray]:
    """Returns image files that have to be resized, and how the evaluation reads them.

    Args:
        image_size: height and width in pixels, S.

    Returns:
        `(files, pixels)`: PNG files (lossless, so that every decoder reads the same) of a wide, a
        high and a large image, and their pixels uint8 `[3, S, S, 3]`.
    """
    import tensorflow as tf

    from rfd_tf.data.decode import evaluation_transform

    source = verification_images(2 * image_size, 3)
    images = [source[0][:image_size], source[1][:, : image_size + 3], source[2]]
    pixels = np.stack([evaluation_transform(tf.constant(v), image_size).numpy() for v in images])
    return [tf.io.encode_png(image).numpy() for image in images], pixels


def reference_features(
    model: keras.Model,
    record: Mapping[str, Any],
    images: np.ndarray,
    *,
    feature: str = "f",
    endpoints: Iterable[str] = (),
    outputs: Iterable[str] = (),
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the features that an export must give, from the backbone itself.

    It does not go through `deployable`: normalisation, pooling and splitting are done again here,
    in NumPy.

    Args:
        model: the backbone that was loaded, on normalised images `[batch, S, S, 3]`.
        record: its record (`mean`, `std`, `feature`).
        images: uint8 `[N, S, S, 3]`.
        feature: `"f"`, `"f1"` or `"f2"`.
        endpoints: names of layers.
        outputs: names of further outputs, see `deployable`.
        heads: the trained heads: name -> (kernel, bias).

    Returns:
        float32 arrays: `embedding` `[N, D]`, the endpoints and the further outputs by name.
    """
    from rfd_tf.applications import feature_extractor
    from rfd_tf.export.features import EMBEDDING, FEATURES, HEAD_OUTPUTS, feature_range, head_range

    endpoints = list(endpoints)
    place = record["feature"]["endpoint"]
    mean, std = (np.asarray(record[key], np.float64) for key in ("mean", "std"))
    normalised = ((images / 255.0 - mean) / std).astype(np.float32)
    extractor = feature_extractor(model, list(dict.fromkeys([place, *endpoints])))
    maps = extractor(normalised, training=False)
    maps = {name: np.asarray(value, np.float32) for name, value in maps.items()}
    pooled = maps[place]
    if pooled.ndim > 2:
        axes = tuple(range(1, pooled.ndim - 1))
        highest = record["feature"].get("pooling") == "max"
        pooled = pooled.max(axis=axes) if highest else pooled.mean(axis=axes)
    start, stop = feature_range(dict(record), feature)
    given = {EMBEDDING: pooled[:, start:stop], **{name: maps[name] for name in endpoints}}
    for name in outputs:
        if name in FEATURES:
            start, stop = feature_range(dict(record), name)
            given[name] = pooled[:, start:stop]
        else:
            start, stop = head_range(dict(record), name)
            head, part = HEAD_OUTPUTS[name][0], pooled[:, start:stop]
            if f"{head}_hidden" in heads:
                kernel, bias = heads[f"{head}_hidden"]
                part = np.maximum(part @ kernel + bias, 0)
            kernel, bias = heads[head]
            given[name] = part @ kernel + bias
    return given


def compare(
    what: str, expected: Features, actual: Features, tolerance: float = TOLERANCE
) -> Report:
    """Compares features by name.

    Args:
        what: what is compared, for the message.
        expected: arrays by name, from the Keras model.
        actual: arrays by name, from the exported file.
        tolerance: largest absolute difference allowed, as a fraction of the largest magnitude
            among the expected values of that output.

    Returns:
        For each output: `largest_difference` (absolute), `largest_value` (the largest expected
        magnitude), `relative_difference` (their ratio).

    Raises:
        ExportMismatch: names, shapes or values differ, or values are not finite.

    >>> compare("example", {"embedding": np.ones(2)}, {"embedding": np.array([1, 1.5])}, 0.6)
    {'embedding': {'largest_difference': 0.5, 'largest_value': 1.0, 'relative_difference': 0.5}}
    """
    if set(expected) != set(actual):
        raise ExportMismatch(f"{what} gives {sorted(actual)}, not {sorted(expected)}")
    report: Report = {}
    for name, values in expected.items():
        got = np.asarray(actual[name])
        if got.shape != values.shape:
            raise ExportMismatch(f"{what}: '{name}' has shape {got.shape}, not {values.shape}")
        if not np.isfinite(values).all():
            raise ExportMismatch(
                f"the weights give '{name}' values that are not finite: there is nothing to export"
            )
        difference = float(np.abs(got.astype(np.float64) - values).max())
        scale = float(np.abs(values).max())
        relative = difference / max(scale, float(np.finfo(np.float32).tiny))
        # Written so that a difference that is not a number fails.
        if not relative <= tolerance:
            raise ExportMismatch(
                f"{what}: '{name}' differs from Keras by {difference:.3g}, {relative:.2g} of its "
                f"largest value {scale:.3g}; allowed is {tolerance:.2g}"
            )
        report[name] = {
            "largest_difference": difference,
            "largest_value": scale,
            "relative_difference": relative,
        }
    return report


def verify_saved_model(
    directory: str | Path,
    images: np.ndarray,
    expected: Features,
    *,
    files: Iterable[bytes] = (),
    expected_files: Features | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Report]:
    """Loads a SavedModel, runs both signatures and compares them with Keras.

    `image_bytes` is run on the images as PNG files, which must give the features of their pixels,
    and on further files where they are given.

    Args:
        directory: what `write_saved_model` wrote, or where `find_saved_model` finds it.
        images: uint8 `[N, S, S, 3]`, run in batches of `BATCH_SIZES`.
        expected: the Keras model's features of `images`.
        files: image files of other sizes and kinds.
        expected_files: the Keras model's features of those.
        tolerance: see `compare`.

    Returns:
        `compare`'s report for `serving_default`, `image_bytes` and, if files were given,
        `image_bytes_other_sizes`.

    Raises:
        ExportMismatch: see `compare`.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, write_saved_model
    >>> network = applications.build("six_layer", 32)
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> folder, images = tempfile.mkdtemp(), verification_images(32)
    >>> write_saved_model(deployable(network, record), folder)
    >>> expected = reference_features(network, record, images)
    >>> sorted(verify_saved_model(folder, images, expected))
    ['image_bytes', 'serving_default']
    """
    import tensorflow as tf

    from rfd_tf.export.saved_model import find_saved_model, loadable

    with loadable(find_saved_model(directory)) as place:
        loaded = tf.saved_model.load(str(place))

    def run(signature: str) -> Callable[[Any], dict[str, np.ndarray]]:
        function = loaded.signatures[signature]
        (name,) = function.structured_input_signature[1]

        def call(batch: Any) -> dict[str, np.ndarray]:
            return {k: v.numpy() for k, v in function(**{name: tf.constant(batch)}).items()}

        return call

    as_files = [tf.io.encode_png(image).numpy() for image in images]
    what = "SavedModel, {}".format
    report = {
        "serving_default": compare(
            what("serving_default"),
            expected,
            _in_batches(run("serving_default"), images),
            tolerance,
        ),
        "image_bytes": compare(
            what("image_bytes"), expected, _in_batches(run("image_bytes"), as_files), tolerance
        ),
    }
    files = list(files)
    if files:
        report["image_bytes_other_sizes"] = compare(
            what("image_bytes on other sizes"),
            expected_files or {},
            run("image_bytes")(files),
            tolerance,
        )
    return report


def verify_onnx(
    path: str | Path, images: np.ndarray, expected: Features, *, tolerance: float = TOLERANCE
) -> dict[str, Report]:
    """Runs an ONNX file in onnxruntime on the CPU and compares it with Keras.

    Args:
        path: what `write_onnx` wrote; dtype and layout of the input are read from it.
        images: uint8 `[N, S, S, 3]`, run in batches of `BATCH_SIZES`.
        expected: the Keras model's features of `images`.
        tolerance: see `compare`.

    Returns:
        `compare`'s report under `onnxruntime`.

    Raises:
        ExportMismatch: see `compare`.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, write_onnx
    >>> network = applications.build("six_layer", 32)
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path, images = tempfile.mkdtemp() + "/model.onnx", verification_images(32)
    >>> _ = write_onnx(deployable(network, record), path)
    >>> list(verify_onnx(path, images, reference_features(network, record, images)))
    ['onnxruntime']
    """
    from rfd_tf.export.onnx_model import OnnxModel

    call = OnnxModel(path)
    return {"onnxruntime": compare("ONNX", expected, _in_batches(call, images), tolerance)}


def verify_litert(
    path: str | Path, images: np.ndarray, expected: Features, *, tolerance: float = TOLERANCE
) -> dict[str, Report]:
    """Runs a LiteRT file on the CPU and compares it with Keras.

    Args:
        path: what `write_litert` wrote.
        images: uint8 `[N, S, S, 3]`, run in batches of `BATCH_SIZES`.
        expected: the Keras model's features of `images`.
        tolerance: see `compare`.

    Returns:
        `compare`'s report under the interpreter's name, `ai-edge-litert` or `tensorflow.lite`, and
        its version.

    Raises:
        ExportMismatch: see `compare`.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable, write_litert
    >>> network = applications.build("six_layer", 32)
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path, images = tempfile.mkdtemp() + "/model.tflite", verification_images(32)
    >>> write_litert(deployable(network, record), path)
    >>> len(verify_litert(path, images, reference_features(network, record, images)))
    1
    """
    from rfd_tf.export import litert

    call = litert.LiteRTModel(path)
    return {litert.description(): compare("LiteRT", expected, _in_batches(call, images), tolerance)}


def verify_keras(
    path: str | Path,
    record: Mapping[str, Any],
    images: np.ndarray,
    expected: Features,
    *,
    feature: str = "f",
    endpoints: Iterable[str] = (),
    outputs: Iterable[str] = (),
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Report]:
    """Loads a `.keras` file of a backbone and compares its features with those of the original.

    Args:
        path: what `rfd_tf.applications.portable(model).save(...)` wrote.
        record: the backbone's record.
        images: uint8 `[N, S, S, 3]`, run in batches of `BATCH_SIZES`.
        expected: the original's features of `images`.
        feature: `"f"`, `"f1"` or `"f2"`.
        endpoints: names of layers.
        outputs, heads: see `reference_features`.
        tolerance: see `compare`.

    Returns:
        `compare`'s report under `keras`.

    Raises:
        ExportMismatch: see `compare`.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> network = applications.build("six_layer", 32)
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> path, images = tempfile.mkdtemp() + "/backbone.keras", verification_images(32)
    >>> applications.portable(network).save(path)
    >>> list(verify_keras(path, record, images, reference_features(network, record, images)))
    ['keras']
    """
    import keras

    model = keras.models.load_model(str(expanded(path)), compile=False, safe_mode=True)

    def call(batch: Any) -> dict[str, np.ndarray]:
        return reference_features(
            model, record, batch, feature=feature, endpoints=endpoints, outputs=outputs, heads=heads
        )

    return {"keras": compare("the .keras file", expected, _in_batches(call, images), tolerance)}


def _in_batches(call: Callable[[Any], Features], items: Any) -> dict[str, np.ndarray]:
    """Runs `call` on batches of `BATCH_SIZES`, again and again until the items are used up."""
    batches, start = [], 0
    while start < len(items):
        size = BATCH_SIZES[len(batches) % len(BATCH_SIZES)]
        batches.append(call(items[start : start + size]))
        start += size
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
