"""Options of a configuration that have no effect in a run of a study: left out, not refused."""

import pytest
from script_driver import forget_flags

from research import ablation
from research.commands import study
from rfd_tf.cli import common, pretrain
from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError
from rfd_tf.run import shown


@pytest.fixture
def settings():
    """Returns a function: flags of the study -> settings of its small network."""

    def parsed(*arguments):
        forget_flags()
        common.parse(["study.py", "--data_dir=pictures", *arguments])
        return study.settings("six_layer", pretrain.given())

    yield parsed
    forget_flags()


def test_what_a_flag_makes_moot_in_a_network_s_configuration_is_left_out(settings, capsys):
    with shown(verbose=1):
        found = settings("--schedule=step", "--lr_table=1:0.1")
    assert found["schedule"] == "step" and found["momentum"] == 0.5
    assert not found.keys() & {"learning_rate", "decay_rate", "decay_epochs"}
    line = "six_layer: left out, as without effect here: learning_rate=0.0001"
    assert line in capsys.readouterr().out
    assert PretrainConfig.create(found).drop_moot() == []


def test_a_moot_flag_is_refused_and_that_of_a_flagfile_left_out(settings, tmp_path):
    with pytest.raises(UserError, match="padding=4 has no effect with crop='stretch'"):
        settings("--padding=4")
    with pytest.raises(UserError, match="temperature has no meaning for method rotation"):
        settings("--method_option=temperature=0.2")
    file = tmp_path / "flags.cfg"
    file.write_text("--padding=4\n--method_option=temperature=0.2\n")
    found = settings(f"--flagfile={file}", "--epochs=3", "--shuffle_rotations")
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
