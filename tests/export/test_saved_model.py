import io
import json
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
import warm_python
from export_helpers import RECORD, numpy_embedding
from PIL import Image

from rfd_tf.data.decode import evaluation_transform
from rfd_tf.data.image_files import to_rgb
from rfd_tf.errors import UserError
from rfd_tf.export import find_saved_model

# Runs the code of a card where neither this package nor Keras' models can be imported.
WITHOUT_RFD_TF = """
import json, sys
sys.modules["rfd_tf"] = sys.modules["keras"] = None
code = json.load(sys.stdin)
exec(code)
# The other signature, on the same photograph's pixels, in batches of 1, 7 and 64.
pixels = tf.io.decode_jpeg(photo[0], dct_method="INTEGER_ACCURATE")
for size in (1, 7, 64):
    batch = tf.repeat(pixels[None], size, axis=0)
    given = model.signatures["serving_default"](pixels=batch)["embedding"]
    assert given.shape == (size, embedding.shape[1])
    tf.debugging.assert_near(given, tf.repeat(embedding, size, axis=0), atol=1e-4)
print(json.dumps(embedding.numpy().tolist()))
"""


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported[0] / "saved_model" / "1"))


def test_signatures_have_the_promised_names_and_shapes(loaded):
    assert set(loaded.signatures) == {"serving_default", "image_bytes"}
    pixels = loaded.signatures["serving_default"].structured_input_signature[1]
    files = loaded.signatures["image_bytes"].structured_input_signature[1]
    assert {k: (v.dtype, v.shape.as_list()) for k, v in pixels.items()} == {
        "pixels": (tf.uint8, [None, 32, 32, 3])
    }
    assert {k: (v.dtype, v.shape.as_list()) for k, v in files.items()} == {
        "image_bytes": (tf.string, [None])
    }
    for signature in loaded.signatures.values():
        outputs = {k: v.shape.as_list() for k, v in signature.structured_outputs.items()}
        assert outputs == {"embedding": [None, 64], "block2": [None, 16, 16, 12]}


def test_pixels_give_the_features_of_keras_in_any_batch(loaded, backbone, pixels):
    expected = numpy_embedding(backbone, RECORD, pixels)
    for size in (1, 3, 5):
        outputs = loaded.signatures["serving_default"](pixels=tf.constant(pixels[:size]))
        np.testing.assert_allclose(outputs["embedding"], expected[:size], atol=1e-5)
        assert outputs["block2"].shape == (size, 16, 16, 12)


def test_files_of_every_kind_give_the_features_of_their_pixels(loaded, backbone):
    noise = np.random.default_rng(2).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC)
    alpha = photo.convert("RGBA")
    alpha.putalpha(photo.convert("L"))
    files, decoded = [], []
    for image, kind in [
        (photo, "JPEG"), (photo.convert("L"), "JPEG"), (photo, "PNG"), (photo.convert("L"), "PNG"),
        (alpha, "PNG"), (photo.quantize(30), "PNG"), (photo, "BMP"), (photo.quantize(30), "GIF"),
        (photo.resize((32, 32)), "PNG"),
    ]:  # fmt: skip
        file = io.BytesIO()
        image.save(file, kind)
        files.append(file.getvalue())
        decoded.append(np.asarray(to_rgb(Image.open(file))))
    pixels = np.stack([evaluation_transform(tf.constant(image), 32) for image in decoded])
    expected = numpy_embedding(backbone, RECORD, pixels)
    outputs = loaded.signatures["image_bytes"](image_bytes=tf.constant(files))
    # A JPEG decoded by another build of libjpeg may be one grey level off here and there.
    np.testing.assert_allclose(outputs["embedding"], expected, atol=0.01 * np.abs(expected).max())
    lossless = [n for n in range(len(files)) if n > 1]
    np.testing.assert_allclose(
        outputs["embedding"].numpy()[lossless], expected[lossless], atol=1e-5
    )


def test_the_layout_is_that_of_tensorflow_serving(exported, tmp_path):
    base = exported[0] / "saved_model"
    # A folder of versions, named by numbers alone, and nothing beside them.
    assert [path.name for path in base.iterdir()] == ["1"]
    assert {path.name for path in (base / "1").iterdir()} >= {"saved_model.pb", "variables"}
    for place in (exported[0], base, base / "1"):
        assert find_saved_model(place) == base / "1"
    # One without versions, as earlier exports have, is found as well.
    shutil.copytree(base / "1", tmp_path / "old" / "saved_model")
    assert find_saved_model(tmp_path / "old") == tmp_path / "old" / "saved_model"
    with pytest.raises(UserError, match="no SavedModel in .*neither saved_model.pb, nor a version"):
        find_saved_model(tmp_path)


def test_weights_are_written_once(exported, backbone):
    data = exported[0] / "saved_model" / "1" / "variables" / "variables.data-00000-of-00001"
    assert data.stat().st_size < 1.3 * 4 * backbone.count_params()


def test_it_loads_where_this_package_is_not_installed(exported, tmp_path, backbone):
    from rfd_tf.export.snippets import snippets

    folder, card = exported
    photo = Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.jpg", quality=95)
    shutil.copytree(folder / "saved_model", tmp_path / "saved_model")
    (code,) = [code for title, code in snippets(card) if title.startswith("SavedModel")]
    done = subprocess.run(
        [*warm_python.command(), "-c", WITHOUT_RFD_TF],
        input=json.dumps(code), capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(tmp_path / "photo.jpg"))[None]
    expected = numpy_embedding(backbone, RECORD, pixels)
    embedding = np.array(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(embedding, expected, atol=0.01 * np.abs(expected).max())
