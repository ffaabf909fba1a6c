"""Jigsaw views: an image as tiles, each changed in colour by itself, in a random order."""

from __future__ import annotations

import keras
from keras import ops

from rfd_tf.data import patches, photometric
from rfd_tf.data.views import flatten_views
from rfd_tf.errors import unknown
from rfd_tf.layers import replicas
from rfd_tf.methods import options


class JigsawViews(keras.layers.Layer):
    """Cuts images into tiles, changes each tile by itself, and shuffles them.

    Args:
        image_size: side of the square images, pixels.
        grid: cells a side; an image has grid x grid tiles.
        tile_size: side of a tile, pixels; see `rfd_tf.data.patches.tile_sizes`. Where in its cell
            a tile is placed is random.
        permutations: how many orderings there are to draw from, chosen far apart by
            `rfd_tf.data.patches.permutation_set`; 0 for all.
        criterion: see `permutation_set`.
        color_jitter: strength s; brightness, contrast and saturation are multiplied by factors
            from max(0, 1 - s) to 1 + s.
        hue: largest turn of the colours, a share of the circle up to 0.5.
        grayscale: share of tiles made grey, 0 to 1.
        flip: whether to mirror half of the tiles.
        seed: of all that is drawn.

    Call: pixels `[batch, size, size, 3]`, 0 to 255, to float32 pixels
    `[batch, grid**2, tile, tile, 3]`. Several replicas draw what one would.

    Source: Misra and van der Maaten, PIRL, CVPR 2020, section 3.2 (all 9! orderings, each patch
    changed by itself); strengths of the published program (VISSL): 0.4, hue 0.2, grey 0.2.

    Raises:
        UserError: an option out of range.

    >>> views = JigsawViews(32)
    >>> views(ops.zeros((2, 32, 32, 3))).shape
    TensorShape([2, 9, 8, 8, 3])
    """

    def __init__(
        self,
        image_size: int,
        *,
        grid: int = 3,
        tile_size: int | None = None,
        permutations: int = 0,
        criterion: str = "sum",
        color_jitter: float = 0.0,
        hue: float = 0.0,
        grayscale: float = 0.0,
        flip: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        grid = options.whole("grid", grid, 2)
        if tile_size is not None:
            tile_size = options.whole("tile_size", tile_size, 1)
        permutations = options.whole("permutations", permutations, 0)
        if criterion not in patches.CRITERIA:
            raise unknown("criterion of the permutation set", criterion, patches.CRITERIA)
        color_jitter = options.number("tile_color_jitter", color_jitter, 0)
        hue = options.number("tile_hue", hue, 0, 0.5)
        grayscale = options.number("tile_grayscale", grayscale, 0, 1)
        cell, size = patches.tile_sizes(image_size, grid, tile_size)
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.grid = grid
        self.tiles = self.grid**2
        self.tile_size = size
        self.room = cell - size
        self.color_jitter = color_jitter
        self.hue = hue
        self.grayscale = grayscale
        self.mirrored = bool(flip)
        self.orderings = None
        if permutations:
            self.orderings = patches.permutation_set(permutations, self.tiles, criterion, seed)
        self.place_seed = keras.random.SeedGenerator(seed + 1, name="place_seed")
        self.order_seed = keras.random.SeedGenerator(seed + 2, name="order_seed")
        self.change_seed = keras.random.SeedGenerator(seed + 3, name="change_seed")
        self.built = True

    def call(self, images):
        images = ops.convert_to_tensor(images)
        batch = ops.shape(images)[0]
        offsets = None
        if self.room:
            offsets = replicas.draw(
                lambda rows: patches.random_offsets(rows, self.grid, self.room, self.place_seed),
                batch,
            )
        tiles = patches.cut_tiles(images, self.grid, self.tile_size, offsets)
        changed = self._change(ops.cast(flatten_views(tiles), "float32"), batch)
        tiles = ops.reshape(changed, (-1, *tiles.shape[1:]))
        return patches.permute_tiles(tiles, replicas.draw(self._draw_orders, batch))

    def _draw_orders(self, rows):
        if self.orderings is None:
            return patches.random_permutations(rows, self.tiles, self.order_seed)
        drawn = keras.random.randint((rows,), 0, len(self.orderings), "int32", seed=self.order_seed)
        return ops.take(ops.convert_to_tensor(self.orderings), drawn, axis=0)

    def _change(self, tiles, batch):
        """Changes every tile of `[batch * tiles, size, size, 3]` by its own random amounts."""
        if not (self.color_jitter or self.hue or self.grayscale or self.mirrored):
            return tiles
        drawn = replicas.draw(
            lambda rows: keras.random.uniform((rows, self.tiles, 6), seed=self.change_seed), batch
        )
        drawn = ops.reshape(drawn, (-1, 6))
        if self.color_jitter:
            low, high = max(0.0, 1.0 - self.color_jitter), 1.0 + self.color_jitter
            tiles = photometric.color_jitter(tiles, low + (high - low) * drawn[:, :3])
        if self.hue:
            tiles = photometric.turn_hue(tiles, self.hue * (2.0 * drawn[:, 3] - 1.0))
        if self.grayscale:
            tiles = photometric.grayscale(tiles, drawn[:, 4] < self.grayscale)
        if self.mirrored:
            tiles = photometric.mirror(tiles, drawn[:, 5] < 0.5)
        return tiles
