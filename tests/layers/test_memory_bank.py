"""The memory bank's reads, writes and negatives; the normalising constant."""

import keras
import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.layers import MemoryBank, NormalizingConstant, memory_bank


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("float32")


def test_update_moves_and_normalises_only_the_named_rows():
    bank = MemoryBank(20, 8, momentum=0.3, seed=1)
    before = np.asarray(bank.rows())
    index, x = np.array([4, 17, 0]), unit(np.random.default_rng(0), 3, 8)
    bank.update(index, x)
    expected = before.copy()
    moved = 0.3 * before[index] + 0.7 * x
    expected[index] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.rows(), expected, rtol=1e-5, atol=1e-7)


def test_duplicate_index_takes_its_last_occurrence():
    bank = MemoryBank(20, 8, seed=1)
    x = unit(np.random.default_rng(0), 4, 8)
    bank.update(np.array([5, 3, 5, 5]), x, momentum=0.0)
    np.testing.assert_allclose(bank.lookup(np.array([5, 3])), x[[3, 1]], rtol=1e-5)


@pytest.mark.parametrize("initialization", ["unit", "uniform"])
def test_initial_rows(initialization):
    rows = np.asarray(MemoryBank(2000, 64, initialization=initialization, seed=3).rows())
    lengths = (rows**2).sum(1)
    assert lengths.mean() == pytest.approx(1.0, abs=0.02)
    assert (np.abs(lengths - 1).max() < 1e-5) == (initialization == "unit")


def test_bfloat16_storage_keeps_rows_within_its_rounding():
    bank = MemoryBank(10, 16, storage_dtype="bfloat16", seed=0)
    x = unit(np.random.default_rng(0), 2, 16)
    bank.update(np.array([1, 2]), x, momentum=0.0)
    np.testing.assert_allclose(bank.lookup(np.array([1, 2])), x, atol=2**-8)


def test_per_image_negatives_never_hold_the_positive_and_reach_all_others():
    bank = MemoryBank(6, 4, seed=0)
    index = np.arange(6)
    drawn, valid = bank.negatives(index, 500)
    assert valid is None and drawn.shape == (6, 500)
    for image, row in zip(index, np.asarray(drawn), strict=True):
        assert set(row) == set(range(6)) - {image}


def test_shared_negatives_mark_the_positive():
    bank = MemoryBank(6, 4, seed=0)
    drawn, valid = bank.negatives(np.array([2, 5]), 100, shared=True)
    np.testing.assert_array_equal(valid, np.asarray(drawn)[None] != np.array([[2], [5]]))


def test_positives_may_be_drawn_on_request():
    bank = MemoryBank(3, 4, seed=0)
    drawn, valid = bank.negatives(np.array([0]), 200, exclude_positive=False)
    assert valid is None and set(np.asarray(drawn)[0]) == {0, 1, 2}


def test_negatives_differ_from_step_to_step_and_follow_the_seed():
    first, again = MemoryBank(1000, 4, seed=7), MemoryBank(1000, 4, seed=7)
    index = np.arange(2)
    a, b = (np.asarray(first.negatives(index, 50)[0]) for _ in range(2))
    assert (a != b).any()
    np.testing.assert_array_equal(a, again.negatives(index, 50)[0])


def test_bank_is_saved_with_the_weights(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.memory_bank = MemoryBank(10, 4, seed=0)
    model.save_weights(tmp_path / "model.weights.h5")
    rows = np.asarray(model.memory_bank.rows())
    model.memory_bank.bank.assign(np.zeros((10, 4)))
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model.memory_bank.rows(), rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, "below 1"),
        ({"initialization": "ones"}, "uniform, unit"),
        ({"storage_dtype": "int8"}, "float32, bfloat16"),
        ({"num_images": 1}, "at least 2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        MemoryBank(**{"num_images": 10, "dimensions": 4, **arguments})


def test_normalizing_constants():
    logits = [np.full((2, 3), value, "float32") for value in (0.0, 1.0, 2.0)]
    first = NormalizingConstant(100, 8, 0.5, mode="first_batch")
    assert [float(first(x, training=True)) for x in logits] == [100.0] * 3
    running = NormalizingConstant(100, 8, 0.5, mode="running", momentum=0.9)
    values = [float(running(x, training=True)) for x in logits[:2]]
    assert values == pytest.approx([100.0, 90 + 10 * np.e], rel=1e-6)
    assert float(running(logits[2])) == pytest.approx(values[1])
    analytic = NormalizingConstant(100, 8, 0.5, mode="analytic")
    assert float(analytic(logits[1])) == pytest.approx(100 * np.exp(1 / (2 * 8 * 0.25)), rel=1e-6)


def test_analytic_constant_is_what_random_directions_give():
    rng = np.random.default_rng(0)
    d, t = 128, 0.07
    similarity = (unit(rng, 200, d) @ unit(rng, 2000, d).T) / t
    constant = NormalizingConstant(2000, d, t, mode="analytic")
    assert constant.analytic() == pytest.approx(np.exp(similarity).mean() * 2000, rel=0.03)


def test_masked_entries_do_not_count_in_the_constant():
    constant = NormalizingConstant(10, 8, 0.5, mode="first_batch")
    valid = np.array([[1.0, 0.0]], "float32")
    value = constant(np.array([[0.0, 5.0]], "float32"), valid, training=True)
    assert float(value) == pytest.approx(10.0)


@pytest.mark.parametrize("initialization", ["unit", "uniform"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_bank_is_drawn_in_parts(monkeypatch, initialization, dtype):
    arguments = {"initialization": initialization, "storage_dtype": dtype, "seed": 3}
    first = MemoryBank(4, 64, **arguments).rows().numpy()
    monkeypatch.setattr(memory_bank, "_ROWS_AT_ONCE", 4)
    rows = MemoryBank(10, 64, **arguments).rows().numpy()
    assert rows.shape == (10, 64)
    np.testing.assert_array_equal(rows[:4], first)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=0.2)
    # No two rows alike: each part has numbers of its own.
    assert np.abs(rows @ rows.T - np.diag(np.sum(rows**2, axis=1))).max() < 0.6
