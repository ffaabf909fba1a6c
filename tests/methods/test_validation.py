"""A validation pass leaves a method as it is: training goes on as if there had been none."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_runs
from test_order_of_updates import SMALL

from rfd_tf.layers import generators
from rfd_tf.methods import METHODS
from rfd_tf.training import loop, optimizers

COUNT = training_runs.NUM_IMAGES
VALIDATION = {
    "image": np.random.default_rng(9)
    .integers(0, 256, (3 * 4, training_runs.SIZE, training_runs.SIZE, 3))
    .astype("uint8"),
    "index": np.arange(12),
}


def _pass(method, crops):
    """Everything that looks at images outside training."""
    data = dict(VALIDATION)
    if crops > 1:
        data["image"] = np.stack([data["image"]] * crops, axis=1)
    first = method.evaluate(tf.data.Dataset.from_tensor_slices(data).batch(4), verbose=0)
    again = method.evaluate(tf.data.Dataset.from_tensor_slices(data).batch(4), verbose=0)
    np.testing.assert_array_equal(first, again)
    batch = {name: value[:4] for name, value in data.items()}
    method(batch)
    method.call(batch, training=False)
    method.figures(VALIDATION["image"][:3])
    method.named_features(VALIDATION["image"][:3])
    if method.memory_bank is not None and hasattr(method, "instance_logits"):
        method.instance_logits(np.eye(4, 128, dtype="float32"), np.arange(4))
    for name in ("embed_transformed", "embed_tiles"):
        if hasattr(method, name):
            getattr(method, name)(VALIDATION["image"][:3])


def _state(method):
    """Everything that a training step depends on: weights, banks, generators, sums of the logs."""
    held = [*method.variables, *method.optimizer.variables]
    # (Those of the loss are of Keras' own trainer.)
    return [(v.path, v.numpy()) for v in held if not v.path.startswith("loss")]


@pytest.mark.parametrize("name", METHODS)
def test_a_validation_pass_changes_nothing_that_training_depends_on(name):
    options, crops = SMALL[name]
    keras.utils.set_random_seed(5)
    build = functools.partial(METHODS[name], **options)
    method = training_runs.compiled(build, lambda: optimizers.SGD(0.05), 1)
    if name == "deepcluster":
        method.take_clusters(np.arange(COUNT) % 3, 0)

    passes = []

    class Validation(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            before = _state(method)
            _pass(method, crops)
            for (path, old), (_, new) in zip(before, _state(method), strict=True):
                np.testing.assert_array_equal(new, old, path)
            passes.append(batch)

    loop.train(
        method,
        tf.data.Dataset.from_tensor_slices(training_runs.batches(crops)),
        epochs=1,
        steps_per_epoch=training_runs.STEPS,
        callbacks=[Validation()],
    )
    assert len(passes) == training_runs.STEPS


def test_fit_with_validation_data_trains_as_without():
    def fitted(**options):
        keras.utils.set_random_seed(5)
        build = functools.partial(METHODS["pirl"], **SMALL["pirl"][0])
        method = training_runs.compiled(build, lambda: optimizers.SGD(0.05), 1)
        method.fit(
            tf.data.Dataset.from_tensor_slices(training_runs.batches(2)),
            epochs=2,
            shuffle=False,
            verbose=0,
            **options,
        )
        return method

    data = {**VALIDATION, "image": np.stack([VALIDATION["image"]] * 2, axis=1)}
    held_out = tf.data.Dataset.from_tensor_slices(data).batch(4)
    plain, validated = fitted(), fitted(validation_data=held_out)
    for one, other in zip(plain.get_weights(), validated.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(validated.history.history) == {
        prefix + name for prefix in ("", "val_") for name in validated.log_names
    }


def test_evaluate_returns_the_means_over_all_batches():
    method = training_runs.compiled(METHODS["rotation"], lambda: optimizers.SGD(0.05), 1)
    batches = [
        {name: value[start : start + 4] for name, value in VALIDATION.items()}
        for start in (0, 4, 8)
    ]
    wanted = np.mean([float(method(batch)["rotation_loss"]) for batch in batches])
    dataset = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(4)
    logs = method.evaluate(dataset, return_dict=True, verbose=0)
    assert logs["rotation_loss"] == pytest.approx(wanted, rel=1e-5)
    assert logs["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_backbone_with_dropout_is_left_alone_outside_training():
    inputs = x = keras.Input((18, 18, 3))
    x = keras.layers.Dropout(0.5, seed=3)(keras.layers.Conv2D(4, 3)(x))
    method = METHODS["rotation"](keras.Model(inputs, x))
    (state,) = generators.states(method)
    batch = {name: value[:4] for name, value in VALIDATION.items()}
    before = state.numpy()
    method(batch)
    np.testing.assert_array_equal(state.numpy(), before)
    method(batch, training=True)
    assert (state.numpy() != before).any()
