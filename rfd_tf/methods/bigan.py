"""Bidirectional generative adversarial networks, BiGAN (Donahue et al., ICLR 2017)."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from rfd_tf import losses
from rfd_tf.layers import BatchNormalization, replicas
from rfd_tf.methods import bigan_networks, options
from rfd_tf.methods.base import Method


class BiGAN(Method):
    """Learns to encode images by a game with a discriminator of pairs (image, latent).

    The encoder E is the backbone with a linear layer on its feature; the generator G makes images
    of latents z, drawn uniformly from -1 to 1. The discriminator D classifies pairs (x, E(x))
    against pairs (G(z), z); E and G are trained to have each taken for the other. Where neither
    side can win, G and E invert one another.

    All three are updated in one step: D by its loss alone, E and G by the loss with swapped labels,
    which passes through D but does not move it. Both are of the same weights, as published.

    Args:
        backbone: functional Keras model from normalised pixels to features.
        latent_dimensions: length of z; the paper has 50 for digits and 200 for photographs.
        generated_size: side of the images that G makes and D sees, at least 16; that of the
            backbone's when None. Smaller, the backbone alone sees the fine image (the paper's
            generalised BiGAN: 112 and 64).
        generator_width: channels of the generator's largest map.
        discriminator_width: channels of the discriminator's first map.
        weight_penalty: so much times half the sum of the squares of all weights, but for batch
            normalisation's scales, is added to the loss: the published weight decay, which goes
            through the optimizer's moments. Run with `--weight_decay=0`.
        latent_normalization: whether each of the encoder's latents is normalised over the batch
            and brought to the generator's distribution, uniform from -1 to 1 where it was normal,
            by the error function; not published, where a sigmoid does it. In a short run D can
            then not tell the two by their latents' spread alone.
        seed: of the three networks and the latents.
        **kwargs: see `Method`.

    Logged beside the losses: `discriminator_accuracy`; `reconstruction_error`, the root mean square
    difference of x and G(E(x)) (pixels from -1 to 1), averaged over the images; and
    `reconstruction_ratio`, that divided by the same for G(E(x)) and another image. For these
    G and batch normalisation are as in use, not as in training.

    The generalised BiGAN's images are resized here from those of the backbone. The encoder is the
    backbone as it is, of ReLU and with maps averaged over their positions; the published one has
    leaky ReLU and ends in a linear layer on the map.

    Raises:
        UserError: an option out of range, images too small.

    >>> from rfd_tf import applications
    >>> method = BiGAN(applications.build("six_layer", image_size=32), generator_width=4)
    >>> batch = {"image": np.zeros((2, 32, 32, 3), "uint8"), "index": np.arange(2)}
    >>> round(float(method(batch)["discriminator_loss"]), 4)  # of a discriminator without opinion
    0.6931
    """

    def __init__(
        self,
        backbone: keras.Model,
        *,
        latent_dimensions: int = 200,
        generated_size: int | None = None,
        generator_width: int = 64,
        discriminator_width: int = 64,
        weight_penalty: float = 2.5e-5,
        latent_normalization: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        latent = options.whole("latent_dimensions", latent_dimensions, least=1)
        widths = [
            options.whole("generator_width", generator_width, least=1),
            options.whole("discriminator_width", discriminator_width, least=1),
        ]
        penalty = options.number("weight_penalty", weight_penalty, least=0)
        super().__init__(backbone, **kwargs)
        size = self.image_size
        if generated_size is not None:
            least = bigan_networks.MIN_SIZE
            size = options.whole("generated_size", generated_size, least, self.image_size)
        self.generated_size, self.latent_dimensions = size, latent
        declared = {"discriminator_loss": 1.0, "encoder_generator_loss": 1.0}
        if penalty:
            declared["weight_penalty"] = penalty
        self.declare(
            declared, ["discriminator_accuracy", "reconstruction_error", "reconstruction_ratio"]
        )
        self.generator = bigan_networks.generator(size, latent, widths[0], seed + 20)
        self.discriminator = bigan_networks.discriminator(size, latent, widths[1], seed + 21)
        self.latent_head = keras.layers.Dense(
            latent,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02, seed=seed + 10),
            dtype="float32",
            name="latent_head",
        )
        self.latent_head.build((None, self.feature_dimensions))
        self.latent_normalizer = None
        if latent_normalization:
            # (The head begins with small weights, so a usual epsilon would rule.)
            self.latent_normalizer = BatchNormalization(
                momentum=0.9,
                epsilon=1e-8,
                center=False,
                scale=False,
                dtype="float32",
                name="latent_normalizer",
            )
            self.latent_normalizer.build((None, latent))
        self.latent_seed = keras.random.SeedGenerator(seed + 12, name="latent_seed")
        self.built = True

    def call(self, batch, training=False):
        """Computes the losses of a batch; see `Method.call`."""
        real = self.scaled(batch["image"])
        latent = replicas.draw(
            lambda rows: keras.random.uniform(
                (rows, self.latent_dimensions), -1.0, 1.0, seed=self.latent_seed
            ),
            ops.shape(real)[0],
        )
        encoded = self.encode(batch["image"], training=training)
        generated = self.generator(latent, training=training)
        # Two batches, each with its own statistics, as published.
        predicted = [
            self.discriminator(pair, training=training)
            for pair in (
                [real, ops.stop_gradient(encoded)],
                [ops.stop_gradient(generated), latent],
            )
        ]
        opposed = [
            self._discriminate_fixed(pair, training)
            for pair in ([real, encoded], [generated, latent])
        ]
        outputs = {
            "discriminator_loss": losses.adversarial_loss(*predicted),
            "encoder_generator_loss": losses.adversarial_loss(*opposed, swapped=True),
            "discriminator_accuracy": losses.discrimination_accuracy(*predicted),
            **self._reconstruction(real, ops.stop_gradient(encoded)),
        }
        if "weight_penalty" in self.loss_weights:
            decayed = [each for each in self.trainable_variables if each.name != "gamma"]
            squares = [ops.sum(ops.square(ops.cast(each, "float32"))) for each in decayed]
            outputs["weight_penalty"] = 0.5 * sum(squares)
        return outputs

    def _discriminate_fixed(self, pair, training):
        """The discriminator's logits, whose gradients reach the pair and not its weights."""
        network = self.discriminator
        logits, _ = network.stateless_call(
            [
                ops.stop_gradient(ops.convert_to_tensor(each))
                for each in network.trainable_variables
            ],
            [ops.convert_to_tensor(each) for each in network.non_trainable_variables],
            pair,
            training=training,
        )
        # (The second update of the moving statistics is left out with the rest of the state.)
        return logits

    def _reconstruction(self, real, encoded) -> dict:
        rows = ops.shape(real)[0]
        again = ops.stop_gradient(self.generator(encoded, training=False))
        # That of the image before, over all replicas.
        other = replicas.local_slice(ops.roll(replicas.gather(again), 1, axis=0), rows)
        error, unrelated = (
            replicas.all_mean(ops.mean(ops.sqrt(ops.mean(ops.square(real - each), axis=(1, 2, 3)))))
            for each in (again, other)
        )
        ratio = error / ops.maximum(unrelated, 1e-6)
        return {"reconstruction_error": error, "reconstruction_ratio": ratio}

    def scaled(self, images):
        """Pixels 0-255 to what the discriminator sees: -1 to 1, of side `generated_size`."""
        images = ops.cast(images, "float32")
        if self.generated_size != self.image_size:
            side = (self.generated_size, self.generated_size)
            images = ops.image.resize(images, side, antialias=True, data_format="channels_last")
        return images / 127.5 - 1.0

    def encode(self, images, training=False):
        """Latents E(x) `[batch, latent_dimensions]`, from -1 to 1, of pixels 0-255."""
        features = self.features(self.preprocess(images), training=training)
        latents = self.latent_head(features)
        if self.latent_normalizer is None:
            return 2.0 * ops.sigmoid(latents) - 1.0
        # Twice the distribution function of N(0, 1), less 1: uniform where they are normal.
        return ops.erf(self.latent_normalizer(latents, training=training) / math.sqrt(2))

    def single_image_problem(self) -> str | None:
        return "batch normalisation of the generator and the discriminator has one image each"

    def chance_levels(self) -> dict[str, float]:
        return {
            "discriminator_loss": math.log(2),
            "encoder_generator_loss": math.log(2),
            "discriminator_accuracy": 0.5,
            "reconstruction_ratio": 1.0,
        }

    def heads(self) -> dict[str, keras.layers.Dense]:
        return {"projection": self.latent_head}

    def figures(self, images) -> dict:
        """Images x above their reconstructions G(E(x)); and images G(z) of random latents."""
        count, columns = 32, 8
        rng = np.random.default_rng(0)
        latent = rng.uniform(-1, 1, (count, self.latent_dimensions)).astype("float32")
        again, samples = (
            self.generator(each, training=False) for each in (self.encode(images), latent)
        )
        return {
            "reconstructions": _sheet([self.scaled(images), again]),
            "samples": _sheet(ops.split(samples, count // columns)),
        }


def _sheet(rows) -> np.ndarray:
    """Images from -1 to 1, `[columns, size, size, 3]` a row, as a picture, uint8."""
    pixels = [np.clip(np.round(127.5 * (ops.convert_to_numpy(row) + 1)), 0, 255) for row in rows]
    return np.concatenate(
        [np.concatenate(list(row.astype("uint8")), axis=1) for row in pixels], axis=0
    )
