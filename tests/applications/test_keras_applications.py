"""Networks of keras.applications under this package's names and convention."""

import keras
import numpy as np
import pytest

from rfd_tf.applications import (
    BACKBONES,
    build,
    endpoints,
    portable,
    preprocess_input,
    save_backbone,
)
from rfd_tf.applications.keras_applications import snake_case
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization

NAMES = (
    "mobilenet mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 efficientnet_b7 "
    "efficientnet_v2_b0 efficientnet_v2_s resnet50 resnet50_v2 resnet101 resnet152_v2 "
    "densenet121 vgg16 vgg19 convnext_tiny convnext_xlarge xception inception_v3 "
    "inception_resnet_v2 nasnet_mobile nasnet_large"
).split()
SIZE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, size=(2, SIZE, SIZE, 3), dtype=np.uint8)


def shake(model, seed=1):
    """Gives the normalisations values of their own, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [w + 0.2 * np.abs(rng.standard_normal(w.shape)) for w in layer.get_weights()]
            )


def test_names():
    assert set(NAMES) <= set(BACKBONES)
    assert snake_case("EfficientNetV2B3") == "efficientnet_v2_b3"
    functions = [n for n in dir(keras.applications) if n[0].isupper()]
    assert {snake_case(name) for name in functions} <= set(BACKBONES)


@pytest.mark.parametrize(
    ("name", "plain", "scales_inside", "options"),
    [
        ("mobilenet_v2", keras.applications.MobileNetV2, False, {"alpha": 0.35}),
        ("efficientnet_b0", keras.applications.EfficientNetB0, True, {}),
        ("mobilenet_v3_small", keras.applications.MobileNetV3Small, True, {"minimalistic": True}),
        ("efficientnet_v2_b0", keras.applications.EfficientNetV2B0, True, {}),
        ("convnext_tiny", keras.applications.ConvNeXtTiny, True, {}),
        ("densenet121", keras.applications.DenseNet121, False, {}),
    ],
)
def test_files_pass_both_ways(name, plain, scales_inside, options, tmp_path, shallow):
    shape = (SIZE, SIZE, 3)
    normalised = preprocess_input(PIXELS)
    seen_by_keras = PIXELS.astype("float32") if scales_inside else normalised
    theirs = plain(include_top=False, weights=None, input_shape=shape, **options)
    shake(theirs)
    path = tmp_path / "theirs.weights.h5"
    theirs.save_weights(path)
    ours = build(name, SIZE, weights=path, **options)
    norms = [v for v in ours.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert all(type(v) is BatchNormalization for v in norms)
    wanted = np.asarray(theirs(seen_by_keras))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(ours(normalised), wanted, atol=1e-4 * scale)

    shake(ours, seed=2)
    record = {"format": 1, "backbone": name, "arguments": options, "image_size": SIZE}
    path = save_backbone(ours, tmp_path / "ours.weights.h5", record)
    theirs.load_weights(path)
    wanted = np.asarray(ours(normalised))
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(theirs(seen_by_keras), wanted, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("name", "function", "scales_inside", "options"),
    [
        ("mobilenet_v2", keras.applications.MobileNetV2, False, {"alpha": 0.35}),
        ("mobilenet_v3_small", keras.applications.MobileNetV3Small, True, {"minimalistic": True}),
    ],
)
def test_pixels_are_normalised_once_by_every_way_to_load(
    name, function, scales_inside, options, tmp_path
):
    """The README's ways: rfd_tf, `backbone.keras` behind a Rescaling layer, Keras' constructor."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    ours = build(name, SIZE, **options)
    rng = np.random.default_rng(0)
    for weight in ours.weights:
        if "kernel" in weight.path:
            # Large enough that the input is still seen in the output.
            fan_in = np.prod(weight.shape[: 2 if "depthwise" in weight.path else -1])
            weight.assign(rng.normal(0, np.sqrt(2 / fan_in), weight.shape))
    wanted = np.asarray(ours(preprocess_input(PIXELS, mean=mean, std=std)))
    atol = 1e-4 * np.abs(wanted).max()

    portable(ours).save(tmp_path / "backbone.keras")
    pixels = keras.Input((SIZE, SIZE, 3))
    scale, offset = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    x = keras.layers.Rescaling(scale, offset)(pixels)
    tuned = keras.Model(pixels, keras.models.load_model(tmp_path / "backbone.keras")(x))
    np.testing.assert_allclose(tuned(PIXELS.astype("float32")), wanted, atol=atol)

    record = {"format": 1, "backbone": name, "arguments": options, "image_size": SIZE}
    path = save_backbone(ours, tmp_path / "ours.weights.h5", record)
    theirs = function(include_top=False, weights=str(path), input_shape=(SIZE, SIZE, 3), **options)
    wanted = np.asarray(ours(preprocess_input(PIXELS)))
    raw, normalised = PIXELS.astype("float32"), preprocess_input(PIXELS)
    right, wrong = (raw, normalised) if scales_inside else (normalised, raw)
    np.testing.assert_allclose(theirs(right), wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(theirs(wrong) - wanted).max() > 1e-2 * np.abs(wanted).max()


def test_fresh_efficientnet_normalises_as_preprocess_input_does(shallow):
    model = build("efficientnet_b0", SIZE)
    normalised = preprocess_input(PIXELS)
    inner = keras.Model(model.input, model.get_layer("normalization").output)
    np.testing.assert_allclose(inner(normalised), normalised, rtol=1e-4, atol=1e-4)


def test_endpoints_have_the_same_names_every_time():
    first = build("mobilenet_v3_small", 64, minimalistic=True)
    second = build("mobilenet_v3_small", 64, minimalistic=True)
    assert [v.name for v in first.layers] == [v.name for v in second.layers]
    names = endpoints(second)
    sides = [second.get_layer(name).output.shape[1] for name in names]
    assert sides == [32, 16, 8, 4, 2]
    open_size = BACKBONES["mobilenet_v3_small"](include_top=False, minimalistic=True)
    assert endpoints(open_size) == names


def test_options_and_signature():
    tensor = keras.Input((SIZE, SIZE, 3))
    model = BACKBONES["mobilenet"](
        include_top=False, input_tensor=tensor, alpha=0.25, pooling="max", fused_batch_norm=False,
        name="mine",
    )  # fmt: skip
    assert model.input is tensor and model.name == "mine" and model.output_shape == (None, 256)
    norms = [v for v in model.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert all(type(v) is keras.layers.BatchNormalization for v in norms)
    top = BACKBONES["mobilenet"](input_shape=(SIZE, SIZE, 3), alpha=0.25, classes=7)
    assert top.output_shape == (None, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("mobilenet_v2", 16), "image_size 16 is too small for backbone mobilenet_v2"),
        (lambda: build("xception", 64), "backbone xception: at least 71"),
        (lambda: build("mobilenet_v2", 32, weights="imagenet"), "'imagenet' is not offered"),
        (lambda: build("resnet50", 32, alpha=0.5), "unknown argument of backbone resnet50 'alpha'"),
        (lambda: build("mobilenet", 32, alpha="thin"), "mobilenet: "),
        (lambda: BACKBONES["vgg16"](depth=3), "vgg16 has no option 'depth'; options: fused"),
        (lambda: BACKBONES["vgg16"](include_top=False, input_shape=(32, 32, 1)), "3 channels"),
        (lambda: build("vgg16", 32, pooling="sum"), "unknown pooling"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()
