"""`rfd-tf duplicates` from a checkout: see rfd_tf/cli/duplicates.py."""

from rfd_tf.cli import common, duplicates

if __name__ == "__main__":
    common.run(duplicates.main)
