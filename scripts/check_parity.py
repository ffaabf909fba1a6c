"""The command check_parity: see research/commands/check_parity.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from research.commands import check_parity
from rfd_tf.cli import common

if __name__ == "__main__":
    common.run(check_parity.main)
