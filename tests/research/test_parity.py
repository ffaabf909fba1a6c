"""The published programs' numbers, compared by the check that scripts/check_parity.py runs."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from script_driver import run_many

from research.parity import checks, comparison, steps, vector_files
from rfd_tf.applications import building
from rfd_tf.errors import UserError
from rfd_tf.layers import BatchNormalization
from rfd_tf.training import fidelity

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "data" / "parity"
INPUTS = ("images", "features_", "ids_", "negatives_", "bank_0", "temperature", "momentum")
INPUTS += ("image_seed", "pu_weights", "final_names", "grad_norm_names_")
CHEAP = ("rotations.npz", "adaptive_max_pool.npz", "nce.npz")


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "vectors"
    shutil.copytree(VECTORS, folder)
    return folder


def change(folder, file, **arrays):
    """Replaces arrays of a vectors file; None removes one."""
    with np.load(folder / file) as stored:
        content = dict(stored)
    for name, value in arrays.items():
        content.pop(name, None)
        if value is not None:
            content[name] = value(np.load(VECTORS / file)[name]) if callable(value) else value
    np.savez(folder / file, **content)


def out(folder, only=CHEAP):
    return [row.quantity for row in checks.check(folder, only) if not row.within]


@pytest.mark.timeout(900)
def test_every_quantity_agrees():
    rows = list(checks.check(VECTORS))
    assert [row.line() for row in rows if not row.within] == []
    compared = {(row.file, row.quantity) for row in rows}
    for name, vectors in vector_files.read(VECTORS).items():
        for array in vectors.names():
            given = array.startswith(INPUTS) or array.endswith("_in")
            assert given or (name, array) in compared, (name, array)
    # What comes before the first backward pass is held to its bar alone.
    for row in rows:
        if row.rounding == 0:
            assert row.relative <= row.bar
        else:
            assert steps.follows_a_gradient(row.quantity)
    step_0 = ("losses_0", "logits_0", "embedding_0", "z_0", "bank_1", "eval_fc_block_head")
    assert not any(row.rounding for row in rows if row.quantity in step_0)


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("rotations.npz", "views", lambda v: v[:, ::-1]),
        ("adaptive_max_pool.npz", "odd_out", lambda v: np.nextafter(v, np.inf)),
        ("nce.npz", "loss_1", lambda v: v * (1 + 3e-5)),
        ("nce.npz", "probabilities_0", lambda v: v[:, ::-1]),
        ("nce.npz", "bank_2", lambda v: v + np.eye(*v.shape, dtype="float32") * 1e-4),
    ],
)
def test_a_changed_reference_is_out(copied, file, name, value):
    change(copied, file, **{name: value})
    assert out(copied) == [name]


def test_a_changed_temperature_is_out(copied):
    change(copied, "nce.npz", temperature=np.float64(0.0701))
    assert {"loss_0", "z_0", "probabilities_1"} <= set(out(copied))


def test_a_broken_setting_is_out(monkeypatch):
    running = dataclasses.replace(fidelity.FIDELITY["normalizer"], original="running")
    monkeypatch.setitem(fidelity.FIDELITY, "normalizer", running)
    assert "z_1" in out(VECTORS) and "z_0" not in out(VECTORS)


def test_a_broken_epsilon_is_out(monkeypatch):
    monkeypatch.setattr(
        building, "batch_norm", lambda x, name: BatchNormalization(epsilon=1e-3, name=name)(x)
    )
    assert "conv1_head" in out(VECTORS, ("nin.npz",))


def test_rounding_counts_twice_and_never_without_end():
    row = comparison.Comparison("f", "q", 0.1, relative=1e-2, bar=1e-3)
    assert row.verdict == "OUT"
    assert dataclasses.replace(row, rounding=6e-3).verdict == "ok, rounding"
    assert dataclasses.replace(row, relative=0.5, rounding=9.0).verdict == "OUT"
    assert dataclasses.replace(row, relative=float("nan"), rounding=9.0).verdict == "OUT"


def test_float32_norm():
    values = np.random.default_rng(0).standard_normal((5, 7)).astype("float32")
    assert steps.float32_norm(values) == pytest.approx(np.linalg.norm(values), rel=1e-6)
    # Where a partial sum has grown, small squares are lost to it, as in PyTorch.
    grown = np.full(16_000_000, 0.5, "float32")
    grown[:8] = 4096.0
    assert steps.float32_norm(grown) < np.sqrt(8 * 4096.0**2 + 16e6 / 4) * 0.99


# The comparison without its two slow files.
PRELUDE = """
from research.parity import checks
for name in ("nin.npz", "rfd_steps.npz"):
    checks.CHECKS.pop(name)
"""


def test_the_script_and_its_exit_code(copied, tmp_path):
    change(copied, "nce.npz", loss_0=lambda v: v * 1.001)
    folders = [VECTORS, copied, tmp_path / "none"]
    lines = [[f"--vectors={folder}"] for folder in folders]
    good, bad, missing = run_many("check_parity", lines, PRELUDE)
    assert good[0] == 0 and "all 16 quantities agree, 16 within their bars" in good[1]
    assert bad[0] == 1 and "1 of 16 quantities are out: loss_0 (nce.npz)" in "".join(bad[1:])
    assert missing[0] == 2 and "error: no such folder of reference vectors" in missing[2]


def test_folders_that_cannot_be_compared_with(copied):
    def message():
        with pytest.raises(UserError) as caught:
            list(checks.check(copied, CHEAP))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (copied / "README.md").write_text("texts are passed over")
    assert out(copied) == []
    (copied / "more.npz").write_bytes(b"")
    assert "holds 'more.npz', which nothing here compares with" in message()
    (copied / "more.npz").unlink()
    change(copied, "nce.npz", extra=np.zeros(3))
    assert "holds an array 'extra'" in message()
    change(copied, "nce.npz", extra=None, bank_1=None)
    assert "lacks the array 'bank_1'" in message()
    shutil.copy(VECTORS / "nce.npz", copied)
    change(copied, "nce.npz", ids_0=np.full(6, 40))
    assert "'ids_0' of nce.npz does not hold rows of a bank of 40" in message()
    change(copied, "nce.npz", ids_0=lambda v: v, features_0=np.zeros((6, 9), "float32"))
    assert "'features_0' of nce.npz has shape (6, 9), not (6, 8)" in message()
    (copied / "nce.npz").write_bytes((VECTORS / "nce.npz").read_bytes()[:5000])
    assert "not an .npz file that can be read" in message()
    (copied / "nce.npz").unlink()
    assert "lacks nce.npz" in message()
    shutil.copy(VECTORS / "nce.npz", copied)
    (copied / "state_dict.json").write_text('{"feature": 3}')
    assert "does not list names and shapes" in message()
