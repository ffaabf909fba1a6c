"""The command ablate: see research/commands/ablate.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from research.commands import ablate
from rfd_tf.cli import common

if __name__ == "__main__":
    common.run(ablate.main)
