"""Heads that methods put on features: linear layers and embeddings of length 1."""

from __future__ import annotations

import keras
from keras import ops

from rfd_tf.errors import UserError
from rfd_tf.layers.memory_bank import normalize


def linear(
    units: int, inputs: int, name: str, seed: int, use_bias: bool = True
) -> keras.layers.Dense:
    """A linear layer in float32, built, with weights from U(-s, s), s = 1 / sqrt(inputs).

    So PyTorch initialises its linear layers, and with them most published programs. The bias
    begins at zero.

    Args:
        units: outputs.
        inputs: length of the feature.
        name: of the layer.
        seed: integer seed of the weights.
        use_bias: whether it has a bias.

    >>> tuple(linear(3, 5, "head", seed=0).kernel.shape)
    (5, 3)
    """
    layer = keras.layers.Dense(
        units,
        dtype="float32",
        name=name,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.VarianceScaling(
            1 / 3, "fan_in", "uniform", seed=seed
        ),
    )
    layer.build((None, inputs))
    return layer


class Embedding(keras.layers.Layer):
    """Projects a feature and divides it by its length: what a memory bank holds.

    Args:
        dimensions: length of the embedding.
        inputs: length of the feature.
        hidden: units of a layer with ReLU between the two; 0 for a linear projection.
        seed: integer seed of the weights.

    Call: `[..., inputs]` floating point to `[..., dimensions]` float32, of length 1.

    Raises:
        UserError: fewer than 0 hidden units, or fewer than 1 dimension.

    >>> embedding = Embedding(4, inputs=6, seed=0)
    >>> float(ops.sum(ops.square(embedding(ops.ones((1, 6)))))).__round__(5)
    1.0
    """

    def __init__(self, dimensions: int, inputs: int, hidden: int = 0, seed: int = 0, **kwargs):
        if hidden < 0:
            raise UserError(f"projection_hidden {hidden} must be 0 or more units")
        if dimensions < 1:
            raise UserError(f"projection_dimensions {dimensions} must be at least 1")
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.dimensions = int(dimensions)
        self.hidden = linear(hidden, inputs, "hidden", seed + 1) if hidden else None
        self.projection = linear(dimensions, hidden or inputs, "projection", seed)
        self.built = True

    def layers_by_name(self, name: str = "projection") -> dict[str, keras.layers.Dense]:
        """The linear layers, for `Method.heads`: `NAME_hidden` where there is one, and `NAME`."""
        hidden = {} if self.hidden is None else {f"{name}_hidden": self.hidden}
        return {**hidden, name: self.projection}

    def call(self, features):
        if self.hidden is not None:
            features = ops.relu(self.hidden(features))
        return normalize(self.projection(features))


class TilesEmbedding(keras.layers.Layer):
    """Embeds an image that was cut into tiles, from the features of its tiles.

    Each tile's feature is projected by the same linear layer; the projections are put one after
    another in the order the tiles come in, and projected again (Misra and van der Maaten, CVPR
    2020, section 3.2).

    Args:
        dimensions: length of the embedding, and of a tile's projection.
        inputs: length of a tile's feature.
        tiles: tiles of an image.
        seed: integer seed of the weights.

    Call: `[batch, tiles, inputs]` floating point to `[batch, dimensions]` float32, of length 1.

    >>> TilesEmbedding(4, inputs=6, tiles=9)(ops.ones((2, 9, 6))).shape
    TensorShape([2, 4])
    """

    def __init__(self, dimensions: int, inputs: int, tiles: int, seed: int = 0, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.each = linear(dimensions, inputs, "each", seed)
        self.joint = Embedding(dimensions, tiles * dimensions, seed=seed + 1, name="joint")
        self.length = tiles * dimensions
        self.built = True

    def call(self, features):
        return self.joint(ops.reshape(self.each(features), (-1, self.length)))
