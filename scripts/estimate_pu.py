"""`rfd-tf estimate-pu` from a checkout: see rfd_tf/cli/estimate_pu.py."""

from rfd_tf.cli import common, estimate_pu

if __name__ == "__main__":
    common.run(estimate_pu.main)
