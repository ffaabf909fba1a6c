"""DeepCluster: labels, turns of clustering and learning, the head, collapse, replicas, options."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_runs

from rfd_tf.data import ArraySource
from rfd_tf.errors import UserError
from rfd_tf.methods import base, clustering
from rfd_tf.methods.deepcluster import DeepCluster
from rfd_tf.training import optimizers, pretraining

SIZE, COUNT = training_runs.SIZE, training_runs.NUM_IMAGES


def _pixels():
    # Three kinds of images: dark, middle, light.
    rng = np.random.default_rng(0)
    levels = np.repeat([40, 120, 200], COUNT // 3)[:, None, None, None]
    return (levels + rng.integers(-30, 30, (COUNT, SIZE, SIZE, 3))).astype("uint8")


PIXELS = _pixels()


def images(indices=None):
    indices = np.arange(COUNT) if indices is None else np.asarray(indices)
    for start in range(0, len(indices), 7):
        index = indices[start : start + 7]
        yield {"image": tf.constant(PIXELS[index]), "index": tf.constant(index)}


def _method(**options):
    return DeepCluster(training_runs.backbone(), COUNT, **{"num_clusters": 3, **options})


def _compiled(name="sgd", **options):
    method = _method(**options)
    method.compile(optimizer=optimizers.build(name, 0.1), jit_compile=False)
    method.optimizer.build(method.trainable_variables)
    return method


def _batch(index):
    return {"image": PIXELS[index], "index": np.asarray(index)}


def test_clusters_are_those_of_whitened_features_in_evaluation_mode():
    method = _method(pca_dimensions=4, seed=3)
    found = method.find_clusters(images, epoch=5)
    features = np.asarray(method.features(method.preprocess(PIXELS), training=False))
    seed = int(np.random.default_rng([3, 0, 5]).integers(2**31))
    expected = clustering.k_means(clustering.whiten(features, 4), 3, seed=seed)
    np.testing.assert_array_equal(found, expected)
    kinds = np.repeat(np.arange(3), COUNT // 3)
    assert clustering.normalized_mutual_information(found, kinds) > 0.3


def test_another_layer_may_be_clustered():
    method = _method(cluster_layer="block6_conv_bn")
    read, features = method._features_of(images)
    np.testing.assert_array_equal(read, np.arange(COUNT))
    # Before the ReLU there are negative values.
    assert features.shape == (COUNT, 8) and features.min() < 0
    with pytest.raises(UserError, match="unknown endpoint 'fc7_bn'"):
        _method(cluster_layer="fc7_bn")


def test_the_loss_is_cross_entropy_over_the_clusters_there_are():
    method = _method(num_clusters=5)
    method.take_clusters(np.arange(COUNT) % 3, epoch=0)
    index = [4, 9, 2, 11]
    outputs = {name: float(value) for name, value in method(_batch(index)).items()}
    features = np.asarray(method.features(method.preprocess(PIXELS[index])))
    head = method.cluster_head
    logits = (features @ np.asarray(head.kernel) + np.asarray(head.bias))[:, :3]
    right = logits[np.arange(4), np.array(index) % 3]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - right)
    assert outputs["cluster_loss"] == pytest.approx(expected, rel=1e-5)
    assert outputs["clusters"] == 3 and outputs["largest_cluster"] == pytest.approx(1 / 3)


def test_an_epoch_begins_with_new_clusters_and_a_new_head():
    method = _compiled()
    order = []
    for epoch in range(2):
        method.begin_epoch(epoch, images)
        method.train_step(_batch([0, 9, 17, 23]))
        order.append(method.epoch_order(epoch, 12))
    kernel, bias = method.cluster_head.trainable_variables
    slots = {v.path: v for v in method.optimizer.variables}
    momentum = [np.asarray(v) for path, v in slots.items() if "cluster_head" in path]
    others = [np.asarray(v) for path, v in slots.items() if "block1_conv" in path]
    assert len(momentum) == 2 and all(m.any() for m in momentum + others)
    assert not np.array_equal(*order)
    method.begin_epoch(2, images)
    assert int(method.clustered_epoch) == 2
    # The head starts again: small weights, no bias, no momentum; the backbone goes on.
    assert np.asarray(kernel).std() < 0.02 and not np.asarray(bias).any()
    assert not any(np.asarray(v).any() for path, v in slots.items() if "cluster_head" in path)
    kept = [np.asarray(v) for path, v in slots.items() if "block1_conv" in path]
    for before, after in zip(others, kept, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_every_optimizer_forgets_the_head_alone(name):
    method = _compiled(name)
    method.begin_epoch(0, images)
    method.train_step(_batch([0, 9, 17, 23]))
    steps = int(method.optimizer.iterations)
    before = {v.path: np.asarray(v).any() for v in method.optimizer.variables}
    method.begin_epoch(1, images)
    after = {v.path: np.asarray(v).any() for v in method.optimizer.variables}
    forgotten = {path for path in before if before[path] and not after[path]}
    assert forgotten == {path for path in before if "cluster_head" in path}
    assert len(forgotten) >= 2 and int(method.optimizer.iterations) == steps == 1


OPTIMIZERS = {
    "own": lambda: optimizers.SGD(0.1),
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(amsgrad=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(momentum=0.9, centered=True),
    "accumulated": lambda: keras.optimizers.Adamax(gradient_accumulation_steps=2),
    "averaged": lambda: keras.optimizers.Lion(use_ema=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_keeps_of_a_weight_is_found_by_names(name):
    optimizer = OPTIMIZERS[name]()
    # Of one path, of one name once slashes are gone, and with a name that begins another.
    names = ["a", "a", "a_b", "a_momentum", "b", "b"]
    weights = [keras.Variable(np.full((2, 3), 1.0), dtype="float32", name=name) for name in names]
    with keras.name_scope("a"):
        weights.append(keras.Variable(np.full((2, 3), 1.0), dtype="float32", name="b"))
    optimizer.build(weights)
    found = [base._optimizer_slots(optimizer, weight, weights) for weight in weights]
    # Only the weight that has a gradient moves what is kept of it.
    for chosen, own in enumerate(found):
        gradients = [tf.fill((2, 3), float(number == chosen)) for number in range(len(weights))]
        for slot in optimizer.variables:
            if tuple(slot.shape) == (2, 3):
                slot.assign(np.zeros((2, 3)))
        optimizer.apply(gradients, weights)
        changed = {
            id(slot)
            for slot in optimizer.variables
            if tuple(slot.shape) == (2, 3) and "average" not in slot.name and np.any(slot)
        }
        assert changed and changed <= {id(slot) for slot in own}
        assert not {id(slot) for other in found if other is not own for slot in other} & changed
    every = [id(slot) for slots in found for slot in slots]
    assert len(set(every)) == len(every)
    assert set(every) == {id(v) for v in optimizer.variables if tuple(v.shape) == (2, 3)}


def test_an_epoch_that_goes_on_keeps_its_clusters():
    method = _compiled()
    method.begin_epoch(4, images)
    method.train_step(_batch([0, 9, 17, 23]))
    before = [np.array(v) for v in method.variables]
    method.begin_epoch(4, images)
    for one, other in zip(before, method.variables, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other))


def test_clusters_may_stay_for_several_epochs():
    method = _method(cluster_every=3)
    epochs = []
    for epoch in range(5):
        method.begin_epoch(epoch, images)
        epochs.append(int(method.clustered_epoch))
    assert epochs == [0, 0, 0, 3, 3]
    # The images of an epoch are drawn anew all the same.
    assert not np.array_equal(method.epoch_order(3, 24), method.epoch_order(4, 24))


def test_the_agreement_with_the_clusters_before_is_logged():
    method = _method()
    first, second = np.arange(COUNT) % 3, np.arange(COUNT) % 2
    expected = [0, 1, clustering.normalized_mutual_information(first[4:], second[4:])]
    second[:4] = -1
    for epoch, clusters in enumerate((first, (first + 1) % 3, second)):
        method.take_clusters(clusters, epoch)
        nmi = float(method(_batch([20, 21]))["cluster_nmi"])
        assert nmi == pytest.approx(expected[epoch], abs=1e-6)


def test_images_are_drawn_evenly_or_each_once():
    clusters = np.array([0] * 20 + [1, 1, 2, 2])
    for uniform, counts in ((True, [8, 8, 8]), (False, [20, 2, 2])):
        method = _method(uniform_sampling=uniform)
        method.take_clusters(clusters, epoch=0)
        order = method.epoch_order(0, COUNT)
        found = np.bincount(clusters[order])
        assert np.abs(found - counts).max() <= 3 * uniform
        np.testing.assert_array_equal(order, method.epoch_order(0, COUNT))


def test_images_that_cannot_be_read_are_in_no_cluster():
    def some(indices=None):
        return ({k: v[1:] for k, v in batch.items()} for batch in images(indices))

    method = _method()
    method.begin_epoch(0, some)
    lost = np.arange(0, COUNT, 7)
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(method.assignments) < 0), lost)
    assert not set(lost) & set(method.epoch_order(0, 200))
    assert method.figures(None)
    with pytest.raises(UserError, match="none of the images can be read"):
        method.begin_epoch(1, lambda: ())


def test_a_collapse_shows():
    method = _method()
    for variable in method.backbone.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    method.begin_epoch(0, images)
    outputs = {name: float(value) for name, value in method(_batch([0, 9, 17])).items()}
    assert outputs["clusters"] == outputs["largest_cluster"] == 1
    assert outputs["cluster_loss"] == pytest.approx(0, abs=1e-6)
    assert set(method.epoch_order(0, 24)) <= set(range(COUNT))


def test_the_picture_has_a_row_for_each_cluster():
    method = _method()
    assert method.figures(PIXELS[:8]) == {}
    method.begin_epoch(0, images)
    (picture,) = method.figures(PIXELS[:8]).values()
    assert picture.shape == (3 * SIZE, 8 * SIZE, 3) and picture.dtype == np.uint8
    again = method.figures(PIXELS[:8])["sample_clusters"]
    np.testing.assert_array_equal(picture, again)
    clusters = np.asarray(method.assignments)
    for row in range(3):
        members = PIXELS[clusters == row]
        for column in range(8):
            one = picture[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            white = (one == 255).all() and column >= len(members)
            assert white or (members == one).all(axis=(1, 2, 3)).any()


def test_two_replicas_train_as_one():
    build = functools.partial(DeepCluster, num_images=COUNT, num_clusters=3, seed=1)
    training_runs.assert_replicas_agree(build, images=images)


def test_training_takes_the_images_that_the_method_draws():
    drawn, seen = [], []

    class Watched(DeepCluster):
        def epoch_order(self, epoch, count):
            drawn.append(super().epoch_order(epoch, count))
            return drawn[-1]

        def call(self, batch, training=False):
            tf.py_function(lambda index: seen.append(index.numpy()), [batch["index"]], [])
            return super().call(batch, training)

    session = pretraining.Pretraining(
        build_backbone=training_runs.backbone,
        build_method=lambda backbone: Watched(backbone, COUNT, num_clusters=3),
        source=ArraySource(PIXELS),
        image_size=SIZE,
        optimization=pretraining.Optimization(epochs=2, batch_size=6),
    )
    session.train()
    assert [len(order) for order in drawn] == [COUNT, COUNT]
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate(drawn))
    # Beginning within the second epoch, with its clusters there, the rest of it follows.
    seen.clear()
    session.train(start_step=6)
    np.testing.assert_array_equal(np.concatenate(seen), drawn[1][12:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 25}, "num_clusters 25 is more than the 24 images"),
        ({"num_clusters": 1}, "num_clusters 1 must be at least 2"),
        ({"pca_dimensions": 0}, "pca_dimensions 0 must be at least 1"),
        ({"kmeans_iterations": 0.5}, "kmeans_iterations 0.5 must be a whole number"),
        ({"kmeans_library": "torch"}, "unknown k-means library 'torch'"),
        ({"cluster_every": 0}, "cluster_every 0 must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(UserError, match=message):
        _method(**options)


def test_clustering_needs_images():
    with pytest.raises(UserError, match="needs all images before each epoch"):
        _method().begin_epoch(0)
