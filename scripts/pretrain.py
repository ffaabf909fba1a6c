"""`rfd-tf pretrain` from a checkout: see rfd_tf/cli/pretrain.py."""

from rfd_tf.cli import common, pretrain

if __name__ == "__main__":
    common.run(pretrain.main)
