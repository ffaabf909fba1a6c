"""The code on a model card. Each piece runs unchanged in the folder of the export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FILES = {
    "saved_model": "`saved_model/`",
    "onnx": "`model.onnx`",
    "litert": "`model.tflite`",
    "keras": "`backbone.keras`",
}


def snippets(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (introduction, Python code) for every file of an export.

    Each piece reads an image from `photo.jpg` and prints the embedding's shape.

    Args:
        card: the card's dict; read are `formats`, `inputs`, `feature`, `preprocessing`, `onnx`.
    """
    writers = {"saved_model": _saved_model, "onnx": _onnx, "litert": _litert, "keras": _keras}
    for kind in card["formats"]:
        yield writers[kind](card)
    yield _weights(card)


def _saved_model(card: dict[str, Any]) -> tuple[str, str]:
    folder = card["saved_model"]["folder"]
    code = f"""\
from pathlib import Path

import tensorflow as tf

model = tf.saved_model.load("{folder}")
photo = tf.constant([Path("photo.jpg").read_bytes()])
embedding = model.signatures["image_bytes"](image_bytes=photo)["embedding"]
print(embedding.shape)"""
    return "SavedModel, with TensorFlow alone:", code


def _onnx(card: dict[str, Any]) -> tuple[str, str]:
    prepare = "pixels = np.asarray(image)[None]"
    if card["inputs"]["onnx"]["pixels"]["dtype"] == "float32":
        prepare = 'pixels = np.asarray(image, dtype="float32")[None]'
    if card["onnx"]["layout"] == "nchw":
        prepare += ".transpose(0, 3, 1, 2)"
    code = f"""\
import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: onnxruntime reports nothing
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{_image(card)}
{prepare}
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
(embedding,) = session.run(["embedding"], {{"pixels": pixels}})
print(embedding.shape)"""
    return "ONNX, with onnxruntime:", code


def _litert(card: dict[str, Any]) -> tuple[str, str]:
    code = f"""\
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

{_image(card)}
model = Interpreter("model.tflite").get_signature_runner()
embedding = model(pixels=np.asarray(image)[None])["embedding"]
print(embedding.shape)"""
    return "LiteRT, with ai-edge-litert:", code


def _keras(card: dict[str, Any]) -> tuple[str, str]:
    feature, rules = card["feature"], card["preprocessing"]
    pooling = "max" if feature["pooling"] == "max" else "mean"
    pooled = f".{pooling}(axis=(1, 2))" if feature["from_map"] else ""
    code = f"""\
import keras
import numpy as np
from PIL import Image, ImageOps

{_image(card)}
mean, std = {rules["mean"]}, {rules["std"]}
normalised = (np.asarray(image, dtype="float32")[None] / 255 - mean) / std
backbone = keras.models.load_model("backbone.keras")
model = keras.Model(backbone.inputs, backbone.get_layer("{feature["endpoint"]}").output)
embedding = model.predict(normalised, verbose=0){pooled}{_channels(card)}
print(embedding.shape)"""
    return "Keras file, with Keras alone; it takes normalised pixels:", code


def _weights(card: dict[str, Any]) -> tuple[str, str]:
    feature, rules = card["feature"], card["preprocessing"]
    code = f"""\
import numpy as np
from PIL import Image, ImageOps
from rfd_tf.applications import load_backbone, pooled_feature_model, preprocess_input

{_image(card)}
backbone, record = load_backbone("backbone.weights.h5", image_size={rules["image_size"]})
model = pooled_feature_model(backbone, "{feature["endpoint"]}", pooling="{feature["pooling"]}")
mean, std = {rules["mean"]}, {rules["std"]}
images = preprocess_input(np.asarray(image)[None], mean=mean, std=std)
embedding = model.predict(images, verbose=0){_channels(card)}
print(embedding.shape)"""
    return "Weights, with rfd_tf, to go on training:", code


def _image(card: dict[str, Any]) -> str:
    from rfd_tf.data.decode import evaluation_resize

    size = card["preprocessing"]["image_size"]
    resized = evaluation_resize(size)
    if resized == size:
        bleed = ""
    else:
        # ImageOps.fit first drops this share of each border: the margin around the centre crop.
        bleed = f", bleed={(1 - size / resized) / 2:.6g}"
    return f"""\
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
image = ImageOps.fit(image, ({size}, {size}), Image.Resampling.BILINEAR{bleed})"""


def _channels(card: dict[str, Any]) -> str:
    start, stop = card["feature"]["channels"]
    return f"[:, {start}:{stop}]" if card["feature"]["name"] != "f" else ""
