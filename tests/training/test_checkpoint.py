"""Checkpoints give back every variable, or say why not."""

import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf import applications
from rfd_tf.errors import UserError
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import checkpoint, optimizers
from rfd_tf.training.saving import BackgroundSaver


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


def test_layers_that_keras_has_numbered_are_found_again(tmp_path):
    # As when a notebook makes the same model twice.
    pairs = []
    for _ in range(2):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
        pairs.append((model, optimizer))
    names = [[v.name for v in optimizer.variables] for _, optimizer in pairs]
    assert names[0] != names[1]
    path = checkpoint.save(tmp_path / "c.npz", *pairs[0], {"step": 1})
    checkpoint.load(path, *pairs[1])
    for a, b in zip(pairs[0][0].variables, pairs[1][0].variables, strict=True):
        np.testing.assert_array_equal(a, b)


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


def test_a_snapshot_does_not_change_while_training_goes_on():
    method = make()
    step(method, 0)
    taken = checkpoint.snapshot(method, method.optimizer)
    copies = [array.copy() for _, array in taken]
    for seed in range(1, 4):
        step(method, seed)
    changed = 0
    now = checkpoint.snapshot(method, method.optimizer)
    for (name, array), copy, (_, later) in zip(taken, copies, now, strict=True):
        np.testing.assert_array_equal(array, copy, name)
        changed += not np.array_equal(array, later)
    assert changed > 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_a_snapshot_shares_memory_until_the_variable_is_written(dtype):
    variable = keras.Variable(np.ones((1000, 1000)), dtype=dtype)
    first, second = (checkpoint._to_array(variable) for _ in range(2))
    assert first.dtype.name == dtype and np.shares_memory(first, second)
    variable.assign(variable + 1)
    assert (first == 1).all() and (checkpoint._to_array(variable) == 2).all()


def test_a_snapshot_outlives_updates_in_place():
    variables = [keras.Variable(np.ones((8, 4), "float32")) for _ in range(3)]
    taken = [checkpoint._to_array(variable) for variable in variables]
    weight, momentum, bank = (variable.value for variable in variables)
    # What the fused optimizer and the memory bank do.
    options = {"lr": 1.0, "grad": tf.ones((8, 4)), "momentum": 0.9}
    tf.raw_ops.ResourceApplyMomentum(var=weight.handle, accum=momentum.handle, **options)
    bank.scatter_update(tf.IndexedSlices(tf.zeros((2, 4)), [0, 5]))
    for variable, array in zip(variables, taken, strict=True):
        assert (array == 1).all() and not (np.asarray(variable.value) == 1).all()


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path):
    method = make()
    path = checkpoint.save(tmp_path / "c.npz", method, method.optimizer, {"step": 1})
    whole = path.read_bytes()
    wanted = [array.copy() for _, array in checkpoint.snapshot(method, method.optimizer)]
    rng = np.random.default_rng(0)
    noticed = 0
    for position in rng.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(flipped))
        try:
            checkpoint.load(path, method, method.optimizer)
        except UserError:
            noticed += 1
        for (name, array), right in zip(
            checkpoint.snapshot(method, method.optimizer), wanted, strict=True
        ):
            np.testing.assert_array_equal(array, right, name)
    assert noticed > 30


def test_the_one_before_a_damaged_checkpoint_is_used_with_a_warning(tmp_path):
    method = make()
    folder = checkpoint.CheckpointFolder(tmp_path, keep=3)
    paths = [folder.save(method, method.optimizer, {"step": number}) for number in (1, 2, 3)]
    paths[2].write_bytes(paths[2].read_bytes()[:-1000])
    flipped = bytearray(paths[1].read_bytes())
    flipped[len(flipped) // 3] ^= 4
    paths[1].write_bytes(bytes(flipped))
    left = tmp_path / "step-000000004.writing"
    left.touch()
    with pytest.warns(UserWarning, match=r"step-000000003\.npz .*step-000000001\.npz, is used"):
        assert folder.latest_whole() == paths[0]
    assert not left.exists() and folder.all() == paths[:1]
    paths[0].write_bytes(b"")
    with pytest.raises(UserError, match="all 1 checkpoints .* are damaged"):
        folder.latest_whole()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    method = make()
    saver = BackgroundSaver(checkpoint.CheckpointFolder(tmp_path))
    saver.save(method, method.optimizer, {"step": 1})
    saver.wait()
    method.projection.kernel.assign(np.full(method.projection.kernel.shape, np.inf))
    saver.save(method, method.optimizer, {"step": 2})
    with pytest.raises(UserError, match=r"kernel' is NaN or infinite after step 2.*000001\.npz is"):
        saver.wait()
    assert saver.folder.latest() == saver.folder.path(1)


def test_a_disk_that_is_full_keeps_the_checkpoint_before(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        method = make()
        folder = checkpoint.CheckpointFolder(tmp_path / "checkpoints")
        first = folder.save(method, method.optimizer, {"step": 1})
        room = shutil.disk_usage(tmp_path).free - first.stat().st_size // 2
        (tmp_path / "filler").write_bytes(bytes(room))
        with pytest.raises(
            UserError, match=r"No space left.*needs 0\.\d+ MiB.*000001\.npz is kept"
        ):
            folder.save(method, method.optimizer, {"step": 2})
        assert folder.all() == [first]
        assert checkpoint.verify(first)["step"] == 1
        assert not list(folder.directory.glob("*.writing"))
        (tmp_path / "filler").unlink()
        folder.save(method, method.optimizer, {"step": 2})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
