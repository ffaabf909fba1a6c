"""`rfd-tf export` from a checkout: see rfd_tf/cli/export.py."""

from rfd_tf.cli import common, export

if __name__ == "__main__":
    common.run(export.main)
