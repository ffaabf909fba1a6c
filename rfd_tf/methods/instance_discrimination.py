"""Non-parametric instance discrimination (Wu, Xiong, Yu, Lin, CVPR 2018)."""

from __future__ import annotations

import keras

from rfd_tf.methods.base import Method
from rfd_tf.methods.heads import Embedding
from rfd_tf.methods.recognition import RULES, InstanceRecognition


class InstanceDiscrimination(Method):
    """Recognises each image among all others, by the embedding it had before.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        num_images: images in the dataset, one row of the memory bank each.
        projection_dimensions: length of an embedding.
        projection_hidden: units of a hidden layer with ReLU; 0 for the paper's linear projection.
        temperature, negatives, num_negatives, normalizer, exclude_positive, bank_momentum,
        bank_initialization, bank_dtype: see `rfd_tf.methods.recognition.InstanceRecognition`. The
            published program: 0.07 (0.1 on CIFAR-10), `per_image`, 4096, `first_batch`, False,
            0.5, `uniform`, `float32`.
        instance_loss: `nce`, or `softmax`, exact over the whole bank, which the paper finds better
            on CIFAR-10.
        seed: of the head, the bank and the negatives.
        **kwargs: see `Method`.

    Batch: `{"image": [batch, size, size, 3] pixels 0-255, "index": [batch] integers}`. An
    optional entry `"negatives": [batch, count] integers` prescribes the NCE's negatives.

    Its chance level is that of embeddings which have nothing to do with their rows. In the first
    epoch over a random bank each row is just that; filling the bank first spares this.

    Raises:
        UserError: unknown options, or no more images than negatives.

    >>> import numpy as np
    >>> from rfd_tf import applications
    >>> backbone = applications.build("six_layer", image_size=32)
    >>> method = InstanceDiscrimination(backbone, num_images=100, instance_loss="softmax")
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.array([0, 1])}
    >>> list(method(batch)), round(method.chance_levels()["instance_loss"], 2)
    (['instance_loss'], 4.61)
    """

    rules = RULES

    def __init__(
        self,
        backbone: keras.Model,
        num_images: int,
        *,
        projection_dimensions: int = 128,
        projection_hidden: int = 0,
        temperature: float = 0.07,
        instance_loss: str = "nce",
        negatives: str = "shared",
        num_negatives: int | None = None,
        normalizer: str = "running",
        exclude_positive: bool = True,
        bank_momentum: float = 0.5,
        bank_initialization: str = "unit",
        bank_dtype: str = "float32",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.declare({"instance_loss": 1.0})
        self.projection = Embedding(
            projection_dimensions,
            self.feature_dimensions,
            projection_hidden,
            seed=seed + 11,
            name="projection",
        )
        self.recognition = InstanceRecognition(
            num_images,
            projection_dimensions,
            temperature=temperature,
            loss=instance_loss,
            negatives=negatives,
            num_negatives=num_negatives,
            normalizer=normalizer,
            exclude_positive=exclude_positive,
            bank_momentum=bank_momentum,
            bank_initialization=bank_initialization,
            bank_dtype=bank_dtype,
            seed=seed + 12,
        )
        self.num_negatives = self.recognition.num_negatives
        self.memory_bank = self.recognition.bank
        self.normalizing_constant = self.recognition.constant
        self.built = True

    def call(self, batch, training=False):
        """Computes the loss of a batch; see `Method.call`. The bank moves only in training."""
        index = batch["index"]
        embedding = self.embed(batch["image"], training=training)
        loss = self.recognition.loss(embedding, index, batch.get("negatives"), training=training)
        if training:
            self.memory_bank.update(index, embedding)
        return {"instance_loss": loss}

    def embed(self, images, training=False):
        """Embeddings `[batch, projection_dimensions]`, of length 1, of pixels."""
        return self.projection(self.features(self.preprocess(images), training=training))

    def fill_memory_bank(self, batch) -> None:
        """Replaces the bank's rows of a batch by its embeddings, with the batch's statistics."""
        embedding = self.embed(batch["image"], training=True)
        self.memory_bank.update(batch["index"], embedding, momentum=0.0)

    def chance_levels(self) -> dict[str, float]:
        return {"instance_loss": self.recognition.chance_level()}

    def heads(self) -> dict[str, keras.layers.Dense]:
        """The projection of the image's embedding."""
        return self.projection.layers_by_name()
