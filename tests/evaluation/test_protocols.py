import pytest

from rfd_tf.errors import UserError
from rfd_tf.evaluation.protocols import LINEAR, NONLINEAR, Training, find, pooled_size
from rfd_tf.training.schedules import from_lookup_table


def test_pooled_sizes_are_the_published_ones():
    # RFD's and RotNet's configurations for AlexNet; VISSL's for ResNet-50.
    assert [pooled_size(c) for c in (64, 192, 384, 256, 256)] == [12, 7, 5, 6, 6]
    assert [pooled_size(c) for c in (64, 256, 512, 1024, 2048)] == [12, 6, 4, 3, 2]
    assert pooled_size(50_000) == 1


def test_rates_of_rfd_s_linear_probes_by_epoch():
    training = find("linear protocol", "rfd_imagenet", LINEAR)
    schedule = from_lookup_table(training.learning_rate, steps_per_epoch=7)
    rates = [float(schedule(7 * epoch)) for epoch in range(training.epochs)]
    expected = [0.01] * 5 + [0.002] * 20 + [0.0004] * 20 + [0.00008] * 20
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("training", [*LINEAR.values(), *NONLINEAR.values()])
def test_a_shortened_schedule_keeps_its_shape(training):
    short = training.with_epochs(5)
    assert short.epochs == 5
    assert [rate for _, rate in short.learning_rate] == [r for _, r in training.learning_rate]
    assert short.learning_rate[0][0] / 5 == training.learning_rate[0][0] / training.epochs
    assert training.with_epochs(None) is training


def test_crops_follow_the_size():
    training = Training(1, 0.1, 8)
    assert [training.crop_of(size) for size in (32, 224)] == ["pad", "window"]
    assert LINEAR["goyal_imagenet"].crop_of(224) == "resized"


def test_mistakes_are_named():
    with pytest.raises(UserError, match="unknown linear protocol 'rfd'"):
        find("linear protocol", "rfd", LINEAR)
    with pytest.raises(UserError, match="epochs are 1 or more"):
        LINEAR["rfd_imagenet"].with_epochs(0)
