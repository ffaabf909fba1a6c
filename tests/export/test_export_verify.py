import numpy as np
import onnx
import pytest
from export_helpers import RECORD, numpy_embedding

from rfd_tf.export import (
    ExportMismatch,
    verification_images,
    verify_keras,
    verify_onnx,
    verify_saved_model,
)
from rfd_tf.export.verify import BATCH_SIZES, compare, reference_features, verification_files


def test_images_are_the_same_each_time_and_as_many_as_the_batches_hold():
    images = verification_images(32)
    assert BATCH_SIZES == (1, 2, 7) and images.shape == (10, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, verification_images(32))
    assert len({image.tobytes() for image in images}) == 10
    assert images.min() == 0 and images.max() == 255


@pytest.mark.parametrize(
    "mistake",
    [
        lambda images: images[:, :, ::-1],
        lambda images: images[:, ::-1],
        lambda images: images[..., ::-1],
        lambda images: images.transpose(0, 2, 1, 3),
        lambda images: images[:, np.roll(np.arange(32), 1)],
        lambda images: np.clip(images.astype(int) + 1, 0, 255).astype(np.uint8),
    ],
    ids=["mirrored", "upside down", "channels", "transposed", "shifted", "one grey level"],
)
def test_no_mistake_of_preprocessing_passes(mistake, backbone):
    images = verification_images(32)
    expected = reference_features(backbone, RECORD, images)
    for batch in (slice(0, 1), slice(1, 3), slice(3, 10)):
        wrong = reference_features(backbone, RECORD, mistake(images[batch]))
        right = {"embedding": expected["embedding"][batch]}
        with pytest.raises(ExportMismatch):
            compare("a wrong file", right, wrong)


def test_the_reference_is_normalisation_backbone_pooling_and_split(backbone, pixels):
    expected = numpy_embedding(backbone, RECORD, pixels)
    for feature, columns in (("f", slice(None)), ("f1", slice(0, 24)), ("f2", slice(24, 64))):
        found = reference_features(backbone, RECORD, pixels, feature=feature, endpoints=["block3"])
        np.testing.assert_allclose(found["embedding"], expected[:, columns], atol=1e-6)
        assert found["block3"].shape[0] == 5


def test_compare_measures_against_the_largest_value():
    expected = {"a": np.array([[1.0, -4.0]]), "b": np.zeros((1, 1))}
    actual = {"a": np.array([[1.0, -4.002]]), "b": np.zeros((1, 1))}
    report = compare("x", expected, actual, tolerance=1e-3)
    assert report["a"]["largest_value"] == 4
    assert report["a"]["largest_difference"] == pytest.approx(0.002)
    assert report["a"]["relative_difference"] == pytest.approx(0.0005)
    assert report["b"]["relative_difference"] == 0
    with pytest.raises(ExportMismatch, match="x: 'a' differs from Keras by 0.002, 0.0005 of"):
        compare("x", expected, actual, tolerance=1e-4)


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        ({"a": np.array([1.0, np.nan])}, "differs"),
        ({"a": np.array([[1.0, 2.0]])}, "shape"),
        ({"b": np.array([1.0, 2.0])}, "gives \\['b'\\]"),
    ],
)
def test_compare_refuses_what_is_not_comparable(actual, message):
    with pytest.raises(ExportMismatch, match=message):
        compare("x", {"a": np.array([1.0, 2.0])}, actual)


def test_weights_that_diverged_are_not_exported():
    values = {"a": np.array([1.0, np.inf])}
    with pytest.raises(ExportMismatch, match="not finite"):
        compare("x", values, values)


def test_files_of_other_sizes_are_resized_by_the_evaluation():
    files, pixels = verification_files(32)
    assert len(files) == 3 and pixels.shape == (3, 32, 32, 3) and pixels.dtype == np.uint8


def test_good_files_pass_and_changed_ones_do_not(exported, backbone, tmp_path):
    folder, _ = exported
    images = verification_images(32)
    expected = reference_features(backbone, RECORD, images, endpoints=["block2"])
    assert set(verify_saved_model(folder / "saved_model", images, expected)) == {
        "serving_default",
        "image_bytes",
    }
    verify_onnx(folder / "model.onnx", images, expected)
    verify_keras(folder / "backbone.keras", RECORD, images, expected, endpoints=["block2"])

    proto = onnx.load(folder / "model.onnx")
    kernel = max(proto.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = onnx.numpy_helper.to_array(kernel).copy()
    values.flat[values.size // 2] += 0.5
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    onnx.save_model(proto, tmp_path / "changed.onnx")
    with pytest.raises(ExportMismatch, match="ONNX: '.*' differs from Keras"):
        verify_onnx(tmp_path / "changed.onnx", images, expected)

    other = {**expected, "embedding": expected["embedding"][:, ::-1]}
    with pytest.raises(ExportMismatch, match="SavedModel, serving_default: 'embedding'"):
        verify_saved_model(folder / "saved_model", images, other)
    with pytest.raises(ExportMismatch, match="the .keras file: 'embedding'"):
        verify_keras(folder / "backbone.keras", RECORD, images, other, endpoints=["block2"])
