"""`rfd-tf evaluate` from a checkout: see rfd_tf/cli/evaluate.py."""

from rfd_tf.cli import common, evaluate

if __name__ == "__main__":
    common.run(evaluate.main)
