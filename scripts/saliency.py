"""`rfd-tf saliency` from a checkout: see rfd_tf/cli/saliency.py."""

from rfd_tf.cli import common, saliency

if __name__ == "__main__":
    common.run(saliency.main)
