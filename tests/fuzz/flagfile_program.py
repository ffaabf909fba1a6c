# ruff: noqa: E402
"""Gives scripts/pretrain.py made-up flagfiles, up to the point where files would be written.

    python flagfile_program.py FOLDER EXAMPLES

Each ends in one line "error: ..." and exit code 2, or goes through. The flags are a process' own,
hence a program.
"""

import contextlib
import importlib
import io
import os
import resource
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
FOLDER, EXAMPLES = Path(sys.argv[1]), int(sys.argv[2])
sys.path.insert(0, str(Path(__file__).parent))

from fuzzing import anything, nothing_outside
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfd_tf.cli import common, pretrain
from rfd_tf.pretrainer import Pretrainer

BASE = """--dataset=digits
--backbone=six_layer
--backbone_option=filters=[4,4,4,4,4,8]
--image_size=16
--batch_size=50
--num_negatives=16
--epochs=1
"""
VALUES = [
    "", "0", "-1", "1", "3", "0.5", "nan", "inf", "-inf", "1e308", "true", "null", "[]", "{}",
    "[[1]]", "a=1", "a=[", "=", "filters=[]", "filters=[0]", "filters=[-1,4,4,4,4,4]", "filters=4",
    "filters=null", "filters=__import__('os').system('touch pwned')", "é", "\u202e", "none", "sgd",
    "../../etc/passwd", "/dev/null", "/dev/zero", "0,0,0", "1,2", "nan,nan,nan", "rotations=[45]",
    "rotations=[]", "rfd",
]  # fmt: skip
SEEN = []


class Reached(Exception):
    """Everything before the first file was accepted."""


def stop(*_):
    raise Reached


Pretrainer._open_run = stop
ours = {flag.name for flag in pretrain.FLAGS.get_key_flags_for_module(pretrain)}
# These wait for other machines, or make so much that it says nothing of how flags are read.
ours -= {"strategy", "logical_devices", "flagfile", "source_crops", "source_size", "backbone"}
lines = st.builds("--{}={}".format, st.sampled_from(sorted(ours)), st.sampled_from(VALUES))
structured = st.lists(lines, min_size=1, max_size=2).map(
    lambda some: (BASE + "\n".join(some)).encode()
)


def main() -> None:
    try:
        pretrain.main()
    except Reached:
        SEEN.append("reached")
    else:
        raise AssertionError("came to an end without a run")


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 100,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(content=structured | structured | anything(BASE.encode()))
def check(content):
    (FOLDER / "made_up.cfg").write_bytes(content)
    for flag in list(common.flags.FLAGS):
        common.flags.FLAGS[flag].unparse()
    arguments = [f"--flagfile={FOLDER / 'made_up.cfg'}", f"--output_dir={FOLDER / 'run'}"]
    sys.argv = ["pretrain.py", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with nothing_outside(FOLDER), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            common.run(main)
        except SystemExit as end:
            code = end.code or 0
    text = err.getvalue()
    if code:
        SEEN.append("refused")
        told = [line for line in text.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(told) == 1 and "Traceback" not in text, (content, code, text)
    assert not (FOLDER / "run").exists() or not any((FOLDER / "run").iterdir()), content


if __name__ == "__main__":
    # A value that asks for more memory than there is must not take the machine along.
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    os.chdir(FOLDER)
    importlib.import_module("matplotlib.pyplot")  # which finds out where it may write
    check()
    assert not (FOLDER / "pwned").exists()
    print({word: SEEN.count(word) for word in set(SEEN)})
