"""`rfd-tf push` from a checkout: see rfd_tf/cli/push.py."""

from rfd_tf.cli import common, push

if __name__ == "__main__":
    common.run(push.main)
