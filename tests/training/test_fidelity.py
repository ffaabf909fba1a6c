"""The published program's settings against the library's defaults and the script's flags."""

import keras
import numpy as np

from rfd_tf import applications, methods
from rfd_tf.config import PretrainConfig
from rfd_tf.layers.batch_norm import batch_normalizations
from rfd_tf.methods import RotationFeatureDecoupling
from rfd_tf.settings import method_settings
from rfd_tf.training import fidelity
from rfd_tf.training.pretraining import Optimization


def test_settings_have_the_stated_defaults():
    config = PretrainConfig.create({"preset": "paper", "backbone": "six_layer"})
    config.choose(num_images=50_000)
    options = method_settings()
    for name in fidelity.flag_values():
        default = options[name].default if name in options else getattr(config, name)
        assert fidelity.FIDELITY[name].default == default, name


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
    arguments = fidelity.method_arguments(pu_weights=False)
    method = RotationFeatureDecoupling(backbone, 5000, **arguments)
    assert (
        method.normalizing_constant.mode == "first_batch"
        and not method.recognition.exclude_positive
    )
    assert method.memory_bank.initialization == "uniform" and method.num_negatives == 4096


def test_every_argument_of_the_method_has_a_published_value():
    left = set(methods.arguments("rfd")) - set(fidelity.method_arguments())
    assert left == {"num_images", "pu_weights", "seed"}


def test_stock_batch_normalisation_gets_the_published_constants_too():
    options = {"alpha": 0.35, **fidelity.backbone_options("mobilenet_v2")}
    stock = applications.build("mobilenet_v2", 32, fused_batch_norm=False, **options)
    backbone = fidelity.apply_batch_normalization(stock)
    layers = list(batch_normalizations(backbone))
    assert len(layers) == len(list(batch_normalizations(stock))) > 50
    for layer in layers:
        assert (layer.momentum, layer.epsilon) == (0.9, 1e-5) and layer.unbiased_moving_variance
    # The network that a record of these options builds computes the same.
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(backbone(images), stock(images), atol=1e-5)


def test_initial_weights_are_those_of_pytorch():
    backbone = applications.build("mobilenet_v2", 32, alpha=0.35)
    dense = keras.layers.Dense(4000, name="dense")
    dense.build((None, 25))
    fidelity.initialize([*backbone.layers, dense], seed=3)
    kernel, bias = dense.get_weights()
    for values in (kernel, bias):  # U(-0.2, 0.2)
        np.testing.assert_allclose(values.std(), 0.2 / np.sqrt(3), rtol=0.03)
        assert np.abs(values).max() <= 0.2
    (depthwise,) = backbone.get_layer("expanded_conv_depthwise").get_weights()
    assert depthwise.shape[:2] == (3, 3) and 0.3 < np.abs(depthwise).max() <= 1 / 3
    (pointwise,) = backbone.get_layer("expanded_conv_project").get_weights()
    bound = 1 / np.sqrt(pointwise.shape[2])
    assert 0.9 * bound < np.abs(pointwise).max() <= bound
    gamma = backbone.get_layer("bn_Conv1").get_weights()[0]
    np.testing.assert_array_equal(gamma, np.ones_like(gamma))
    again = applications.build("mobilenet_v2", 32, alpha=0.35)
    fidelity.initialize([*again.layers, dense], seed=3)
    for one, two in zip(backbone.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_fixed_filters_are_not_drawn():
    backbone = applications.build("alexnet", 63, width=0.02, sobel=True)
    before = backbone.get_layer("sobel").get_weights()[0]
    fidelity.initialize(backbone.layers, seed=0)
    np.testing.assert_array_equal(backbone.get_layer("sobel").get_weights()[0], before)
    assert np.abs(backbone.get_layer("conv1_conv").get_weights()[1]).max() > 0


def test_table_lists_what_differs():
    table = fidelity.table()
    assert "| `normalizer` | `first_batch` | `running` |" in table
    assert "`temperature`" not in table
    assert "`temperature`" in fidelity.table(only_differences=False)
    assert all(line.count("|") == 5 for line in table.splitlines())
    assert all(setting.group in fidelity.GROUPS for setting in fidelity.FIDELITY.values())
