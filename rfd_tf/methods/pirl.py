"""Pretext-invariant representations, PIRL (Misra, van der Maaten, CVPR 2020)."""

from __future__ import annotations

import keras
from keras import ops

from rfd_tf.applications.image_size import at_size
from rfd_tf.data import views
from rfd_tf.errors import unknown
from rfd_tf.layers import generators, replicas
from rfd_tf.methods import options
from rfd_tf.methods.heads import Embedding, TilesEmbedding
from rfd_tf.methods.jigsaw_views import JigsawViews
from rfd_tf.methods.recognition import MemoryBankMethod
from rfd_tf.rules import ON, AllBut, Rule

TRANSFORMS = ("jigsaw", "rotation", "both")
_JIGSAW_OPTIONS = (
    "grid",
    "tile_size",
    "permutations",
    "criterion",
    "tile_color_jitter",
    "tile_hue",
    "tile_grayscale",
    "tile_flip",
)


class PretextInvariantRepresentations(MemoryBankMethod):
    """Recognises an image from itself and from a transformed version of itself.

    Two heads stand on the backbone: f for the image, g for its transformed version. Both
    embeddings must be recognised as the image's row of a memory bank, which holds f of the
    untransformed image only:
    loss = lambda_transformed * transformed_loss + (1 - lambda_transformed) * image_loss.

    Args:
        backbone: functional Keras model from normalised pixels to features. For jigsaw views its
            layers up to the feature are also applied to tiles; the feature must not follow dense
            layers on a map (with AlexNet, `feature_endpoint="conv5"`).
        num_images: images in the dataset, one row of the memory bank each.
        transform: `jigsaw` (shuffled tiles; g projects each tile, and all together), `rotation`
            (by a random multiple of 90 degrees; g is linear), or `both` (rotated, then cut into
            tiles).
        lambda_transformed: 0 to 1; 0 is instance discrimination.
        nce_form: `ratio` (the paper), or `constant` (the published program, VISSL).
        grid, tile_size, permutations, criterion: of the jigsaw views; see
            `rfd_tf.methods.jigsaw_views.JigsawViews`. 0 permutations stand for all 9! (the paper).
        tile_color_jitter, tile_hue, tile_grayscale, tile_flip: changes of every tile by itself;
            the defaults are VISSL's, less its posterising, solarising and sharpening.
        seed: of the heads, the bank, the negatives and the views.
        **kwargs: see `rfd_tf.methods.recognition.MemoryBankMethod`. The paper has `temperature`
            0.07 and 32,000 negatives, which are drawn separately for each of the two losses.

    Batch: `{"image": [batch, size, size, 3] pixels 0-255, "index": [batch] integers}`; images
    `[batch, 2, size, size, 3]` give the transformed version a crop of its own, as in the paper.
    There a crop for tiles keeps 60 % of the image or more, and is 255 pixels wide instead of 224;
    here both crops are drawn alike.

    Raises:
        UserError: unknown options, or no more images than negatives.

    >>> import numpy as np
    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", image_size=32)
    >>> method = PretextInvariantRepresentations(backbone, num_images=100)
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> sorted(method(batch))
    ['image_loss', 'transformed_loss']
    """

    crops = (1, 2)
    rules = (
        *MemoryBankMethod.rules,
        Rule(("nce_form",), {"instance_loss": AllBut(("softmax",))}),
        Rule(("normalizer",), {"nce_form": AllBut(("ratio",))}),
        Rule(("transform", *_JIGSAW_OPTIONS), {"lambda_transformed": ON}),
        Rule(_JIGSAW_OPTIONS, {"transform": AllBut(("rotation",))}),
        Rule(("criterion",), {"permutations": ON}, "which stands for all orderings"),
    )

    def __init__(
        self,
        backbone: keras.Model,
        num_images: int,
        *,
        transform: str = "jigsaw",
        lambda_transformed: float = 0.5,
        nce_form: str = "ratio",
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
        if transform not in TRANSFORMS:
            raise unknown("transform", transform, TRANSFORMS)
        lambda_transformed = options.number("lambda_transformed", lambda_transformed, 0, 1)
        super().__init__(backbone, num_images, **kwargs)
        weights = {
            "image_loss": 1.0 - lambda_transformed,
            "transformed_loss": lambda_transformed,
        }
        self.declare({name: weight for name, weight in weights.items() if weight})
        dimensions, hidden = self.embedding_sizes
        self.projection = Embedding(
            dimensions, self.feature_dimensions, hidden, seed=seed + 11, name="projection"
        )
        self.image_constant = self.add_memory_bank(seed + 12, nce_form)
        self.rotation_seed = self.jigsaw = self.tile_model = None
        self.transformed_projection = self.transformed_constant = None
        if lambda_transformed:
            self.transformed_constant = self.recognition.make_constant("transformed_constant")
            if transform != "jigsaw":
                self.rotation_seed = keras.random.SeedGenerator(seed + 20, name="rotation_seed")
            if transform != "rotation":
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
                self.transformed_projection = TilesEmbedding(
                    dimensions,
                    self.feature_dimensions,
                    self.jigsaw.tiles,
                    seed=seed + 14,
                    name="transformed_projection",
                )
            else:
                self.transformed_projection = Embedding(
                    dimensions,
                    self.feature_dimensions,
                    hidden,
                    seed=seed + 14,
                    name="transformed_projection",
                )
        self.built = True

    def call(self, batch, training=False):
        """Computes the losses of a batch; see `Method.call`. The bank moves only in training."""
        index, images = batch["index"], ops.convert_to_tensor(batch["image"])
        image, other = images, images
        if len(images.shape) == 5:
            image, other = images[:, 0], images[:, 1]
        embedding = self.embed(image, training=training)
        outputs = {}
        if "image_loss" in self.loss_weights:
            outputs["image_loss"] = self.recognition.loss(embedding, index, training=training)
        if "transformed_loss" in self.loss_weights:
            outputs["transformed_loss"] = self.recognition.loss(
                self.embed_transformed(other, training=training),
                index,
                constant=self.transformed_constant,
                training=training,
            )
        if training:
            self.memory_bank.update(index, embedding)
        return outputs

    def embed(self, images, training=False):
        """f: embeddings `[batch, projection_dimensions]`, of length 1, of pixels."""
        return self.projection(self.features(self.preprocess(images), training=training))

    @generators.kept_outside_training
    def embed_transformed(self, images, training=False):
        """g: embeddings `[batch, projection_dimensions]` of randomly transformed pixels."""
        if self.rotation_seed is not None:
            turns = replicas.draw(
                lambda rows: keras.random.randint(
                    (rows,), 0, views.NUM_ROTATIONS, "int32", seed=self.rotation_seed
                ),
                ops.shape(images)[0],
            )
            images = views.rotate_each(images, turns)
        if self.jigsaw is None:
            features = self.features(self.preprocess(images), training=training)
            return self.transformed_projection(features)
        tiles = self.preprocess(views.flatten_views(self.jigsaw(images)))
        features = ops.cast(self.tile_model(tiles, training=training), "float32")
        shape = (-1, self.jigsaw.tiles, self.feature_dimensions)
        return self.transformed_projection(ops.reshape(features, shape))

    def fill_memory_bank(self, batch) -> None:
        """Replaces the bank's rows of a batch by its embeddings, with the batch's statistics."""
        embedding = self.embed(batch["image"], training=True)
        self.memory_bank.update(batch["index"], embedding, momentum=0.0)

    def chance_levels(self) -> dict[str, float]:
        return {name: self.recognition.chance_level() for name in self.loss_weights}

    def heads(self) -> dict[str, keras.layers.Dense]:
        """The projection of the image's embedding."""
        return self.projection.layers_by_name()
