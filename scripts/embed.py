"""`rfd-tf embed` from a checkout: see rfd_tf/cli/embed.py."""

from rfd_tf.cli import common, embed

if __name__ == "__main__":
    common.run(embed.main)
