"""RFD whose instance half must recognise an image from its shuffled tiles as well."""

from __future__ import annotations

import keras
from keras import ops

from rfd_tf.applications.image_size import at_size
from rfd_tf.data import views
from rfd_tf.errors import UserError
from rfd_tf.layers import generators
from rfd_tf.methods import options
from rfd_tf.methods.heads import TilesEmbedding
from rfd_tf.methods.jigsaw_views import JigsawViews
from rfd_tf.methods.rotation_feature_decoupling import RotationFeatureDecoupling
from rfd_tf.rules import ON, Rule


class JigsawFeatureDecoupling(RotationFeatureDecoupling):
    """Rotation Feature Decoupling with PIRL's jigsaw views for its instance half.

    The feature is split and trained as in RFD. Beside it, the image is cut into tiles, which are
    changed in colour by themselves and shuffled; a head on the second halves f2 of their features
    embeds them, and must recognise the image's row of RFD's own memory bank, which holds the
    embedding of the image's mean f2. So f2 is asked to be indifferent to rotation and to the
    order of the parts, while f1 still predicts the rotation.

    Args:
        backbone, num_images, **kwargs: see `RotationFeatureDecoupling`; without its instance loss
            there is no bank to recognise in. The feature must not follow dense layers on a map
            (with AlexNet, `feature_endpoint="conv5"`).
        lambda_jigsaw: weight of the jigsaw views' loss, above 0.
        grid, tile_size, permutations, criterion: of the jigsaw views; see
            `rfd_tf.methods.jigsaw_views.JigsawViews`.
        tile_color_jitter, tile_hue, tile_grayscale, tile_flip: changes of every tile by itself.
        seed: of the heads, the bank, the negatives and the views.

    Batch: as RFD's; of several crops of an image the first is cut into tiles.

    Sources: Feng, Xu, Tao, CVPR 2019; Misra and van der Maaten, CVPR 2020. The combination is
    neither's.

    Raises:
        UserError: a weight not above 0, no instance loss, and see `RotationFeatureDecoupling`.

    >>> import numpy as np
    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", image_size=32)
    >>> method = JigsawFeatureDecoupling(backbone, num_images=100)
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> sorted(method(batch))[:3]
    ['distance_loss', 'instance_loss', 'jigsaw_loss']
    """

    any_image_size = False
    rules = (
        *RotationFeatureDecoupling.rules,
        Rule(("criterion",), {"permutations": ON}, "which stands for all orderings"),
    )

    def __init__(
        self,
        backbone: keras.Model,
        num_images: int,
        *,
        lambda_jigsaw: float = 1.0,
        grid: int = 3,
        tile_size: int | None = None,
        permutations: int = 0,
        criterion: str = "sum",
        tile_color_jitter: float = 0.4,
        tile_hue: float = 0.2,
        tile_grayscale: float = 0.2,
        tile_flip: bool = True,
        seed: int = 0,
        **kwargs,
    ):
        lambda_jigsaw = options.number("lambda_jigsaw", lambda_jigsaw, 0)
        if not lambda_jigsaw:
            raise UserError(f"lambda_jigsaw {lambda_jigsaw} must be above 0; or use method rfd")
        if not kwargs.get("lambda_instance", 1.0):
            raise UserError("jigsaw views need the instance loss; give lambda_instance above 0")
        added = {"jigsaw_loss": lambda_jigsaw}
        super().__init__(backbone, num_images, seed=seed, added_losses=added, **kwargs)
        self.jigsaw = JigsawViews(
            self.image_size,
            grid=grid,
            tile_size=tile_size,
            permutations=permutations,
            criterion=criterion,
            color_jitter=tile_color_jitter,
            hue=tile_hue,
            grayscale=tile_grayscale,
            flip=tile_flip,
            seed=seed + 30,
            name="jigsaw",
        )
        self.tile_size = self.jigsaw.tile_size
        self.tile_model = at_size(self.feature_model, self.tile_size)
        self.jigsaw_projection = TilesEmbedding(
            self.recognition.dimensions,
            self.split[1],
            self.jigsaw.tiles,
            seed=seed + 14,
            name="jigsaw_projection",
        )
        self.jigsaw_constant = self.recognition.make_constant("jigsaw_constant")

    def call(self, batch, training=False):
        """Computes the losses of a batch; see `Method.call`. The bank moves only in training."""
        images = ops.convert_to_tensor(batch["image"])
        # First, since RFD's own losses end in an update of the bank.
        jigsaw_loss = self.recognition.loss(
            self.embed_tiles(images[:, 0] if len(images.shape) == 5 else images, training),
            batch["index"],
            constant=self.jigsaw_constant,
            training=training,
        )
        return {**super().call(batch, training=training), "jigsaw_loss": jigsaw_loss}

    @generators.kept_outside_training
    def embed_tiles(self, images, training=False):
        """Embeddings `[batch, projection_dimensions]`, of length 1, of pixels cut into tiles."""
        tiles = self.preprocess(views.flatten_views(self.jigsaw(images)))
        _, f2 = self.split_features(ops.cast(self.tile_model(tiles, training=training), "float32"))
        return self.jigsaw_projection(ops.reshape(f2, (-1, self.jigsaw.tiles, self.split[1])))

    def chance_levels(self) -> dict[str, float]:
        return {**super().chance_levels(), "jigsaw_loss": self.recognition.chance_level()}
