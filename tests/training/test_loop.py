"""The loop: whole epochs, several steps a call, Keras' own fit, and losses that go wrong."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationFeatureDecoupling, RotationPrediction
from rfd_tf.training import callbacks, checkpoint, loop, optimizers
from rfd_tf.training.checkpoint import CheckpointFolder
from rfd_tf.training.saving import BackgroundSaver

STEPS = 4


def make(rate=0.02, **options):
    keras.utils.set_random_seed(1)
    backbone = applications.build("six_layer", image_size=16, filters=(4, 4, 4, 4, 4, 8))
    method = RotationFeatureDecoupling(backbone, 16, num_negatives=6, temperature=0.2, **options)
    method.compile(optimizer=optimizers.SGD(rate), jit_compile=False)
    method.optimizer.build(method.trainable_variables)
    return method


def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS, 4, 16, 16, 3)).astype("uint8")
    index = rng.permutation(16).reshape(STEPS, 4)
    return tf.data.Dataset.from_tensor_slices({"image": images, "index": index}).repeat()


class Collect(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


def train(method, epochs=2, **options):
    collect = Collect()
    loop.train(
        method, dataset(), epochs=epochs, steps_per_epoch=STEPS, callbacks=[collect], **options
    )
    return collect.epochs


def test_several_steps_a_call_train_as_single_steps():
    one, many = make(), make()
    logs = train(one), train(many, steps_per_execution=3)
    for a, b in zip(*logs, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for a, b in zip(one.get_weights(), many.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_steps_compiled_by_xla_train_as_others():
    def trained(**how):
        keras.utils.set_random_seed(1)
        image = keras.Input((16, 16, 3))
        backbone = keras.Model(image, keras.layers.Conv2D(4, 5, activation="relu")(image))
        method = RotationPrediction(backbone)
        method.compile(optimizer=optimizers.SGD(0.02), jit_compile=False)
        method.optimizer.build(method.trainable_variables)
        return train(method, epochs=1, steps_per_execution=2, **how), method.get_weights()

    (plain_logs, plain), (xla_logs, xla) = trained(), trained(jit_compile=True)
    assert xla_logs[0] == pytest.approx(plain_logs[0], rel=1e-4)
    for a, b in zip(plain, xla, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_batches_copied_to_a_device_are_the_same():
    def seen(device):
        iterator = iter(loop.distribute(tf.distribute.get_strategy(), dataset(), device))
        step = tf.function(lambda: next(iterator)["index"])
        return [step().numpy().tolist() for _ in range(STEPS + 1)]

    assert seen("/CPU:0") == seen(None)


def test_logs_are_the_epochs_means():
    method = make()
    seen = []

    class Each(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(logs["loss"]))

    collect = Collect()
    loop.train(method, dataset(), epochs=1, steps_per_epoch=STEPS, callbacks=[Each(), collect])
    # Each log is the mean so far, so the steps' own values follow from it.
    values = np.diff(np.array(seen) * np.arange(1, STEPS + 1), prepend=0)
    assert collect.epochs[0]["loss"] == pytest.approx(values.mean(), rel=1e-5)
    assert len(set(np.round(values, 4))) > 1


def test_starting_within_an_epoch_trains_the_rest_of_it():
    method = make()
    loop.train(method, dataset(), epochs=2, steps_per_epoch=STEPS, start_step=6)
    assert int(method.optimizer.iterations) == 2


def test_keras_fit_trains_the_method_too():
    method = make(fill_bank=False)
    history = method.fit(dataset(), epochs=2, steps_per_epoch=STEPS, verbose=0)
    ours = train(make())
    for epoch in range(2):
        for name in ("loss", "rotation_loss", "instance_loss"):
            assert history.history[name][epoch] == pytest.approx(ours[epoch][name], rel=1e-4)


def test_a_loss_that_is_no_number_is_named():
    method = make()
    method.projection.kernel.assign(np.full(method.projection.kernel.shape, np.nan))
    with pytest.raises(UserError, match="instance_loss became nan at step 1;"):
        train(method)


def test_metrics_file_keeps_finished_epochs_and_drops_those_trained_again(tmp_path):
    path = tmp_path / "metrics.csv"
    for start, epochs in ((0, 3), (2, 4)):
        file = callbacks.MetricsFile(path)
        file.set_params({"epochs": epochs, "steps": 10, "start_step": start * 10})
        file.on_train_begin()
        for epoch in range(start, epochs):
            file.on_epoch_end(epoch, {"loss": 10.0 * start + epoch, "extra": 1.0})
    with open(path, newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["epoch"], row["step"], row["loss"]) for row in rows] == [
        ("1", "10", "0"),
        ("2", "20", "1"),
        ("3", "30", "22"),
        ("4", "40", "23"),
    ]
    assert list(rows[0])[:3] == ["epoch", "step", "loss"] and rows[0]["extra"] == "1"


def test_picture_grid():
    images = np.arange(3 * 2 * 2 * 1).reshape(3, 2, 2, 1)
    picture = callbacks.grid(images, 2)
    assert picture.shape == (4, 4, 1)
    np.testing.assert_array_equal(picture[:2, 2:], images[1])
    np.testing.assert_array_equal(picture[2:, 2:], 0)


def test_a_folder_that_goes_away_ends_training_in_one_line(tmp_path):
    from PIL import Image

    from rfd_tf.data import image_folder, training_dataset

    for number in range(16):
        Image.new("RGB", (20 + number, 20)).save(tmp_path / f"{number}.png")
    source = image_folder(tmp_path)
    batches = training_dataset(source, image_size=16, batch_size=4, seed=0)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no image of a training step can be read; is their folder"):
        loop.train(make(), batches, epochs=1, steps_per_epoch=STEPS)


def test_a_loss_gone_wrong_within_an_epoch_is_named_and_spares_the_last_checkpoint(tmp_path):
    method = make()
    folder = CheckpointFolder(tmp_path)
    saving = callbacks.Checkpoint(
        BackgroundSaver(folder), method, method.optimizer, every_steps=1, every=2
    )

    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == 6:
                kernel = method.projection.kernel
                kernel.assign(np.full(kernel.shape, np.inf))

    with pytest.raises(UserError, match="instance_loss became nan at step 7; .*checkpoint is kept"):
        loop.train(method, dataset(), epochs=3, steps_per_epoch=STEPS, callbacks=[saving, Poison()])
    saving.saver.wait()
    last = folder.latest_whole()
    assert checkpoint.read_description(last)["step"] <= 6
    checkpoint.load(last, method, method.optimizer)
    assert checkpoint.not_finite(checkpoint.snapshot(method, method.optimizer)) is None
