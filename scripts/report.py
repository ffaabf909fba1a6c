"""`rfd-tf report` from a checkout: see rfd_tf/cli/report.py."""

from rfd_tf.cli import common, report

if __name__ == "__main__":
    common.run(report.main)
