"""Options of a configuration that have no effect in a run of a study are ignored, not refused."""

import json
import subprocess

import pytest
import warm_python
from script_driver import ROOT

from research import ablation
from rfd_tf.config import PretrainConfig

# (In a process of its own: the study's flags would stay in this one.)
PROGRAM = """
import json, sys
from research.commands import study
from rfd_tf.cli import common, pretrain
from rfd_tf.errors import UserError
from rfd_tf.run import shown

common.parse(["study.py", "--data_dir=pictures", *sys.argv[1:]])
with shown(verbose=1):
    try:
        found = study.settings("six_layer", pretrain.given())
        print("FOUND", json.dumps(found, default=str), sep="")
    except UserError as error:
        print("FOUND", json.dumps(str(error)), sep="")
"""


def settings(*arguments):
    """Returns the settings of the study's small network, or the refusal; and what was said."""
    done = subprocess.run(
        [*warm_python.command(), "-c", PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    said, _, found = done.stdout.partition("FOUND")
    return json.loads(found), said


def test_what_a_flag_makes_moot_in_a_network_s_configuration_is_left_out():
    found, said = settings("--schedule=step", "--lr_table=1:0.1")
    assert found["schedule"] == "step" and found["momentum"] == 0.5
    assert not found.keys() & {"learning_rate", "decay_rate", "decay_epochs"}
    assert "six_layer: ignored, no effect here: learning_rate=0.0001" in said
    assert PretrainConfig.create(found).drop_moot() == []


def test_a_moot_flag_is_refused_and_that_of_a_flagfile_left_out(tmp_path):
    assert "padding=4 has no effect with crop='stretch'" in settings("--padding=4")[0]
    refused, _ = settings("--method_option=temperature=0.2")
    assert "temperature has no meaning for method rotation" in refused
    file = tmp_path / "flags.cfg"
    file.write_text("--padding=4\n--method_option=temperature=0.2\n")
    found, _ = settings(f"--flagfile={file}", "--epochs=3", "--shuffle_rotations")
    assert "padding" not in found and found["epochs"] == 3
    assert found["method_option"] == {"shuffle_rotations": True}


@pytest.mark.parametrize(
    ("settings", "variant"),
    [
        ({"method_option": {"split": [16, 16]}}, "coupled"),
        ({"fidelity": True, "warmup_epochs": 1.0}, "decoupled"),
    ],
)
def test_what_a_variant_or_the_published_program_makes_moot_is_left_out(settings, variant):
    shared = {"dataset": "digits", "backbone": "six_layer", "epochs": 2, "image_size": 32}
    (row,) = ablation.plan({**shared, **settings}, [variant])
    config = PretrainConfig.create(row.settings)
    if config.fidelity:
        config.follow_the_published_program()
    config.drop_moot()
    assert not config.given & {"split", "warmup_epochs"}
