"""`rfd-tf shard` from a checkout: see rfd_tf/cli/shard.py."""

from rfd_tf.cli import common, shard

if __name__ == "__main__":
    common.run(shard.main)
