"""`rfd-tf explore` from a checkout: see rfd_tf/cli/explore.py."""

from rfd_tf.cli import common, explore

if __name__ == "__main__":
    common.run(explore.main)
