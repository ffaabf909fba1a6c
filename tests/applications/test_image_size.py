"""One network, two sizes of images."""

import numpy as np
import pytest

from rfd_tf import applications
from rfd_tf.applications.image_size import at_size
from rfd_tf.errors import UserError


def test_layers_and_weights_are_shared():
    backbone = applications.build("six_layer", image_size=16, filters=(4, 4, 4, 4, 4, 8))
    model = applications.pooled_feature_model(backbone)
    small = at_size(model, 8)
    other = applications.build("six_layer", image_size=8, filters=(4, 4, 4, 4, 4, 8))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    for _ in range(2):
        other.set_weights(backbone.get_weights())
        expected = np.asarray(applications.pooled_feature_model(other)(images))
        np.testing.assert_allclose(small(images), expected, rtol=1e-5, atol=1e-6)
        # Weights that change in one change in the other.
        backbone.set_weights([weight + 0.01 for weight in backbone.get_weights()])
    assert at_size(model, 16) is model


def test_the_original_is_left_as_it_was(tmp_path):
    backbone = applications.build("six_layer", image_size=16, filters=(4, 4, 4, 4, 4, 8))
    at_size(applications.pooled_feature_model(backbone), 8)
    assert backbone.get_layer("block6").output.shape == (None, 4, 4, 8)
    assert applications.endpoints(backbone)[-1] == "block6"
    copy = applications.portable(backbone)
    copy.save(tmp_path / "backbone.keras")
    images = np.zeros((1, 16, 16, 3), "float32")
    np.testing.assert_allclose(copy(images), backbone(images), atol=1e-6)


def test_any_network_of_keras_applications():
    backbone = applications.build("mobilenet_v2", image_size=64, alpha=0.35)
    assert at_size(backbone, 32).output_shape[1:3] == (1, 1)


def test_dense_layers_on_maps_are_an_error():
    backbone = applications.build("alexnet", image_size=96)
    with pytest.raises(UserError, match="64 x 64 pixels .*feature_endpoint"):
        at_size(applications.pooled_feature_model(backbone), 64)
    at_size(applications.pooled_feature_model(backbone, "conv5"), 72)


def test_an_image_too_small_is_an_error():
    backbone = applications.build("mobilenet_v2", image_size=64, alpha=0.35)
    with pytest.raises(UserError, match=r"8 x 8 pixels \(.*negative.*\)"):
        at_size(backbone, 8)
