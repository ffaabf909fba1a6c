"""The memory bank: one embedding an image, read and written by the image's dense index."""

from __future__ import annotations

import keras
from keras import ops

from rfd_tf.errors import UserError, unknown
from rfd_tf.layers import replicas

INITIALIZATIONS = ("uniform", "unit")
STORAGE_DTYPES = ("float32", "bfloat16")

# Rows drawn in one piece, 64 MiB of them at 128 dimensions.
_ROWS_AT_ONCE = 1 << 17
# Far from the seeds of the layers beside.
_SEED_STRIDE = 1_000_003


@keras.saving.register_keras_serializable(package="rfd_tf")
class MemoryBank(keras.layers.Layer):
    """Holds an embedding for every image of the dataset (Wu et al., CVPR 2018).

    Reading and writing cost the same whatever the number of rows: rows are gathered and scattered
    in place, the bank is never copied. Under a TensorFlow strategy every replica holds the same
    bank; `update` gathers the features of all replicas first, and `negatives` draws for the whole
    global batch and hands each replica its part, so that one replica and many train alike.

    Args:
        num_images: number of rows.
        dimensions: length of an embedding.
        momentum: share of the old row that an update keeps, 0 to 1 (0.5 in the published program).
        initialization: `uniform` draws each value from U(-s, s), s = 1 / sqrt(dimensions / 3), so
            that rows have length 1 on average (the published program); `unit` draws directions
            evenly, of length 1 exactly.
        storage_dtype: `float32`, or `bfloat16` for half the memory; arithmetic is float32 always.
        seed: integer seed of the initial rows and of the drawn negatives.

    >>> bank = MemoryBank(num_images=10, dimensions=4, seed=0)
    >>> bank.lookup(keras.ops.array([3, 7])).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        num_images: int,
        dimensions: int,
        momentum: float = 0.5,
        initialization: str = "unit",
        storage_dtype: str = "float32",
        seed: int = 0,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if initialization not in INITIALIZATIONS:
            raise unknown("memory bank initialization", initialization, INITIALIZATIONS)
        if storage_dtype not in STORAGE_DTYPES:
            raise unknown("memory bank storage dtype", storage_dtype, STORAGE_DTYPES)
        if not 0.0 <= momentum < 1.0:
            raise UserError(f"memory bank momentum {momentum} must be at least 0 and below 1")
        if num_images < 2:
            raise UserError(f"a memory bank needs at least 2 images; got {num_images}")
        self.num_images = int(num_images)
        self.dimensions = int(dimensions)
        self.momentum = float(momentum)
        self.initialization = initialization
        self.storage_dtype = storage_dtype
        self.seed = int(seed)
        self.negative_seed = keras.random.SeedGenerator(self.seed + 1, name="negative_seed")
        self.bank = self.add_weight(
            shape=(self.num_images, self.dimensions),
            initializer=self._initial_rows,
            dtype=storage_dtype,
            trainable=False,
            autocast=False,
            # The replicas' banks stay equal: each writes the gathered rows.
            aggregation="only_first_replica",
            name="bank",
        )
        self.built = True

    def _initial_rows(self, shape, dtype=None):
        starts = range(0, shape[0], _ROWS_AT_ONCE)
        if len(starts) == 1:
            return ops.cast(self._draw_rows(shape, 0), dtype)
        parts = (
            ops.cast(self._draw_rows((min(_ROWS_AT_ONCE, shape[0] - start), shape[1]), part), dtype)
            for part, start in enumerate(starts)
        )
        if keras.backend.backend() != "tensorflow":
            return ops.concatenate(list(parts), axis=0)
        import tensorflow as tf

        with tf.init_scope():
            rows = tf.zeros(shape, dtype)
            for start, part in zip(starts, parts, strict=True):
                # Written in place. Drawn and normalised as one, the bank would need three times
                # its memory while it is made.
                places = tf.range(start, start + part.shape[0])
                rows = tf.raw_ops.InplaceUpdate(x=rows, i=places, v=part)
        return rows

    def _draw_rows(self, shape, part: int):
        """Random rows; `part` tells apart those of a bank that is drawn in several parts."""
        seed = self.seed + _SEED_STRIDE * part
        if self.initialization == "uniform":
            bound = (3.0 / self.dimensions) ** 0.5
            return keras.random.uniform(shape, -bound, bound, "float32", seed=seed)
        return normalize(keras.random.normal(shape, dtype="float32", seed=seed))

    def get_config(self):
        config = super().get_config()
        for name in (
            "num_images",
            "dimensions",
            "momentum",
            "initialization",
            "storage_dtype",
            "seed",
        ):
            config[name] = getattr(self, name)
        return config

    def lookup(self, index):
        """Reads rows, without gradient.

        Args:
            index: integers of any shape `[...]`, each at least 0 and below `num_images`.

        Returns:
            `[..., dimensions]` float32.
        """
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # A sparse read of the variable; reading it whole would make the next write copy it.
            rows = tf.gather(self.bank.value, index)
        else:
            rows = ops.take(self.bank.value, index, axis=0)
        return ops.stop_gradient(ops.cast(rows, "float32"))

    def rows(self):
        """The whole bank, `[num_images, dimensions]` float32, without gradient."""
        return ops.stop_gradient(ops.cast(ops.convert_to_tensor(self.bank), "float32"))

    def negatives(self, index, count: int, shared: bool = False, exclude_positive: bool = True):
        """Draws the indices of negatives, uniformly and with replacement.

        Args:
            index: `[batch]` integers, the images of this replica's batch.
            count: number of negatives an image.
            shared: draw one set for the whole global batch instead of one an image.
            exclude_positive: never draw an image as its own negative. `False` follows the
                published program.

        Returns:
            A pair: indices, `[batch, count]`, or `[count]` when shared, int32; and `valid`,
            `[batch, count]` float32, 0 where a shared negative is the image itself, or None when
            every entry counts.
        """
        index = ops.cast(index, "int32")
        if shared:
            drawn = keras.random.randint(
                (count,), 0, self.num_images, "int32", seed=self.negative_seed
            )
            if not exclude_positive:
                return drawn, None
            return drawn, ops.cast(ops.expand_dims(index, 1) != drawn, "float32")
        upper = self.num_images - 1 if exclude_positive else self.num_images
        drawn = replicas.draw(
            lambda rows: keras.random.randint(
                (rows, count), 0, upper, "int32", seed=self.negative_seed
            ),
            ops.shape(index)[0],
        )
        if exclude_positive:
            # Skipping over the image's own row leaves the others equally likely.
            drawn = drawn + ops.cast(drawn >= ops.expand_dims(index, 1), "int32")
        return drawn, None

    def update(self, index, embedding, momentum: float | None = None) -> None:
        """Moves rows towards new embeddings: row <- normalise(m * row + (1 - m) * embedding).

        Args:
            index: `[batch]` integers. Where an index occurs twice in the global batch, its last
                occurrence decides the row.
            embedding: `[batch, dimensions]`, of length 1.
            momentum: m; the layer's own when None. 0 replaces the rows.
        """
        momentum = self.momentum if momentum is None else momentum
        index = replicas.gather(ops.cast(index, "int32"))
        embedding = replicas.gather(ops.stop_gradient(ops.cast(embedding, "float32")))
        same = ops.expand_dims(index, 1) == ops.expand_dims(index, 0)
        positions = ops.arange(ops.shape(index)[0], dtype="int32")
        last = ops.max(ops.where(same, ops.expand_dims(positions, 0), -1), axis=1)
        embedding = ops.take(embedding, last, axis=0)
        if momentum:
            embedding = momentum * self.lookup(index) + (1.0 - momentum) * embedding
        rows = ops.cast(normalize(embedding), self.storage_dtype)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self.bank.value.scatter_update(tf.IndexedSlices(rows, index))
        else:
            self.bank.assign(ops.scatter_update(self.bank.value, ops.expand_dims(index, 1), rows))


def normalize(vectors, epsilon: float = 0.0):
    """Divides vectors by their Euclidean length along the last axis; zero vectors stay zero.

    Args:
        vectors: `[..., dimensions]` floating point.
        epsilon: added to the squared length.

    >>> normalize(keras.ops.array([[3.0, 4.0]])).numpy().tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    squared = ops.sum(ops.square(vectors), axis=-1, keepdims=True) + epsilon
    # rsqrt has no finite gradient at zero, so a zero vector is divided by one.
    return vectors / ops.sqrt(ops.where(squared > 0, squared, ops.ones_like(squared)))
