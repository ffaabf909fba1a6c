"""Non-parametric instance discrimination (Wu, Xiong, Yu, Lin, CVPR 2018)."""

from __future__ import annotations

import keras

from rfd_tf.methods.heads import Embedding
from rfd_tf.methods.recognition import MemoryBankMethod


class InstanceDiscrimination(MemoryBankMethod):
    """Recognises each image among all others, by the embedding it had before.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        num_images: images in the dataset, one row of the memory bank each.
        seed: of the head, the bank and the negatives.
        **kwargs: see `rfd_tf.methods.recognition.MemoryBankMethod`. The published program has
            `temperature` 0.07 (0.1 on CIFAR-10), `negatives` `per_image`, `num_negatives` 4096,
            `normalizer` `first_batch`, `exclude_positive` False, `bank_momentum` 0.5 and
            `bank_initialization` `uniform`; the paper finds `instance_loss` `softmax` better on
            CIFAR-10.

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

    any_image_size = True

    def __init__(self, backbone: keras.Model, num_images: int, *, seed: int = 0, **kwargs):
        super().__init__(backbone, num_images, **kwargs)
        self.declare({"instance_loss": 1.0})
        dimensions, hidden = self.embedding_sizes
        self.projection = Embedding(
            dimensions, self.feature_dimensions, hidden, seed=seed + 11, name="projection"
        )
        self.normalizing_constant = self.add_memory_bank(seed + 12)
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
