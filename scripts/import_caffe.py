"""`rfd-tf import-caffe` from a checkout: see rfd_tf/cli/import_caffe.py."""

from rfd_tf.cli import common, import_caffe

if __name__ == "__main__":
    common.run(import_caffe.main)
