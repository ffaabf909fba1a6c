"""DeepCluster (Caron, Bojanowski, Joulin, Douze, ECCV 2018)."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from rfd_tf import applications, losses
from rfd_tf.errors import UserError
from rfd_tf.methods import clustering, options
from rfd_tf.methods.base import Method
from rfd_tf.methods.heads import linear

# The published head starts from N(0, 0.01).
_HEAD_DEVIATION = 0.01
# The clusters of the picture, a row each, and the images of each.
_SHOWN_CLUSTERS, _SHOWN_IMAGES = 8, 8
# Uses of random numbers, each with its own stream.
_KMEANS, _HEAD, _ORDER, _PICTURE = range(4)


class DeepCluster(Method):
    """Clusters the images by their features, then learns to classify them by cluster, alternately.

    Before an epoch, the features of all images, not augmented and with the moving statistics of
    batch normalisation, are whitened and brought to length 1; k-means divides them. The epoch
    trains the backbone and a new linear head to predict which cluster an augmented image is in.

    Args:
        backbone: functional Keras model from normalised pixels to features. The published one
            begins with Sobel filters: `--backbone_option=sobel=true`.
        num_images: images of the dataset.
        num_clusters: how many clusters; about ten times the number of classes serves best (paper,
            section 4.1).
        cluster_layer: name of the backbone's layer whose output is clustered, its map averaged
            over positions; the feature when None. Published: `fc7_bn` of AlexNet, `fc7` before its
            ReLU.
        pca_dimensions: principal components that are kept, at most.
        kmeans_iterations: of k-means, at most.
        kmeans_library: `sklearn`, or `faiss` where it is installed; see
            `rfd_tf.methods.clustering.k_means`.
        uniform_sampling: whether an epoch draws its images evenly from the clusters, so that large
            ones do not rule; otherwise it takes each image once. (The published program means to,
            but numbers its images in two ways, and so draws them at random.)
        cluster_every: epochs between clusterings; the head is kept as long as the clusters.
        seed: of the head, k-means and the sampling.
        **kwargs: see `Method`.

    Logged beside the loss:
        `cluster_nmi`: normalised mutual information with the clustering before, 0 to 1; 0 for the
            first. It rises as the clusters settle.
        `clusters`: how many have images.
        `largest_cluster`: the share of the images that is in the largest. When the features
            collapse it goes to 1 and `clusters` to 1; the loss is then 0.

    The published head is trained by an SGD of its own, without momentum; here the run's optimizer
    trains it, and resets its state when the head is reset. All features are held
    in memory, float32: 21 GB for ImageNet and 4,096 dimensions. With several devices one of them
    computes the features.

    Raises:
        UserError: an option out of range, a layer that the backbone lacks, a library that is not
            installed.

    >>> backbone = applications.build("six_layer", image_size=32, sobel=True)
    >>> method = DeepCluster(backbone, num_images=100, num_clusters=10)
    >>> method.chance_levels()["cluster_accuracy"]
    0.1
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_images: int,
        *,
        num_clusters: int = 100,
        cluster_layer: str | None = None,
        pca_dimensions: int = 256,
        kmeans_iterations: int = 20,
        kmeans_library: str = "sklearn",
        uniform_sampling: bool = True,
        cluster_every: int = 1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.num_images = int(num_images)
        self.num_clusters = options.whole("num_clusters", num_clusters, least=2)
        if self.num_clusters > self.num_images:
            raise UserError(
                f"num_clusters {num_clusters} is more than the {num_images} images; choose fewer"
            )
        self.pca_dimensions = options.whole("pca_dimensions", pca_dimensions, least=1)
        self.kmeans_iterations = options.whole("kmeans_iterations", kmeans_iterations, least=1)
        self.kmeans_library = kmeans_library
        clustering.check_library(kmeans_library)
        self.uniform_sampling = bool(uniform_sampling)
        self.cluster_every = options.whole("cluster_every", cluster_every, least=1)
        self.seed = int(seed) % 2**63
        diagnostics = ["cluster_accuracy", "cluster_nmi", "clusters", "largest_cluster"]
        self.declare({"cluster_loss": 1.0}, diagnostics)

        self.cluster_model = self.feature_model
        if cluster_layer is not None:
            self.cluster_model = applications.pooled_feature_model(backbone, cluster_layer)
        self.cluster_head = linear(
            self.num_clusters, self.feature_dimensions, "cluster_head", seed=seed + 10
        )
        # In the weights, so that a checkpoint has them. (TensorFlow keeps int32 off GPUs.)
        self.assignments = self._state("assignments", np.zeros(self.num_images, "int64"))
        self.clustered_epoch = self._state("clustered_epoch", np.array(-1))
        # `cluster_nmi`, `clusters` and `largest_cluster`.
        self.facts = self._state("facts", np.array([0, self.num_clusters, 0], "float32"))
        self._images = self._compiled = None
        self.built = True

    def _state(self, name: str, value: np.ndarray):
        return self.add_weight(
            shape=value.shape,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            dtype=str(value.dtype),
            autocast=False,
            name=name,
        )

    def call(self, batch, training=False):
        """Computes the loss of a batch; see `Method.call`."""
        features = self.features(self.preprocess(batch["image"]), training=training)
        labels = ops.take(ops.convert_to_tensor(self.assignments), batch["index"])
        facts = ops.convert_to_tensor(self.facts)
        # Outputs beyond the last cluster are none.
        there = ops.arange(self.num_clusters, dtype="float32") < facts[1]
        logits = ops.where(there, self.cluster_head(features), -1e9)
        return {
            "cluster_loss": losses.classification_loss(logits, labels),
            "cluster_accuracy": losses.classification_accuracy(logits, labels),
            "cluster_nmi": facts[0],
            "clusters": facts[1],
            "largest_cluster": facts[2],
        }

    def chance_levels(self) -> dict[str, float]:
        count = self.num_clusters
        return {"cluster_loss": math.log(count), "cluster_accuracy": 1 / count}

    def begin_epoch(self, epoch: int, images=None) -> None:
        """Clusters the images and resets the head, unless the epoch's clusters exist."""
        self._images = images
        last = self._last()
        if 0 <= last <= epoch < last + self.cluster_every:
            return
        if images is None:
            raise UserError("DeepCluster needs all images before each epoch: give `images`")
        self.take_clusters(self.find_clusters(images, epoch), epoch)

    def find_clusters(self, images, epoch: int) -> np.ndarray:
        """Clusters all images by their features as they are.

        Args:
            images: see `Method.begin_epoch`.
            epoch: that is to begin; it decides the first centroids.

        Returns:
            int64 `[num_images]`; -1 for an image that cannot be read.

        Raises:
            UserError: none of the images can be read.
        """
        read, features = self._features_of(images)
        points = clustering.whiten(features, self.pca_dimensions)
        found = clustering.k_means(
            points,
            min(self.num_clusters, len(points)),
            iterations=self.kmeans_iterations,
            seed=int(self._random(_KMEANS, epoch).integers(2**31)),
            library=self.kmeans_library,
        )
        assignments = np.full(self.num_images, -1, "int64")
        assignments[read] = found
        return assignments

    def take_clusters(self, assignments: np.ndarray, epoch: int) -> None:
        """Sets the clusters to be predicted, and resets the head.

        Args:
            assignments: int64 `[num_images]`, each image's cluster, without gaps from 0; -1 for an
                image in none.
            epoch: that is to begin; it decides the head's weights.
        """
        sizes = np.bincount(assignments[assignments >= 0])
        agreement = 0.0
        if self._last() >= 0:
            before = ops.convert_to_numpy(self.assignments)
            both = (before >= 0) & (assignments >= 0)
            agreement = clustering.normalized_mutual_information(before[both], assignments[both])
        self.assignments.assign(assignments)
        self.clustered_epoch.assign(epoch)
        self.facts.assign([agreement, float(len(sizes)), float(sizes.max() / sizes.sum())])
        kernel, bias = self.cluster_head.kernel, self.cluster_head.bias
        drawn = self._random(_HEAD, epoch).normal(0.0, _HEAD_DEVIATION, kernel.shape)
        kernel.assign(drawn.astype("float32"))
        bias.assign(np.zeros(bias.shape, "float32"))
        self.reset_optimizer_state([kernel, bias])

    def epoch_order(self, epoch: int, count: int) -> np.ndarray:
        """Draws the images of an epoch, evenly from the clusters or each once."""
        assignments = ops.convert_to_numpy(self.assignments)
        draw = clustering.uniform_order if self.uniform_sampling else clustering.random_order
        return draw(assignments, count, self._random(_ORDER, epoch))

    def figures(self, images) -> dict:
        """Some clusters drawn at random, a row each of images drawn from it."""
        if self._images is None:
            return {}
        shown = self._shown(self._random(_PICTURE, self._last()))
        size = self.image_size
        picture = np.full((len(shown) * size, _SHOWN_IMAGES * size, 3), 255, "uint8")
        places = {
            int(index): (row * size, column * size)
            for row, members in enumerate(shown)
            for column, index in enumerate(members)
        }
        for batch in self._images(np.array(sorted(places))):
            for image, index in zip(batch["image"], batch["index"], strict=True):
                top, left = places[int(index)]
                picture[top : top + size, left : left + size] = np.asarray(image)
        return {"sample_clusters": picture}

    def _shown(self, rng: np.random.Generator) -> list[np.ndarray]:
        assignments = ops.convert_to_numpy(self.assignments)
        count = int(assignments.max()) + 1
        chosen = np.sort(rng.choice(count, min(count, _SHOWN_CLUSTERS), replace=False))
        members = (np.flatnonzero(assignments == cluster) for cluster in chosen)
        return [rng.permutation(each)[:_SHOWN_IMAGES] for each in members]

    def _last(self) -> int:
        """The epoch that began with the present clusters, -1 before the first."""
        return int(ops.convert_to_numpy(self.clustered_epoch))

    def _random(self, use: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, use, epoch])

    def _features_of(self, images) -> tuple[np.ndarray, np.ndarray]:
        """Returns which images could be read, int64 `[n]`, and their features, float32 `[n, d]`."""
        read, count = np.empty(self.num_images, "int64"), 0
        features = np.empty((self.num_images, self.cluster_model.output_shape[-1]), "float32")
        for batch in images():
            index = np.asarray(batch["index"])
            rows = slice(count, count + len(index))
            features[rows] = ops.convert_to_numpy(self._evaluate(batch["image"]))
            read[rows] = index
            count += len(index)
        if not count:
            raise UserError("none of the images can be read; is their folder still there?")
        return read[:count], features[:count]

    def _evaluate(self, images):
        if self._compiled is None:

            def features(images):
                outputs = self.cluster_model(self.preprocess(images), training=False)
                return ops.cast(outputs, "float32")

            self._compiled = features
            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                size = self.image_size
                signature = [tf.TensorSpec((None, size, size, 3), "uint8")]
                self._compiled = tf.function(features, input_signature=signature, autograph=False)
        return self._compiled(images)
