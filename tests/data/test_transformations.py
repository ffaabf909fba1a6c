"""Families of transformations: their parameters, normalisation and ranges."""

import numpy as np
import pytest

from rfd_tf.data import transformations, warps
from rfd_tf.errors import UserError

SIZE = 32


def _uniform(family, count=4000):
    return np.random.default_rng(5).uniform(size=(count, family.num_draws)).astype("float32")


@pytest.mark.parametrize("name", transformations.FAMILIES)
@pytest.mark.parametrize("size", [18, 224])
def test_measured_parameters_have_mean_0_and_deviation_1(name, size):
    family = transformations.FAMILIES[name](size)
    parameters = np.asarray(family.parameters(_uniform(family)))
    assert parameters.shape == (4000, family.num_parameters)
    np.testing.assert_allclose(parameters.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(parameters.std(axis=0), 1, atol=0.05)
    assert family.variance == pytest.approx(1, abs=1e-6)


def test_the_affine_parameters_are_the_published_ones():
    family = transformations.Affine(SIZE, normalization="published")
    uniform = _uniform(family, 200)
    parameters = np.asarray(family.parameters(uniform), "float64")
    signed = 2 * uniform.astype("float64") - 1
    angle = np.pi * signed[:, 0]
    np.testing.assert_allclose(parameters[:, 0], np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(parameters[:, 1], np.sin(angle), atol=1e-5)
    np.testing.assert_allclose(parameters[:, 4:], signed[:, 3:], atol=1e-5)
    pixels = parameters[:, 2:4] * 0.2 * SIZE
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)
    assert np.abs(pixels).max().round() == 6
    # Two deviations of a uniform on the circle, four of a uniform from -1 to 1.
    assert family.variance == pytest.approx((2 * 0.5 + 4 / 3) / 6, abs=0.01)
    expected = warps.affine_coefficients(
        np.degrees(angle), pixels.round(), 1 + 0.3 * signed[:, 3], 30 * signed[:, 4], SIZE
    )
    np.testing.assert_allclose(family.coefficients(parameters), expected, atol=2e-3)


def test_the_projective_parameters_are_the_published_ones():
    family = transformations.Projective(SIZE, normalization="published")
    uniform = _uniform(family)
    raw = np.asarray(family.coefficients(family.parameters(uniform)))
    mean, deviation = [0, 0, 16, 0, 0, 16, 0, 0], [1, 1, 20, 1, 1, 20, 0.015, 0.015]
    np.testing.assert_allclose(
        family.parameters(uniform), (raw - mean) / np.array(deviation), atol=1e-4
    )
    # Deviations of the published draws, simulated apart from this code.
    expected = [0.76, 0.76, 17, 0.76, 0.76, 17, 0.006, 0.006]
    np.testing.assert_allclose(raw.std(axis=0), expected, rtol=0.1)


def test_the_projective_constants_for_imagenet_are_the_published_ones():
    family = transformations.Projective(224, normalization="published")
    np.testing.assert_allclose(family.mean, [0, 0, 112, 0, 0, 112, 6.4e-5, 6.4e-5], rtol=1e-6)
    deviation = [0.75, 0.75, 118, 0.75, 0.75, 118, 7.75e-4, 7.75e-4]
    np.testing.assert_allclose(family.deviation, deviation, rtol=1e-6)
    # They are those of the draws, so each parameter counts alike.
    parameters = np.asarray(family.parameters(_uniform(family)))
    np.testing.assert_allclose(parameters.std(axis=0), 1, atol=0.05)
    assert family.variance == pytest.approx(1, abs=0.03)


def test_corners_lie_where_they_were_drawn():
    family = transformations.Projective(SIZE)
    uniform = _uniform(family, 300)
    coefficients = np.asarray(family.coefficients(family.parameters(uniform)))
    square = SIZE * np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "float64")
    for row, each in zip(uniform.astype("float64"), coefficients, strict=True):
        turned = np.roll(square, -int(row[0] * 4), axis=0)
        corners = SIZE / 2 + (0.8 + 0.4 * row[1]) * (turned - SIZE / 2)
        corners += np.floor(row[2:] * 9).reshape(4, 2) - 4
        back = np.asarray(warps.warp_points(corners, each[None]))[0]
        np.testing.assert_allclose(back, square, atol=0.02)


def test_a_family_without_a_parameter_leaves_it_at_zero():
    family = transformations.Affine(SIZE, translation=0.0, shear=0.0, scale=(1.0, 1.0))
    parameters = np.asarray(family.parameters(_uniform(family, 50)))
    np.testing.assert_array_equal(parameters[:, 2:], 0)
    coefficients = np.asarray(family.coefficients(parameters))
    assert np.isfinite(coefficients).all()
    # Turns only.
    np.testing.assert_allclose(coefficients[:, 0] ** 2 + coefficients[:, 1] ** 2, 1, atol=1e-4)
    still = transformations.Projective(SIZE, (1.0, 1.0), corner_shift=0.0, quarter_turns=False)
    assert np.isfinite(np.asarray(still.parameters(_uniform(still, 50)))).all()


def test_turns_of_warps_are_measured_at_their_centre():
    angles = np.array([-170.0, -30, 0, 45, 180])
    shifts = np.random.default_rng(0).uniform(-5, 5, (5, 2))
    warped = warps.affine_coefficients(angles, shifts, np.full(5, 0.8), np.zeros(5), SIZE)
    found = np.asarray(transformations.rotation_angles(warped, SIZE))
    np.testing.assert_allclose(np.cos(np.radians(found - angles)), 1, atol=1e-5)
    # A projection turns by what its derivative there turns.
    family = transformations.Projective(SIZE)
    each = np.asarray(family.coefficients(family.parameters(_uniform(family, 20))))
    found = np.asarray(transformations.rotation_angles(each, SIZE))
    points = SIZE / 2 + 0.05 * np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    ends = np.asarray(warps.warp_points(points, each), "float64")
    across, down = ends[:, 0] - ends[:, 1], ends[:, 2] - ends[:, 3]
    expected = np.arctan2(down[:, 0] - across[:, 1], across[:, 0] + down[:, 1])
    np.testing.assert_allclose(np.cos(np.radians(found) - expected), 1, atol=1e-3)


def test_estimates_of_what_cannot_be_stay_finite():
    family = transformations.Affine(SIZE)
    estimates = np.array([[0, 0, 0, 0, -50, 50], [1, 1, 9, 9, 50, -50]], "float32")
    assert np.isfinite(np.asarray(family.coefficients(estimates))).all()


def test_an_unknown_normalization_is_named():
    with pytest.raises(UserError, match="'unit'.*options: measured, published"):
        transformations.Affine(SIZE, normalization="unit")
