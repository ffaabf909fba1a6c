"""Made-up content for everything that reads what others wrote.

RFD_TF_FUZZ_EXAMPLES=2000 tries as many examples, other ones at each run; by default a few, always
the same.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "interpret"))  # explore_helpers

hypothesis = pytest.importorskip("hypothesis", reason="pip install '.[test]'")

from fuzzing import MANY  # noqa: E402

hypothesis.settings.register_profile(
    "rfd_tf",
    max_examples=MANY or 40,
    derandomize=not MANY,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)

collect_ignore = ["flagfile_program.py"]  # a program, not a module

# Now, for it holds for what is collected from here on.
hypothesis.settings.load_profile("rfd_tf")
