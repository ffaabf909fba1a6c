"""Flagfiles that somebody else wrote."""

import os
import subprocess
import sys
from pathlib import Path

from fuzzing import MANY


def test_flagfiles(tmp_path):
    program = Path(__file__).with_name("flagfile_program.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(MANY or 40)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR"), str(tmp_path)),
        },
    )
    assert done.returncode == 0, done.stderr[-5000:]
    # Neither is everything refused nor everything taken.
    assert "refused" in done.stdout and "reached" in done.stdout
