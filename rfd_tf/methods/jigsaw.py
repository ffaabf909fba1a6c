"""Jigsaw puzzles by a context-free network (Noroozi and Favaro, ECCV 2016)."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from rfd_tf import losses
from rfd_tf.applications.image_size import at_size
from rfd_tf.data import patches, photometric, warps
from rfd_tf.data.views import flatten_views
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization, replicas
from rfd_tf.methods import options
from rfd_tf.methods.base import Method
from rfd_tf.methods.heads import linear


class Jigsaw(Method):
    """Tells in which order the tiles of an image were put.

    The backbone sees every tile by itself. The tiles' features, in the order of the puzzle, go
    through a head that predicts which of a fixed set of orderings it was. What would give the order
    away without knowing what is in the image is taken out, each by an option of its own.

    Args:
        backbone: functional Keras model from normalised pixels to features; it must take images
            as small as a tile.
        grid: cells a side; an image has grid x grid tiles.
        tile_size: side of a tile, pixels; see `rfd_tf.data.patches.tile_sizes`. The cell's side
            leaves no gap between the tiles.
        tile_jitter: whether a tile is at a random place of its cell, rather than in the middle.
        permutations: how many orderings there are, 2 or more.
        criterion: how they are chosen, `sum` (published) or `min`; see
            `rfd_tf.data.patches.permutation_set`.
        permutations_per_image: orderings that each image is put in at a step. The backbone sees
            its tiles once.
        tile_normalization: whether each tile gets mean 0 and standard deviation 1 of its own,
            rather than the normalisation of whole images.
        channel_shift: most whole pixels by which each colour channel of an image is moved, down
            and across, against the fringes that lenses give away positions by.
        color_drop: share of the images that are made grey, 0 to 1; they are not shifted.
        color_projection: share of the others whose green and magenta are put together.
        tile_units: units that each tile's feature is mapped to.
        hidden_units: units of the layer over all tiles; 0 for none.
        dropout: share of those that are left out at a step, at least 0 and below 1.
        seed: of the head, the set of orderings, and all that is drawn.
        **kwargs: see `Method`.

    The published network (CFN) has 1,024 tile units, 4,096 hidden ones, dropout 0.5 and no batch
    normalisation in its head; here both layers have it. Its tiles' features are whole maps; here
    they are averaged over positions, as the features of all methods are.

    Raises:
        UserError: an option out of range, or tiles too small for the backbone.

    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", image_size=32)
    >>> method = Jigsaw(backbone, permutations=10)
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> sorted(method(batch)), round(method.chance_levels()["jigsaw_loss"], 3)
    (['jigsaw_accuracy', 'jigsaw_loss'], 2.303)
    """

    def __init__(
        self,
        backbone: keras.Model,
        *,
        grid: int = 3,
        tile_size: int | None = None,
        tile_jitter: bool = True,
        permutations: int = 100,
        criterion: str = "sum",
        permutations_per_image: int = 1,
        tile_normalization: bool = True,
        channel_shift: int = 1,
        color_drop: float = 0.5,
        color_projection: float = 0.5,
        tile_units: int = 128,
        hidden_units: int = 256,
        dropout: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        grid = options.whole("grid", grid, least=2, most=3)
        if tile_size is not None:
            tile_size = options.whole("tile_size", tile_size, least=1)
        permutations = options.whole("permutations", permutations, least=2)
        dropout = options.number("dropout", dropout, 0, 1)
        if dropout == 1:
            raise UserError("dropout 1 leaves nothing; choose a share below 1")
        super().__init__(backbone, **kwargs)
        cell, self.tile_size = patches.tile_sizes(self.image_size, grid, tile_size)
        self.grid, self.tiles = grid, grid * grid
        self.views = self.tiles
        self.room = cell - self.tile_size if tile_jitter else 0
        self.orderings = patches.permutation_set(permutations, self.tiles, criterion, seed)
        self.orders_per_image = options.whole("permutations_per_image", permutations_per_image, 1)
        self.tile_normalization = bool(tile_normalization)
        self.channel_shift = options.whole(
            "channel_shift", channel_shift, least=0, most=self.image_size - 1
        )
        self.color_drop = options.number("color_drop", color_drop, 0, 1)
        self.color_projection = options.number("color_projection", color_projection, 0, 1)
        self.dropout = dropout
        tile_units = options.whole("tile_units", tile_units, least=1)
        hidden_units = options.whole("hidden_units", hidden_units, least=0)
        self.declare({"jigsaw_loss": 1.0}, ["jigsaw_accuracy"])

        self.tile_model = at_size(self.feature_model, self.tile_size)
        inputs = self.tiles * tile_units
        self.tile_layer = linear(
            tile_units, self.feature_dimensions, "tile", seed=seed + 10, use_bias=False
        )
        self.tile_normalizer = _normalizer(tile_units, "tile_normalizer")
        self.hidden_layer = self.hidden_normalizer = None
        if hidden_units:
            self.hidden_layer = linear(
                hidden_units, inputs, "hidden", seed=seed + 11, use_bias=False
            )
            self.hidden_normalizer = _normalizer(hidden_units, "hidden_normalizer")
            inputs = hidden_units
        self.jigsaw_head = linear(permutations, inputs, "jigsaw_head", seed=seed + 12)
        self.seeds = [
            keras.random.SeedGenerator(seed + 20 + place, name=f"{name}_seed")
            for place, name in enumerate(("place", "shift", "color", "order", "dropout"))
        ]
        self.built = True

    def call(self, batch, training=False):
        """Computes the loss of a batch; see `Method.call`."""
        images = batch["image"]
        rows = ops.shape(images)[0]

        def draw(draw_global):
            return replicas.draw(draw_global, rows)

        tiles = self.normalize(self.cut(images, draw, self.seeds))
        features = ops.cast(self.tile_model(flatten_views(tiles), training=training), "float32")
        answers = self.draw_answers(draw, self.seeds)
        logits = self.solve(features, answers, draw, training)
        return {
            "jigsaw_loss": losses.classification_loss(logits, answers),
            "jigsaw_accuracy": losses.classification_accuracy(logits, answers),
        }

    def cut(self, images, draw, seeds):
        """Makes the tiles, in their places, with the changes of colour.

        Args:
            images: pixels 0-255, `[batch, size, size, 3]`.
            draw: function that turns a function of a number of rows, which draws for so many
                images, into what it draws for these images.
            seeds: what is drawn with, five generators or integers.

        Returns:
            float32 pixels 0-255, `[batch, grid**2, tile, tile, 3]`.
        """
        images = ops.cast(images, "float32")
        changed = images
        if self.color_drop or self.color_projection:
            drawn = draw(lambda rows: keras.random.uniform((rows, 2), seed=seeds[2]))
            changed = photometric.project_colors(images, drawn[:, 1] < self.color_projection)
        if self.channel_shift:
            most = self.channel_shift
            changed = warps.shift_channels(
                changed,
                draw(
                    lambda rows: keras.random.randint(
                        (rows, 3, 2), -most, most + 1, "int32", seed=seeds[1]
                    )
                ),
            )
        if self.color_drop:
            # Of the image as it was: shifted channels would leave fringes in the grey as well.
            grey = ops.reshape(drawn[:, 0] < self.color_drop, (-1, 1, 1, 1))
            every = ops.ones((ops.shape(images)[0],), "bool")
            changed = ops.where(grey, photometric.grayscale(images, every), changed)
        offsets = None
        if self.room:
            offsets = draw(
                lambda rows: patches.random_offsets(rows, self.grid, self.room, seeds[0])
            )
        return patches.cut_tiles(changed, self.grid, self.tile_size, offsets)

    def normalize(self, tiles):
        """Pixels of tiles to what the backbone takes."""
        return standardize(tiles) if self.tile_normalization else self.preprocess(tiles)

    def draw_answers(self, draw, seeds):
        """Draws which orderings the images are put in: int32 `[batch, permutations_per_image]`."""
        shape, count = (self.orders_per_image,), len(self.orderings)
        return draw(
            lambda rows: keras.random.randint((rows, *shape), 0, count, "int32", seed=seeds[3])
        )

    def solve(self, features, answers, draw, training=False):
        """Logits `[batch, permutations_per_image, permutations]` of the tiles put in order.

        Args:
            features: `[batch * tiles, dimensions]`, image-major, the tiles in their places.
            answers: `[batch, permutations_per_image]`, see `draw_answers`.
            draw: see `cut`.
            training: whether dropout and batch statistics apply.
        """
        tiles = self.tile_normalizer(self.tile_layer(features), training=training)
        tiles = ops.reshape(ops.relu(tiles), (-1, self.tiles, tiles.shape[-1]))
        # A tile's feature does not know of the others: ordering features is ordering tiles.
        orders = ops.take(
            ops.convert_to_tensor(self.orderings), ops.reshape(answers, (-1,)), axis=0
        )
        tiles = patches.permute_tiles(ops.repeat(tiles, self.orders_per_image, axis=0), orders)
        puzzle = ops.reshape(tiles, (-1, self.tiles * tiles.shape[-1]))
        if self.hidden_layer is not None:
            puzzle = self.hidden_normalizer(self.hidden_layer(puzzle), training=training)
            puzzle = ops.relu(puzzle)
        if training and self.dropout:
            shape = (self.orders_per_image, puzzle.shape[-1])
            kept = draw(lambda rows: keras.random.uniform((rows, *shape), seed=self.seeds[4]))
            kept = ops.reshape(kept >= self.dropout, (-1, puzzle.shape[-1]))
            puzzle = ops.where(kept, puzzle / (1.0 - self.dropout), 0.0)
        logits = self.jigsaw_head(puzzle)
        return ops.reshape(logits, (-1, self.orders_per_image, logits.shape[-1]))

    def single_image_problem(self) -> str | None:
        if self.hidden_normalizer is not None and self.orders_per_image == 1:
            return "batch normalisation of the head has one value of each unit"
        return None

    def chance_levels(self) -> dict[str, float]:
        count = len(self.orderings)
        return {"jigsaw_loss": math.log(count), "jigsaw_accuracy": 1 / count}

    def figures(self, images) -> dict:
        """Images above their puzzles as the network gets them, normalisation aside."""
        seeds = range(len(self.seeds))

        def draw(draw_global):
            return draw_global(len(images))

        tiles = self.cut(images, draw, seeds)
        answers = self.draw_answers(draw, seeds)[:, 0]
        orders = ops.take(ops.convert_to_tensor(self.orderings), answers, axis=0)
        tiles = ops.convert_to_numpy(ops.round(patches.permute_tiles(tiles, orders))).astype(
            "uint8"
        )
        puzzles = np.full_like(images, 255)
        cell = self.image_size // self.grid
        for place in range(self.tiles):
            margin = (self.image_size - self.grid * cell) // 2 + (cell - self.tile_size) // 2
            top, left = (margin + cell * k for k in divmod(place, self.grid))
            window = np.s_[:, top : top + self.tile_size, left : left + self.tile_size]
            puzzles[window] = tiles[:, place]
        rows = [np.concatenate(list(row), axis=1) for row in (images, puzzles)]
        return {"jigsaw_puzzles": np.concatenate(rows, axis=0)}


def standardize(tiles):
    """Gives each tile mean 0 and standard deviation 1 over its pixels and channels.

    A tile of one colour becomes zero: the deviation counts as at least 1 / sqrt(values), as in
    `tf.image.per_image_standardization`.

    Args:
        tiles: `[..., tile, tile, channels]`, pixels 0-255.

    Returns:
        float32, the same shape.

    >>> standardize(np.array([1.0, 3.0]).reshape(1, 2, 1)).numpy().ravel().tolist()
    [-1.0, 1.0]
    """
    tiles = ops.cast(tiles, "float32")
    axes = (-3, -2, -1)
    centred = tiles - ops.mean(tiles, axis=axes, keepdims=True)
    deviation = ops.sqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True))
    return centred / ops.maximum(deviation, 1 / math.sqrt(math.prod(tiles.shape[-3:])))


def _normalizer(units: int, name: str) -> BatchNormalization:
    layer = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype="float32", name=name)
    layer.build((None, units))
    return layer
