"""Weights, checkpoints and pictures that somebody else made."""

import http.client
import io
import json
import types

import caffe_files
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from explore_helpers import SIZE, make_explorer, make_images, make_run, serving
from fuzzing import anything, nothing_outside, refused
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from rfd_tf import applications
from rfd_tf.applications import caffe_import
from rfd_tf.applications.caffemodel import read_caffemodel
from rfd_tf.errors import UserError
from rfd_tf.evaluation.heads import load_heads
from rfd_tf.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    make_run(folder)
    return folder


def _pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = []
    for mode, kind, options in (
        ("RGB", "JPEG", {"exif": exif}), ("CMYK", "JPEG", {}), ("RGB", "PNG", {}), ("P", "PNG", {}),
        ("RGBA", "PNG", {}), ("P", "GIF", {}), ("RGB", "BMP", {}), ("P", "BMP", {}),
        ("RGB", "WEBP", {"exif": exif}), ("RGBA", "WEBP", {"lossless": True}), ("RGB", "TIFF", {}),
        ("RGB", "PPM", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **options)
        encoded.append(file.getvalue())
    return encoded


PICTURES = _pictures()
VAST = PICTURES[2][:16] + (20_000).to_bytes(4, "big") * 2 + PICTURES[2][24:]


def test_heads(run):
    good = (run / "heads.npz").read_bytes()
    target = run.parent / "heads"
    target.mkdir()

    @given(content=anything(good))
    def check(content):
        (target / "heads.npz").write_bytes(content)
        refused(lambda: load_heads(target))

    check()


def test_caffe_models(tmp_path):
    rng = np.random.default_rng(0)
    blobs = [rng.normal(size=(4, 3, 2, 2)), rng.normal(size=4)]
    good = caffe_files.layer("conv1", "Convolution", "data", "conv1", blobs, stride=4)
    sums = [np.zeros(4), np.ones(4), np.ones(1)]
    good += caffe_files.layer("bn1", "BatchNorm", "conv1", "conv1", sums, epsilon=1e-3)
    good += caffe_files.old_layer("conv2", 4, "conv1", "conv2", [rng.normal(size=(2, 2, 1, 1))])
    path = tmp_path / "net.caffemodel"

    @given(content=anything(good))
    def check(content):
        path.write_bytes(content)
        refused(lambda: caffe_import.alexnet_from(read_caffemodel(path)))

    check()


def test_checkpoints(tmp_path):
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(layer.trainable_variables)
    path = checkpoint.save(tmp_path / "step-000000001.npz", layer, optimizer, {"step": 1})
    good = path.read_bytes()

    @given(content=anything(good))
    @example(content=good.replace(b"'<f4'", b"'|O4'"))
    @example(content=good.replace(b'{"format"', b'["format"'))
    def check(content):
        path.write_bytes(content)
        before = [np.array(variable) for variable in layer.variables]
        if refused(lambda: checkpoint.load(path, layer, optimizer), tmp_path) is None:
            after = [np.array(variable) for variable in layer.variables]
            assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))

    check()


def test_weights(run):
    good = (run / "backbone.weights.h5").read_bytes()
    with h5py.File(run / "backbone.weights.h5") as file:
        record = file.attrs["rfd_tf"].encode()
    start = good.index(record)
    target = run.parent / "weights"
    target.mkdir()

    # (HDF5's own structures are checked by its library. Here it is the record, and what is cut.)
    @settings(max_examples=settings.default.max_examples // 2)
    @given(changed=anything(record), cut=st.none() | st.integers(0, len(good) - 1))
    def check(changed, cut):
        changed = changed[: len(record)].ljust(len(record))
        content = good[:start] + changed + good[start + len(record) :]
        (target / "backbone.weights.h5").write_bytes(content[:cut])
        refused(lambda: applications.load_backbone(target), target)

    check()


def test_weights_that_point_to_other_files(run):
    content = np.frombuffer((run / "run.json").read_bytes().ljust(16), "uint8")
    path = run.parent / "pointing.weights.h5"
    path.write_bytes((run / "backbone.weights.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        places = []
        file.visititems(lambda name, item: places.append(name) if "/vars/" in name else None)
        shape = file[places[0]].shape
        del file[places[0]]
        size = 4 * int(np.prod(shape))
        (run.parent / "secret.bin").write_bytes(content.tobytes().ljust(size)[:size])
        external = [(str(run.parent / "secret.bin"), 0, size)]
        file.create_dataset(places[0], shape, "float32", external=external)
    with pytest.raises(UserError, match="points to another file"):
        applications.load_backbone(path)


def test_keras_files_that_carry_code(tmp_path):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    model.save(tmp_path / "backbone.keras")
    from rfd_tf.export.verify import verify_keras

    with pytest.raises(Exception, match="(?i)safe|lambda"):
        verify_keras(tmp_path / "backbone.keras", {}, types.SimpleNamespace(), {})


def test_the_saved_model_s_image_bytes(run, tmp_path_factory):
    from rfd_tf.export import export_backbone, find_saved_model

    target = tmp_path_factory.mktemp("out") / "exported"
    export_backbone(run, target, ("saved_model",))
    version = find_saved_model(target / "saved_model")
    model = tf.saved_model.load(str(version)).signatures["image_bytes"]

    @given(content=anything(*PICTURES))
    @example(content=b"")
    @example(content=VAST)
    @example(content=b"\xff\xd8\xff\xe1\x00\x02" * 9)
    @example(content=b"BM" + bytes(60))
    @example(content=b"BM\xff")
    @example(content=b"RIFF\xff")
    @example(content=PICTURES[2][:20])
    @example(content=PICTURES[7][:14] + b"\xff\xff\xff\x7f" + PICTURES[7][18:])
    def check(content):
        with nothing_outside():
            try:
                (embedding,) = model(image_bytes=tf.constant([content]))["embedding"].numpy()
            except tf.errors.InvalidArgumentError:
                return  # the documented refusal
            assert np.isfinite(embedding).all()

    check()


def test_uploads_to_the_explore_page(run, tmp_path_factory):
    source = make_images(tmp_path_factory.mktemp("set"), 20)
    explorer = make_explorer(run, source)
    with serving(explorer) as server:
        host, port = server.server_address[:2]

        def ask(method, path, body=None, **headers):
            connection = http.client.HTTPConnection(host, port, timeout=240)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())
            finally:
                connection.close()

        @given(content=anything(*PICTURES))
        @example(content=b"")
        @example(content=VAST)
        def upload(content):
            status, answer = ask("POST", "/api/upload", content, **{"Content-Type": "image/png"})
            assert status in (200, 400, 413), (status, answer)
            assert ("upload" in answer) == (status == 200)
            if status == 200:
                look = ask("GET", f"/api/look?upload={answer['upload']}&angle=30")
                assert look[0] == 200

        @given(
            path=st.sampled_from(["look", "curve", "image", "occlusion", "set", "..%2f", "none"]),
            query=st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"])),
            number=st.sampled_from(["0", "-1", "1e9", "99999", "0x1", "%00", "", "nan"]),
        )
        def look(path, query, number):
            if path == "image" and number == "0":
                return  # a picture, not JSON
            status, answer = ask("GET", f"/api/{path}?image={number}&{query.replace('#', '')}")
            assert status in (200, 400, 404), (status, answer)

        upload()
        look()
    assert SIZE == explorer.network.image_size
