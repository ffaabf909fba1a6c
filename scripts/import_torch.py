"""`rfd-tf import-torch` from a checkout: see rfd_tf/cli/import_torch.py."""

from rfd_tf.cli import common, import_torch

if __name__ == "__main__":
    common.run(import_torch.main)
