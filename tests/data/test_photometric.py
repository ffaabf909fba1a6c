"""Changes of colour on the device, against Pillow and the input pipeline's."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from rfd_tf.data import augment, photometric
from rfd_tf.data.decode import to_uint8


@pytest.fixture(scope="module")
def images():
    photos = load_sample_images().images
    return np.stack([photo[100:148, 200:248] for photo in photos])


@pytest.mark.parametrize(
    ("place", "kind"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_jitter_is_that_of_pillow(images, place, kind, factor):
    factors = np.ones((2, 3), "float32")
    factors[1, place] = factor
    changed = np.asarray(photometric.color_jitter(images, factors))
    expected = np.asarray(kind(Image.fromarray(images[1])).enhance(factor), "float32")
    # Pillow rounds the grey and the mean to whole numbers.
    assert np.abs(changed[1] - expected).max() <= 1.5
    np.testing.assert_allclose(changed[0], images[0], atol=1e-3)


def test_the_pipeline_makes_the_same_changes(images):
    turns = np.array([0.0, 0.15], "float32")
    changed = np.asarray(photometric.turn_hue(images, turns))
    np.testing.assert_array_equal(augment.turn_hue(images, turns), to_uint8(changed))
    factors = np.array([[0.7, 1.3, 0.6], [1.2, 0.8, 1.4]], "float32")
    jittered = photometric.color_jitter(images, factors)
    np.testing.assert_array_equal(augment.color_jitter(images, factors), to_uint8(jittered))
    assert np.abs(changed[1] - images[1]).max() > 20
    grey = np.full((1, 4, 4, 3), 80.0, "float32")
    np.testing.assert_allclose(photometric.turn_hue(grey, turns[1:]), grey, atol=1e-3)


def test_only_the_chosen_lose_colour_or_are_mirrored(images):
    chosen = np.array([False, True])
    grey = np.asarray(photometric.grayscale(images, chosen))
    np.testing.assert_array_equal(grey[0], images[0])
    luma = images[1] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[1], np.repeat(luma[..., None], 3, axis=-1), atol=1e-3)
    turned = np.asarray(photometric.mirror(images, chosen))
    assert turned.dtype == images.dtype
    np.testing.assert_array_equal(turned[0], images[0])
    np.testing.assert_array_equal(turned[1], images[1][:, ::-1])


def test_projected_colors_are_those_of_the_published_matrix(images):
    # Published as .833, .333 and -.167.
    matrix = np.array([[5, 2, -1], [2, 2, 2], [-1, 2, 5]]) / 6
    changed = np.asarray(photometric.project_colors(images, np.array([False, True])))
    np.testing.assert_array_equal(changed[0], images[0])
    expected = np.clip(images[1] @ matrix, 0, 255)
    np.testing.assert_allclose(changed[1], expected, atol=1e-3)
