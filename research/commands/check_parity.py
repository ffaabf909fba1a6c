"""Compares this package with the published PyTorch programs of RFD and RotNet, number by number.

    python scripts/check_parity.py --vectors=tests/data/parity

reads a folder of reference vectors (their outputs, on weights that follow from a seed), computes
the same in float32, and prints how far each quantity is off, and how far it may be. Exit code: 0
when all are within their bars, 1 when any is out, 2 for a folder that cannot be compared with.
"""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import common, path_flags

OUT = 1

path_flags.DEFINE_path("vectors", None, "Folder of reference vectors, such as tests/data/parity.")
flags.DEFINE_bool(
    "strict", False, "Count what is within rounding but not within its bar as out, too."
)

FLAGS = flags.FLAGS

LEGEND = """\
relative: largest absolute difference / largest magnitude of the reference; for lists of losses and
of norms the largest quotient of an entry (norms below 1e-4 of the largest count as that much), for
means of parameters the difference / the parameter's root mean square.
rounding: how much the quantity moves, relatively, when weights and images change in the last digits
of float32; measured where a quantity after a backward pass misses its bar, and then twice as
much is allowed (see research/parity/steps.py)."""


def main() -> None:
    from rfd_tf.errors import UserError

    if not FLAGS.vectors:
        raise UserError("--vectors is missing: a folder such as tests/data/parity")

    import tensorflow as tf

    from research.parity import checks, comparison

    # Some GPUs would round float32 products to ten bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)

    checked = []
    for row in checks.check(FLAGS.vectors):
        if not checked:
            print(comparison.HEADER)
        print(row.line(), flush=True)
        checked.append(row)
    out = [
        item for item in checked if not item.within or (FLAGS.strict and item.relative > item.bar)
    ]
    print(LEGEND)
    if out:
        names = ", ".join(f"{item.quantity} ({item.file})" for item in out)
        print(f"{len(out)} of {len(checked)} quantities are out: {names}")
        raise SystemExit(OUT)
    rounding = sum(item.relative > item.bar for item in checked)
    print(
        f"all {len(checked)} quantities agree, {len(checked) - rounding} within their bars"
        + (f" and {rounding} within rounding" if rounding else "")
    )


if __name__ == "__main__":
    common.run(main)
