"""SavedModel: one signature on pixels, one on encoded images."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from rfd_tf.errors import UserError
from rfd_tf.export.decoding import pixels_from_bytes
from rfd_tf.paths import expanded

PIXELS = "serving_default"
BYTES = "image_bytes"
FOLDER = "saved_model"
_GRAPH = "saved_model.pb"


def find_saved_model(directory: str | Path) -> Path:
    """Returns the folder that `tf.saved_model.load` takes.

    Args:
        directory: that folder itself; or one of versions, as TensorFlow Serving watches it
            (`saved_model/`, the highest version counts); or the folder of an export.

    Raises:
        UserError: there is no SavedModel.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for version in ("9", "10"):
    ...     (folder / "saved_model" / version).mkdir(parents=True)
    ...     (folder / "saved_model" / version / "saved_model.pb").touch()
    >>> find_saved_model(folder).relative_to(folder).as_posix()
    'saved_model/10'
    """
    directory = expanded(directory)
    for place in (directory, directory / FOLDER):
        if (place / _GRAPH).is_file():
            return place
        versions = [path.parent for path in place.glob(f"*/{_GRAPH}")]
        numbered = [path for path in versions if path.name.isdecimal()]
        if numbered:
            return max(numbered, key=lambda path: int(path.name))
    raise UserError(
        f"no SavedModel in '{directory}': neither {_GRAPH}, nor a version (1/{_GRAPH}), nor the "
        f"{FOLDER}/ of an export"
    )


@contextlib.contextmanager
def loadable(directory: Path) -> Iterator[Path]:
    """Gives a path of a SavedModel that TensorFlow can load, whatever the folders are called.

    TensorFlow looks for the variables by a pattern, in which `[`, `*`, `?` and a backslash have a
    meaning: a path with one of them is given another name meanwhile.
    """
    directory = directory.resolve()
    if not set(str(directory)) & set("[]*?\\"):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="saved_model_") as folder:
        link = Path(folder) / "model"
        try:
            link.symlink_to(directory, target_is_directory=True)
        except OSError:  # file systems without links
            shutil.copytree(directory, link)
        yield link


def write_saved_model(
    model: keras.Model, directory: str | Path, *, files: bool = True, stretch: bool = True
) -> None:
    """Writes a SavedModel with the signatures `serving_default` and `image_bytes`.

    - `serving_default`: input `pixels`, uint8 `[batch, S, S, 3]`, RGB.
    - `image_bytes`: input `image_bytes`, string `[batch]`: JPEG, PNG, BMP, GIF or WebP files of any
      sizes, which `rfd_tf.export.decoding.pixels_from_bytes` brings to S x S. (TensorFlow Serving
      reads base64 into inputs whose name ends in `_bytes`.)

    Both give float32 tensors named as the model's outputs, and take a batch of any size. Loading
    it needs TensorFlow alone.

    Args:
        model: what `deployable` gives: pixels 0-255 `[batch, S, S, 3]` to a dict of features.
        directory: where to write.
        files: whether to write `image_bytes`, too.
        stretch: whether `image_bytes` stretches grey PNGs of 16 bits, as the run read its images.

    >>> import tempfile
    >>> from rfd_tf import applications
    >>> from rfd_tf.export import deployable
    >>> network = applications.build("six_layer", 32)
    >>> record = {"mean": [0.5] * 3, "std": [0.25] * 3,
    ...           "feature": {"endpoint": "block6", "pooling": "avg"}}
    >>> folder = tempfile.mkdtemp()
    >>> write_saved_model(deployable(network, record), folder)
    >>> photo = tf.io.encode_jpeg(tf.zeros((40, 50, 3), "uint8"))
    >>> loaded = tf.saved_model.load(folder)
    >>> loaded.signatures["image_bytes"](image_bytes=photo[None])["embedding"].shape
    TensorShape([1, 128])
    """
    image_size = model.input_shape[1]

    pixel_batch = tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name="pixels")
    file_batch = tf.TensorSpec([None], tf.string, name="image_bytes")

    @tf.function(input_signature=[pixel_batch], autograph=False)
    def features(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return model(tf.cast(pixels, tf.float32), training=False)

    @tf.function(input_signature=[file_batch], autograph=False)
    def features_of_files(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return features(pixels_from_bytes(image_bytes, image_size, stretch))

    # Not keras.export.ExportArchive: it writes every variable twice.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    signatures = {PIXELS: features, **({BYTES: features_of_files} if files else {})}
    tf.saved_model.save(module, str(expanded(directory)), signatures=signatures)
