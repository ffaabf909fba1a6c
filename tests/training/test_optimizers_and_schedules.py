"""The optimizer against PyTorch's rule in NumPy; schedules at their edges."""

import keras
import numpy as np
import pytest

from rfd_tf.errors import UserError
from rfd_tf.training import optimizers, schedules


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("fused_from", [0, 100])
def test_sgd_follows_pytorchs_rule_through_a_drop_of_the_rate(nesterov, fused_from, monkeypatch):
    # TensorFlow's fused kernel, and the operations that any of Keras' backends has.
    monkeypatch.setattr(optimizers, "_FUSED_FROM", fused_from)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 2))
    variable = keras.Variable(w.astype("float32"))
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])
    optimizer = optimizers.SGD(schedule, 0.9, nesterov, coupled_weight_decay=0.02)
    velocity = 0.0
    for step in range(5):
        gradient = rng.normal(size=w.shape)
        direction = gradient + 0.02 * w
        velocity = 0.9 * velocity + direction
        rate = 0.1 if step <= 1 else 0.01
        w = w - rate * (direction + 0.9 * velocity if nesterov else velocity)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [variable])
    np.testing.assert_allclose(variable, w, rtol=1e-5)


def test_undecayed_weights_are_left_alone():
    gamma = keras.Variable(np.ones(2, "float32"), name="gamma")
    kernel = keras.Variable(np.ones(2, "float32"), name="kernel")
    optimizer = optimizers.SGD(0.1, coupled_weight_decay=0.5, undecayed=["gamma"])
    optimizer.apply([keras.ops.zeros(2), keras.ops.zeros(2)], [gamma, kernel])
    assert np.asarray(gamma).tolist() == [1, 1] and np.asarray(kernel).max() < 1


def test_optimizer_is_rebuilt_from_its_config():
    optimizer = optimizers.SGD(0.3, 0.8, False, 1e-4, ["bias"])
    again = optimizers.SGD.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_goes_downhill_and_spares_the_undecayed(name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = optimizers.build(name, 0.01, weight_decay=0.1, undecayed=["bias"])
    model.layers[0].bias.assign([1.0, 1.0])
    optimizer.build(model.trainable_variables)
    before = [np.array(w) for w in model.get_weights()]
    zeros = [np.zeros_like(w) for w in before]
    optimizer.apply_gradients(zip(zeros, model.trainable_variables, strict=True))
    kernel, bias = model.get_weights()
    assert np.abs(kernel).sum() < np.abs(before[0]).sum()
    np.testing.assert_array_equal(bias, before[1])


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_goes_without_decay(name):
    variable = keras.Variable([1.0, -2.0])
    optimizer = optimizers.build(name, 0.01, momentum=0.5, weight_decay=0.0)
    optimizer.build([variable])
    optimizer.apply_gradients([(np.zeros(2, "float32"), variable)])
    np.testing.assert_array_equal(variable, [1.0, -2.0])


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="options: sgd, adam, rmsprop"):
        optimizers.build("lars", 0.1)


def test_published_rfd_table_raises_the_rate_again_at_epoch_210():
    schedule = schedules.from_lookup_table(schedules.LOOKUP_TABLES["rfd_imagenet"], 10)
    epochs = [0, 89, 90, 129, 130, 190, 209, 210, 229, 230, 244, 400]
    rates = [float(schedule(epoch * 10 + 9)) for epoch in epochs]
    expected = [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    first_step = [float(schedule(epoch * 10)) for epoch in epochs]
    np.testing.assert_allclose(first_step, expected, rtol=1e-6)


def test_cosine_with_warm_up():
    schedule = schedules.cosine(0.2, total_steps=100, warmup_steps=10)
    assert float(schedule(5)) == pytest.approx(0.1)
    assert float(schedule(10)) == pytest.approx(0.2)
    assert float(schedule(55)) == pytest.approx(0.1)
    assert float(schedule(100)) == pytest.approx(0, abs=1e-7)


def test_exponential_decay_is_spread_over_the_steps():
    schedule = schedules.build(
        "exponential", rate=1e-4, epochs=30, steps_per_epoch=7, decay_rate=0.3, decay_epochs=10
    )
    for step in (0, 1, 69, 70, 210):
        assert float(schedule(step)) == pytest.approx(1e-4 * 0.3 ** (step / 70))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "linear"}, "cosine, step, exponential, constant"),
        ({"name": "exponential", "decay_rate": 1.5}, "at most 1"),
        ({"name": "exponential", "decay_epochs": 0}, "above 0"),
        ({"name": "step"}, "needs a table"),
        ({"name": "step", "table": "60:0.1,20:0.2"}, "rising"),
        ({"name": "step", "table": "60;0.1"}, "END_EPOCH:RATE"),
        ({"name": "cosine", "rate": 0.0}, "above 0"),
        ({"name": "cosine", "warmup_epochs": 10}, "fewer than"),
        ({"name": "constant", "warmup_epochs": 1}, "cosine schedule"),
        ({"name": "cosine", "table": "rotnet_cifar10"}, "step schedule"),
    ],
)
def test_bad_schedules_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        schedules.build(**{"rate": 0.1, "epochs": 10, "steps_per_epoch": 5, **arguments})


def test_the_rate_of_aet_on_cifar10_is_its_program_s_in_every_epoch():
    table = schedules.parse_lookup_table("aet_cifar10")
    schedule = schedules.from_lookup_table(table, steps_per_epoch=1)

    def published(epoch):
        for end, factor in ((240, 1), (480, 0.2), (640, 0.04), (800, 0.008), (1000, 0.0016)):
            if epoch < end:
                return 0.1 * factor
        return 0.1 * 0.0016 - 0.1 * 3e-6 * (epoch - 999)

    for epoch in (0, 239, 240, 479, 480, 640, 800, 999, 1000, 1001, 1250, 1499):
        assert float(schedule(epoch)) == pytest.approx(published(epoch), rel=1e-4), epoch


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_share_of_the_rate_trains_as_an_optimizer_of_that_rate(name):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(3, 2)).astype("float32") for _ in range(3)]

    def trained(slow, rate, **share):
        variables = [keras.Variable(v, name=f"w{n}") for n, v in enumerate(values)]
        own = {key: [variables[1]] if key == "scaled" else v for key, v in share.items()}
        optimizer = optimizers.build(name, rate, weight_decay=0.1, undecayed=["w2"], **own)
        optimizer.build(variables)
        again = type(optimizer).from_config(optimizer.get_config())
        draws = np.random.default_rng(1)
        for step in range(4):
            if step == 2 and slow:
                # What a saved model would go on with.
                again.build(variables)
                for one, other in zip(again.variables, optimizer.variables, strict=True):
                    one.assign(other)
                optimizer = again
            gradients = [draws.normal(size=v.shape).astype("float32") for v in values]
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
        return [np.array(variable) for variable in variables]

    scaled = trained(True, 0.01, scaled=True, scale=0.25)
    whole, quarter = trained(False, 0.01), trained(False, 0.0025)
    for place, expected in enumerate((whole[0], quarter[1], whole[2])):
        np.testing.assert_allclose(scaled[place], expected, rtol=2e-5, atol=1e-6)
    with pytest.raises(UserError, match="scale 0 must be above 0"):
        optimizers.build(name, 0.1, scaled=[keras.Variable(values[0])], scale=0)
