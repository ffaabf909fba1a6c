"""Heads: PyTorch's initialisation, lengths of 1, tiles in the order they come."""

import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.methods.heads import Embedding, TilesEmbedding, linear


def test_linear_layers_begin_as_pytorch_has_them():
    layer = linear(300, 25, "head", seed=1)
    kernel = np.asarray(layer.kernel)
    # U(-1/5, 1/5): all within, and as spread as a uniform distribution is.
    assert np.abs(kernel).max() <= 0.2 and np.abs(kernel).max() > 0.195
    assert kernel.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.03)
    assert not np.asarray(layer.bias).any()
    np.testing.assert_array_equal(linear(300, 25, "other", seed=1).kernel, kernel)
    assert linear(3, 4, "without", seed=0, use_bias=False).bias is None


def test_embedding_is_the_normalised_projection():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    embedding = Embedding(3, inputs=6, hidden=5, seed=2)
    (w1, b1), (w2, b2) = (
        [np.asarray(w) for w in layer.get_weights()]
        for layer in (embedding.hidden, embedding.projection)
    )
    expected = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding(x), expected, rtol=1e-4, atol=1e-6)


def test_tiles_share_the_first_projection_and_keep_their_order():
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    head = TilesEmbedding(3, inputs=6, tiles=4, seed=2)
    w1, b1 = head.each.get_weights()
    w2, b2 = head.joint.projection.get_weights()
    expected = np.concatenate([x[:, tile] @ w1 + b1 for tile in range(4)], axis=1) @ w2 + b2
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(head(x), expected, rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(head(x[:, ::-1])) - expected).max() > 1e-3
    assert sum(np.prod(w.shape) for w in head.weights) == 6 * 3 + 3 + 12 * 3 + 3


def test_impossible_sizes_are_an_error():
    with pytest.raises(UserError, match="projection_hidden -1"):
        Embedding(4, inputs=3, hidden=-1)
    with pytest.raises(UserError, match="projection_dimensions 0"):
        Embedding(0, inputs=3)
