"""One replica and several train alike: losses, weights, statistics, bank and constant."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_runs

from rfd_tf.layers import BatchNormalization
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import loop, optimizers

STEPS, BATCH, NUM_IMAGES = 3, 8, 24


def small_backbone():
    inputs = x = keras.Input((16, 16, 3))
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, x)


def batches(duplicate):
    rng = np.random.default_rng(0)
    index = np.stack([rng.permutation(NUM_IMAGES)[:BATCH] for _ in range(STEPS)])
    if duplicate:
        index[:, -1] = index[:, 0]
    images = rng.integers(0, 256, (STEPS, BATCH, 16, 16, 3)).astype("uint8")
    return {"image": images, "index": index.astype("int64")}


@functools.cache
def strategy_of(num_replicas):
    if num_replicas == 1:
        return tf.distribute.get_strategy()
    # TensorFlow tells collective operations apart by numbers that every strategy counts from the
    # start; only one in a process can use them, and the other reduces by copying.
    reduction = None if num_replicas == 2 else tf.distribute.ReductionToOneDevice()
    devices = [f"CPU:{i}" for i in range(num_replicas)]
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)


def train(num_replicas, duplicate=False, gradient_accumulation=1, **options):
    strategy = strategy_of(num_replicas)
    keras.utils.set_random_seed(5)
    with strategy.scope():
        backbone = small_backbone()
        method = RotationFeatureDecoupling(
            backbone,
            NUM_IMAGES,
            gradient_accumulation=gradient_accumulation,
            **training_runs.fitting(
                RotationFeatureDecoupling,
                {"num_negatives": 10, "projection_dimensions": 8, "temperature": 0.2},
                options,
            ),
        )
        optimizer = optimizers.SGD(0.05, coupled_weight_decay=5e-4)
        method.compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(method.trainable_variables)
    dataset = tf.data.Dataset.from_tensor_slices(batches(duplicate))
    losses = []

    class Collect(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append([float(value) for value in logs.values()])

    loop.train(
        method, dataset, epochs=1, steps_per_epoch=STEPS, strategy=strategy, callbacks=[Collect()]
    )
    state = {f"{i} {v.name}": np.asarray(v) for i, v in enumerate(method.variables)}
    state["losses"] = np.array(losses)
    return state, method, strategy


@functools.cache
def trained_alone(**options):
    """What one replica ends with, with which several tests compare."""
    return train(1, **options)[0]


CASES = {
    "shared negatives, running constant": {},
    "negatives an image, first-batch constant": {
        "negatives": "per_image",
        "normalizer": "first_batch",
    },
    "exact softmax": {"instance_loss": "softmax"},
    "duplicate indices": {"duplicate": True},
    "contrast over the global batch": {
        "lambda_contrast": 1.0,
        "projection_hidden": 6,
        "instance_views": "each",
    },
}


def assert_trained_alike(one, two):
    assert one.keys() == two.keys()
    for name in one:
        if "seed" in name:
            np.testing.assert_array_equal(two[name], one[name], name)
        np.testing.assert_allclose(two[name], one[name], rtol=2e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_two_replicas_train_as_one(case):
    two, *_ = train(2, **CASES[case])
    assert_trained_alike(trained_alone(**CASES[case]), two)


def test_two_replicas_train_as_one_by_the_fused_update_of_large_weights(monkeypatch):
    one = trained_alone()
    monkeypatch.setattr(optimizers, "_FUSED_FROM", 0)
    two, *_ = train(2)
    assert_trained_alike(one, two)


def test_four_replicas_train_as_one_and_stay_equal():
    one = trained_alone()
    four, method, strategy = train(4)
    assert_trained_alike(one, four)
    # No replica drifts: each holds the same bank and moving statistics, bit for bit.
    for variable in [method.memory_bank.bank, *method.backbone.non_trainable_variables]:
        copies = [value.numpy() for value in strategy.experimental_local_results(variable.value)]
        assert len(copies) == 4
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])


def test_gradient_accumulation_without_batch_statistics_is_the_whole_batch():
    # With frozen statistics and no instance loss, the parts' mean gradient is the batch's.
    options = {"lambda_instance": 0.0}
    results = []
    for parts in (1, 4):
        keras.utils.set_random_seed(5)
        backbone = small_backbone()
        for layer in backbone.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        method = RotationFeatureDecoupling(
            backbone, NUM_IMAGES, gradient_accumulation=parts, **options
        )
        optimizer = optimizers.SGD(0.05)
        method.compile(optimizer=optimizer, jit_compile=False)
        data = tf.data.Dataset.from_tensor_slices(batches(False))
        loop.train(method, data, epochs=1, steps_per_epoch=STEPS)
        results.append(method.get_weights())
    for whole, parts in zip(*results, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)


def test_unsynchronised_statistics_stay_equal_over_replicas():
    strategy = strategy_of(2)
    with strategy.scope():
        layer = BatchNormalization(synchronized=False, momentum=0.5)
        layer.build((None, 4, 4, 3))
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 4, 3)).astype("float32")
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(x[context.replica_id_in_sync_group])
    )
    strategy.run(tf.function(lambda part: layer(part, training=True)), args=(values,))
    copies = [v.numpy() for v in strategy.experimental_local_results(layer.moving_mean.value)]
    np.testing.assert_array_equal(*copies)
    np.testing.assert_allclose(copies[0], 0.5 * x.mean((0, 1, 2, 3)), atol=1e-6)
