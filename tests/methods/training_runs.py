"""Trains a tiny method on one replica or two, for tests that compare them."""

import functools

import keras
import numpy as np
import tensorflow as tf

from rfd_tf import applications
from rfd_tf.methods.base import constructor_arguments
from rfd_tf.rules import moot
from rfd_tf.training import loop, optimizers

STEPS, BATCH, NUM_IMAGES, SIZE = 2, 4, 24, 18


def backbone(size=SIZE):
    return applications.build("six_layer", image_size=size, filters=(4, 4, 4, 4, 4, 8))


def shallow_backbone(size=SIZE):
    """The first two blocks of such a network: tests that train mostly wait for its graph."""
    whole = applications.build("six_layer", image_size=size, filters=(4, 8, 8, 8, 8, 8))
    return keras.Model(whole.input, whole.get_layer("block2").output)


def fitting(kind, common, own):
    """Options of a method: some of one's own, and of common ones those that have an effect then."""
    values = {**constructor_arguments(kind), **common, **own}
    unused = {name for name, _ in moot(kind.rules, values)}
    return {**{name: value for name, value in common.items() if name not in unused}, **own}


def batches(crops=1, steps=STEPS):
    rng = np.random.default_rng(0)
    index = np.stack([rng.permutation(NUM_IMAGES)[:BATCH] for _ in range(steps)])
    shape = (steps, BATCH, SIZE, SIZE, 3) if crops == 1 else (steps, BATCH, crops, SIZE, SIZE, 3)
    return {"image": rng.integers(0, 256, shape).astype("uint8"), "index": index.astype("int64")}


@functools.cache
def strategy_of(num_replicas):
    if num_replicas == 1:
        return tf.distribute.get_strategy()
    # Only one strategy of a process can use TensorFlow's collective operations, and that is the
    # one of test_replicas.py; this one reduces by copying.
    devices = [f"CPU:{i}" for i in range(num_replicas)]
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)


def compiled(build, make_optimizer, num_replicas):
    """Makes a method from a backbone, and its optimizer, under the strategy that trains it."""
    with strategy_of(num_replicas).scope():
        method, optimizer = build(shallow_backbone()), make_optimizer()
        method.compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(method.trainable_variables)
    return method


def train(build, num_replicas=1, crops=1, images=None):
    """Trains for a few steps.

    Args:
        build: makes the method from a backbone.
        num_replicas: 1 or 2.
        crops: of every image.
        images: see `Method.begin_epoch`.

    Returns:
        The method's weights by place and name, and `losses`, the logs of every step.
    """
    keras.utils.set_random_seed(5)
    method = compiled(build, lambda: optimizers.SGD(0.05, coupled_weight_decay=5e-4), num_replicas)
    logged = []

    class Collect(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            logged.append([float(value) for value in logs.values()])

    loop.train(
        method,
        tf.data.Dataset.from_tensor_slices(batches(crops)),
        epochs=1,
        steps_per_epoch=STEPS,
        strategy=strategy_of(num_replicas),
        callbacks=[Collect()],
        images=images,
    )
    state = {f"{i} {v.name}": np.asarray(v) for i, v in enumerate(method.variables)}
    return {**state, "losses": np.array(logged)}


def assert_replicas_agree(build, crops=1, images=None):
    """Fails unless two replicas end with the weights, state and losses of one."""
    one, two = (train(build, count, crops, images) for count in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-5, atol=1e-5, err_msg=name)
