"""Recognising an image among all others: what the methods with a memory bank share."""

from __future__ import annotations

import functools
import math
from typing import Literal

import keras
from keras import ops

from rfd_tf import losses
from rfd_tf.errors import UserError, unknown
from rfd_tf.layers import MemoryBank, NormalizingConstant
from rfd_tf.losses.nce_ratio import nce_ratio
from rfd_tf.methods.base import Method
from rfd_tf.rules import AllBut, Rule

INSTANCE_LOSSES = ("nce", "softmax")
NCE_FORMS = ("constant", "ratio")
NEGATIVES = ("shared", "per_image")


def default_negatives(num_images: int) -> int:
    """4096, or half as many as there are images."""
    return min(4096, max(1, num_images // 2))


#: When options of a method with a memory bank have an effect.
RULES = (
    Rule(
        ("negatives", "num_negatives", "normalizer", "exclude_positive"),
        {"instance_loss": AllBut(("softmax",))},
        "which compares with the whole bank",
    ),
)


class InstanceRecognition:
    """Compares embeddings with the rows of a memory bank, one an image.

    It holds layers and is none: a method that owns one keeps its `bank` and its `constant` as
    attributes of its own, so that their state is saved with the method.

    Args:
        num_images: images in the dataset.
        dimensions: length of an embedding.
        temperature: divides the similarities, above 0.
        loss: `nce`, or `softmax` (exact over the whole bank, for small sets).
        form: of the NCE: with a normalising `constant` (Wu et al., CVPR 2018) or as a `ratio`
            (PIRL); see `rfd_tf.losses.nce` and `rfd_tf.losses.nce_ratio.nce_ratio`.
        negatives: `shared` (one set a batch) or `per_image`.
        num_negatives: negatives of the NCE; see `default_negatives` for None.
        normalizer: see `rfd_tf.layers.NormalizingConstant`.
        exclude_positive: never draw an image as its own negative.
        bank_momentum, bank_initialization, bank_dtype: see `rfd_tf.layers.MemoryBank`.
        seed: of the bank and the negatives.

    Raises:
        UserError: unknown options, or no more images than negatives.

    >>> import numpy as np
    >>> recognition = InstanceRecognition(20, 4, temperature=0.1, loss="softmax")
    >>> rows = recognition.bank.lookup(np.array([3, 5]))
    >>> float(recognition.loss(rows, np.array([3, 5]))) < recognition.chance_level()
    True
    """

    def __init__(
        self,
        num_images: int,
        dimensions: int,
        *,
        temperature: float = 0.07,
        loss: str = "nce",
        form: str = "constant",
        negatives: str = "shared",
        num_negatives: int | None = None,
        normalizer: str = "running",
        exclude_positive: bool = True,
        bank_momentum: float = 0.5,
        bank_initialization: str = "unit",
        bank_dtype: str = "float32",
        seed: int = 0,
    ):
        if num_negatives is None:
            num_negatives = default_negatives(num_images)
        check(num_images, temperature, loss, form, negatives, num_negatives, exclude_positive)
        self.num_images = int(num_images)
        self.dimensions = int(dimensions)
        self.temperature = float(temperature)
        self.kind = loss
        self.form = form
        self.shared_negatives = negatives == "shared"
        self.num_negatives = int(num_negatives)
        self.exclude_positive = bool(exclude_positive)
        self.normalizer = normalizer
        self.bank = MemoryBank(
            num_images,
            dimensions,
            momentum=bank_momentum,
            initialization=bank_initialization,
            storage_dtype=bank_dtype,
            seed=seed,
            name="memory_bank",
        )
        self.constant = self.make_constant("normalizing_constant")

    def make_constant(self, name: str) -> NormalizingConstant | None:
        """A normalising constant for one more kind of embedding; None where none is needed."""
        if self.kind != "nce" or self.form != "constant":
            return None
        return NormalizingConstant(
            self.num_images, self.dimensions, self.temperature, mode=self.normalizer, name=name
        )

    def loss(self, embedding, index, negatives=None, constant=None, training=False):
        """The loss of embeddings against their rows of the bank, which is not updated.

        Args:
            embedding: `[batch, dimensions]`, of length 1.
            index: `[batch]` integers, the images' own rows.
            negatives: `[batch, count]` integers, the rows to compare with; drawn when None.
            constant: the normalising constant of these embeddings; the own one when None.
            training: whether the constant follows the batch.

        Returns:
            A scalar, float32.
        """
        if self.kind == "softmax":
            return losses.instance_softmax(embedding, self.bank.rows(), index, self.temperature)
        logits, valid = self.logits(embedding, index, negatives)
        if self.form == "ratio":
            return nce_ratio(logits, valid)
        every = None
        if valid is not None:
            every = ops.concatenate([ops.ones_like(valid[:, :1]), valid], axis=1)
        constant = self.constant if constant is None else constant
        return losses.nce(
            logits, constant(logits, every, training=training), self.num_images, valid
        )

    def logits(self, embedding, index, negatives=None):
        """Similarities to the bank's rows / temperature, as the NCE takes them.

        Args:
            embedding: `[batch, dimensions]`, of length 1.
            index: `[batch]` integers, the images' own rows.
            negatives: `[batch, count]` integers, the rows to compare with; drawn when None.

        Returns:
            A pair: logits `[batch, 1 + negatives]`, column 0 the positive; and `valid`, see
            `MemoryBank.negatives`.
        """
        valid = None
        if negatives is None:
            negatives, valid = self.bank.negatives(
                index, self.num_negatives, self.shared_negatives, self.exclude_positive
            )
        positive = ops.sum(embedding * self.bank.lookup(index), axis=-1, keepdims=True)
        rows = self.bank.lookup(negatives)
        if len(rows.shape) == 2:
            similarities = ops.matmul(embedding, ops.transpose(rows))
        else:
            similarities = ops.squeeze(ops.matmul(rows, ops.expand_dims(embedding, -1)), -1)
        return ops.concatenate([positive, similarities], axis=1) / self.temperature, valid

    def chance_level(self) -> float:
        """The loss of embeddings that have nothing to do with their rows."""
        if self.kind == "softmax":
            return math.log(self.num_images)
        return losses.nce_chance_level(self.num_negatives, self.dimensions, self.temperature)


def check(
    num_images: int,
    temperature: float,
    loss: str,
    form: str,
    negatives: str,
    num_negatives: int,
    exclude_positive: bool,
) -> None:
    """Raises a `UserError` for options of `InstanceRecognition` that cannot be."""
    if loss not in INSTANCE_LOSSES:
        raise unknown("instance loss", loss, INSTANCE_LOSSES)
    if form not in NCE_FORMS:
        raise unknown("form of the NCE", form, NCE_FORMS)
    if negatives not in NEGATIVES:
        raise unknown("kind of negatives", negatives, NEGATIVES)
    if temperature <= 0:
        raise UserError(f"temperature {temperature} must be above 0")
    if num_negatives < 1:
        raise UserError(f"num_negatives {num_negatives} must be at least 1")
    # (The published program draws from all images with replacement, however few they are.)
    if loss == "nce" and exclude_positive and num_images <= num_negatives:
        raise UserError(
            f"{num_images} images are too few for {num_negatives} negatives; give fewer "
            "negatives (--num_negatives), or the exact softmax (--instance_loss=softmax)"
        )


class MemoryBankMethod(Method):
    """Base of the methods that recognise each image among all others by a memory bank.

    Its arguments are those of every such method, beside the method's own.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        num_images: images in the dataset, one row of the memory bank each.
        projection_dimensions: length of the embedding in the bank.
        projection_hidden: units of a hidden layer with ReLU between the feature and the embedding;
            0 for a linear projection, as in the papers.
        temperature: divides the similarities, above 0.
        instance_loss: `nce`, or `softmax` (exact over the whole bank, for small sets).
        negatives: `shared` (one set a batch) or `per_image`.
        num_negatives: K, negatives of the NCE; 4096, or half as many as there are images, if None.
        normalizer: how NCE's constant is found: `first_batch`, `running` or `analytic`.
        exclude_positive: never draw an image as its own negative. `False` is the published
            program's way; there may then be more negatives than images.
        bank_momentum: share of an image's old row that an update keeps, 0 to 1.
        bank_initialization: first rows: `unit` (random directions) or `uniform` (random values,
            the published program).
        bank_dtype: `float32`, or `bfloat16` for half the memory.
        **kwargs: see `Method`.

    Raises:
        UserError: unknown options, or a number out of its range.

    >>> from rfd_tf.methods import METHODS
    >>> sorted(name for name, kind in METHODS.items() if issubclass(kind, MemoryBankMethod))
    ['distillation', 'instance', 'pirl', 'rfd', 'rfd_jigsaw']
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
        instance_loss: Literal["nce", "softmax"] = "nce",
        negatives: Literal["shared", "per_image"] = "shared",
        num_negatives: int | None = None,
        normalizer: Literal["first_batch", "running", "analytic"] = "running",
        exclude_positive: bool = True,
        bank_momentum: float = 0.5,
        bank_initialization: Literal["unit", "uniform"] = "unit",
        bank_dtype: Literal["float32", "bfloat16"] = "float32",
        **kwargs,
    ):
        if projection_hidden < 0:
            raise UserError(f"projection_hidden {projection_hidden} must be 0 or more units")
        if projection_dimensions < 1:
            raise UserError(f"projection_dimensions {projection_dimensions} must be at least 1")
        if num_negatives is None:
            num_negatives = default_negatives(num_images)
        # Whether there are images enough is asked where negatives are drawn.
        check(num_images, temperature, instance_loss, "constant", negatives, num_negatives, False)
        super().__init__(backbone, **kwargs)
        self.num_images = int(num_images)
        self.num_negatives = int(num_negatives)
        self.temperature = float(temperature)
        self.embedding_sizes = (int(projection_dimensions), int(projection_hidden))
        self._make_recognition = functools.partial(
            InstanceRecognition,
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
        )

    def add_memory_bank(self, seed: int, form: str = "constant") -> NormalizingConstant | None:
        """Creates the memory bank and what compares with it; a constructor calls it once.

        Args:
            seed: of the bank and the negatives.
            form: of the NCE, see `InstanceRecognition`.

        Returns:
            The normalising constant, for the method to keep as an attribute.

        Raises:
            UserError: no more images than negatives.
        """
        self.recognition = self._make_recognition(form=form, seed=seed)
        self.memory_bank = self.recognition.bank
        return self.recognition.constant
