import keras
import numpy as np
import pytest

from rfd_tf.layers.adaptive_pooling import adaptive_average_pool, adaptive_max_pool, bins


def oracle(x, output_size, reduce):
    """PyTorch's definition, one bin at a time."""
    batch, height, width, channels = x.shape
    rows, columns = output_size
    result = np.zeros((batch, rows, columns, channels), x.dtype)
    for i in range(rows):
        for j in range(columns):
            top, bottom = int(np.floor(i * height / rows)), int(np.ceil((i + 1) * height / rows))
            left, right = (
                int(np.floor(j * width / columns)),
                int(np.ceil((j + 1) * width / columns)),
            )
            result[:, i, j] = reduce(x[:, top:bottom, left:right], axis=(1, 2))
    return result


# The sizes of RFD's probes on AlexNet, uneven ones, multiples, an output larger than the input.
SIZES = [
    ((55, 55), (12, 12)),
    ((27, 27), (7, 7)),
    ((13, 13), (5, 5)),
    ((13, 13), (6, 6)),
    ((11, 11), (4, 4)),
    ((8, 8), (4, 4)),
    ((7, 9), (3, 2)),
    ((4, 4), (4, 4)),
    ((2, 3), (4, 5)),
    ((6, 5), (1, 1)),
]


@pytest.mark.parametrize(("size", "output_size"), SIZES)
def test_equals_the_definition(size, output_size):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype("float32")
    largest = np.array(adaptive_max_pool(x, output_size))
    np.testing.assert_array_equal(largest, oracle(x, output_size, np.max))
    mean = np.array(adaptive_average_pool(x, output_size))
    np.testing.assert_allclose(mean, oracle(x, output_size, np.mean), atol=1e-6)


def test_bins_cover_the_axis_without_gaps():
    for size in range(1, 30):
        for output_size in range(1, 15):
            found = bins(size, output_size)
            assert found[0][0] == 0 and found[-1][1] == size
            assert all(a < b for a, b in found)
            assert all(left[1] >= right[0] for left, right in zip(found, found[1:], strict=False))


def test_works_inside_a_functional_model():
    inputs = keras.Input((9, 9, 2))
    model = keras.Model(inputs, adaptive_max_pool(inputs, 4))
    x = np.random.default_rng(1).standard_normal((3, 9, 9, 2)).astype("float32")
    np.testing.assert_array_equal(np.array(model(x)), oracle(x, (4, 4), np.max))


@pytest.mark.parametrize(
    ("shape", "output_size"), [((2, 5, 5), 2), ((2, 5, 5, 1), 0), ((2, 5, 5, 1), (2, 2, 2))]
)
def test_refuses_what_it_cannot_pool(shape, output_size):
    with pytest.raises(ValueError, match="output_size|adaptive pooling"):
        adaptive_max_pool(np.zeros(shape, "float32"), output_size)


def test_refuses_unknown_sizes():
    with pytest.raises(ValueError, match="known height and width"):
        adaptive_max_pool(keras.Input((None, None, 3)), 2)
