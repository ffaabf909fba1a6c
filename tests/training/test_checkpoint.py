"""Checkpoints give back every variable, or say why not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import checkpoint, optimizers


def make(bank_dtype="float32", dimensions=8, seed=0):
    keras.utils.set_random_seed(seed)
    backbone = applications.build("six_layer", image_size=16, filters=(4, 4, 4, 4, 4, 8))
    method = RotationFeatureDecoupling(
        backbone,
        20,
        num_negatives=5,
        projection_dimensions=dimensions,
        bank_dtype=bank_dtype,
        seed=seed,
    )
    method.compile(optimizer=optimizers.SGD(0.05), jit_compile=False)
    method.optimizer.build(method.trainable_variables)
    return method


def step(method, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "image": tf.constant(rng.integers(0, 256, (4, 16, 16, 3)), "uint8"),
        "index": tf.constant(rng.permutation(20)[:4]),
    }
    return {name: float(value) for name, value in method.train_step(batch).items()}


@pytest.mark.parametrize("bank_dtype", ["float32", "bfloat16"])
def test_training_goes_on_exactly_where_it_was(tmp_path, bank_dtype):
    one = make(bank_dtype)
    step(one, 0)
    path = checkpoint.save(tmp_path / "c.npz", one, one.optimizer, {"step": 1})
    logs = step(one, 1)
    other = make(bank_dtype, seed=9)
    assert checkpoint.load(path, other, other.optimizer) == {"format": 1, "step": 1}
    assert step(other, 1) == logs
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(a, "float32"), np.asarray(b, "float32"), a.path)


def test_an_interrupted_write_keeps_the_checkpoint_before_it(tmp_path, monkeypatch):
    method = make()
    path = checkpoint.save(tmp_path / "c.npz", method, method.optimizer, {"step": 1})
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "_write_entry", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, method, method.optimizer, {"step": 2})
    assert checkpoint.read_description(path)["step"] == 1


def test_flipped_bits_and_truncation_are_noticed(tmp_path):
    method = make()
    path = checkpoint.save(tmp_path / "c.npz", method, method.optimizer, {"step": 1})
    whole = path.read_bytes()
    before = [np.array(w) for w in method.get_weights()]
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            checkpoint.load(path, method, method.optimizer)
    for a, b in zip(before, method.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_models_checkpoint_is_refused(tmp_path):
    method, other = make(), make(dimensions=4)
    path = checkpoint.save(tmp_path / "c.npz", method, method.optimizer, {"step": 1})
    with pytest.raises(UserError, match="needs"):
        checkpoint.load(path, other, other.optimizer)


def test_only_the_newest_are_kept(tmp_path):
    method = make()
    folder = checkpoint.CheckpointFolder(tmp_path / "checkpoints", keep=2)
    assert folder.latest() is None
    for number in (5, 10, 1000):
        folder.save(method, method.optimizer, {"step": number})
    assert [path.name for path in folder.all()] == ["step-000000010.npz", "step-000001000.npz"]
    assert folder.latest() == folder.path(1000)
