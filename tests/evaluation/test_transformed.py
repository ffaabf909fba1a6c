import numpy as np
import pytest
from scipy import ndimage

from rfd_tf.evaluation import transformed


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 14, 14, 3), np.uint8)


def test_tiles_are_moved_whole(images):
    places = np.array([2, 0, 3, 1])
    result = transformed.shuffled(4, grid=3, seed=5)(images, places)
    assert result.dtype == np.uint8
    rim = np.ones((14, 14), bool)
    rim[1:13, 1:13] = False
    for before, after in zip(images, result, strict=True):
        np.testing.assert_array_equal(before[rim], after[rim])
        tiles = [
            [image[1 + 4 * r : 5 + 4 * r, 1 + 4 * c : 5 + 4 * c].tobytes() for r in range(3)
             for c in range(3)]
            for image in (before, after)
        ]  # fmt: skip
        assert sorted(tiles[0]) == sorted(tiles[1]) and tiles[0] != tiles[1]
    # An image's order is its place's, however the images are batched.
    alone = transformed.shuffled(4, grid=3, seed=5)(images[1:2], places[1:2])
    np.testing.assert_array_equal(alone, result[1:2])


def test_no_order_is_the_right_one():
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
    batch = np.repeat(image, 200, axis=0)
    result = transformed.shuffled(200, grid=2)(batch, np.arange(200))
    orders = {tuple(row) for row in result.reshape(200, 4)}
    assert (0, 1, 2, 3) not in orders and len(orders) == 23


def test_affine_maps_are_what_they_are_called():
    def of(**given):
        values = {"angle": 0.0, "translation": (0.0, 0.0), "scale": 1.0, "shear": 0.0, **given}
        return transformed.affine_maps(9, **{name: np.array([v]) for name, v in values.items()})

    image = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3)).astype(np.float32)

    def warp(maps):
        # An independent implementation: SciPy's, which takes rows before columns.
        a, b, c, d, e, f = maps[0, :6]
        matrix = np.array([[e, d, f], [b, a, c], [0, 0, 1]])
        return np.stack(
            [
                ndimage.affine_transform(image[0, :, :, i], matrix, order=1, cval=128)
                for i in range(3)
            ],
            axis=-1,
        )

    np.testing.assert_allclose(warp(of(angle=90.0)), np.rot90(image[0]), atol=1e-3)
    moved = warp(of(translation=(2 / 9, 1 / 9)))
    np.testing.assert_allclose(moved[1:, 2:], image[0, :-1, :-2], atol=1e-3)
    assert (moved[0] == 128).all() and (moved[:, :2] == 128).all()
    enlarged = warp(of(scale=2.0))
    np.testing.assert_allclose(enlarged[::2, ::2], image[0, 2:7, 2:7], atol=1e-3)
    sheared = warp(of(shear=45.0))
    np.testing.assert_allclose(sheared[4], image[0, 4], atol=1e-3)  # the middle row stays


def test_warped_images_are_those_of_scipy():
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    result = transformed.warped(3, seed=2)(images, np.arange(3))
    rng = np.random.default_rng(2)
    drawn = {n: rng.uniform(*ends, 3) for n, ends in transformed.AFFINE_RANGES.items()}
    drawn["translation"] = np.stack([drawn["translation"], rng.uniform(-0.2, 0.2, 3)], axis=1)
    maps = transformed.affine_maps(12, **drawn)
    for image, found, (a, b, c, d, e, f, _, _) in zip(images, result, maps, strict=True):
        matrix = np.array([[e, d, f], [b, a, c], [0, 0, 1]])
        for i in range(3):
            # "grid-constant" blends with the grey at the border, as Keras does.
            wanted = ndimage.affine_transform(
                image[..., i].astype(float), matrix, order=1, mode="grid-constant", cval=128
            )
            np.testing.assert_allclose(found[..., i], wanted, atol=1.01)
