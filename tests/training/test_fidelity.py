"""The published program's settings against the library's defaults and the script's flags."""

import ast
from pathlib import Path

from rfd_tf import applications
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.training import fidelity
from rfd_tf.training.pretraining import Optimization

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def flags():
    """Name -> default of every flag of scripts/pretrain.py."""
    found = {}
    for module in ("pretrain_flags.py", "image_flags.py"):
        for call in ast.walk(ast.parse((SCRIPTS / module).read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "").startswith("DEFINE_"):
                found[call.args[0].value] = ast.literal_eval(call.args[1])
    return found


def test_settings_are_flags_with_the_stated_defaults():
    defined = flags()
    for name in fidelity.flag_values():
        assert fidelity.FIDELITY[name].default == defined[name], name


def test_defaults_are_those_of_the_library():
    optimization = Optimization()
    for name in ("epochs", "batch_size", "schedule", "lr_table", "momentum", "nesterov"):
        assert fidelity.FIDELITY[name].default == getattr(optimization, name)
    assert fidelity.FIDELITY["weight_decay"].default == optimization.weight_decay


def test_arguments_build_the_method():
    backbone = applications.build("six_layer", 32)
    fidelity.apply_batch_normalization(backbone)
    layer = backbone.get_layer("block1_conv_bn")
    assert (layer.momentum, layer.epsilon, layer.unbiased_moving_variance) == (0.9, 1e-5, True)
    method = RotationFeatureDecoupling(backbone, 5000, **fidelity.method_arguments())
    assert method.normalizing_constant.mode == "first_batch" and not method.exclude_positive
    assert method.memory_bank.initialization == "uniform" and method.num_negatives == 4096


def test_table_lists_what_differs():
    table = fidelity.table()
    assert "| `normalizer` | `first_batch` | `running` |" in table
    assert "`temperature`" not in table
    assert "`temperature`" in fidelity.table(only_differences=False)
    assert all(line.count("|") == 5 for line in table.splitlines())
    assert all(setting.group in fidelity.GROUPS for setting in fidelity.FIDELITY.values())
