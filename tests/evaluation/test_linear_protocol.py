import pytest

from rfd_tf.errors import UserError
from rfd_tf.evaluation import LinearProbes, supervised
from rfd_tf.evaluation.base import Settings
from rfd_tf.evaluation.linear_protocol import PublishedLinearProbes, linear


def test_every_endpoint_gets_a_head_of_about_9000_numbers(rfd_subject, small_digits, monkeypatch):
    caught = []
    monkeypatch.setattr(
        supervised, "train", lambda model, names, *_, **__: caught.append((model, names)) or []
    )
    list(linear("rfd_imagenet").run(rfd_subject, small_digits, Settings()))
    model, names = caught[0]
    assert names == [*(f"block{i}" for i in range(1, 7)), "pooled", "f", "f1", "f2"]
    inputs = [w.shape[0] for w in model.trainable_weights if w.name == "kernel"]
    # 16 pixels: maps of 16 16 8 8 4 4 (or smaller), which hold fewer than 9,216 numbers here.
    network = rfd_subject.network()
    maps = [network.get_layer(name).output.shape for name in names[:6]]
    assert inputs == [h * w * c for _, h, w, c in maps] + [128, 128, 64, 64]
    # Batch normalisation without scale and shift: kernels and biases are all that is trained.
    assert {w.name for w in model.trainable_weights} == {"kernel", "bias"}


def test_probes_beat_chance_by_far_and_name_what_they_are(rfd_subject, small_digits):
    task = PublishedLinearProbes("rotnet_cifar10", epochs=20, ten_crops=True)
    found = list(task.run(rfd_subject, small_digits, Settings(endpoints=["block3"])))
    values = {(r.feature, r.images, r.when): r.value for r in found}
    assert values["block3", "upright", "last epoch"] > 0.3
    assert values["block3", "upright", "best epoch"] >= values["block3", "upright", "last epoch"]
    assert values["block3", "10 crops", "last epoch"] > 0.3
    assert {r.feature for r in found} == {"block3", "pooled", "f", "f1", "f2"}


def test_options_that_do_not_go_together():
    assert isinstance(linear(probe_size=3), LinearProbes)
    with pytest.raises(UserError, match="probe_size 3 has no effect in .*'rfd_imagenet'"):
        linear("rfd_imagenet", probe_size=3)
    assert linear("goyal_imagenet").pooling == "average"
    assert linear("goyal_imagenet", pooling="max").protocol(None)["features"].count("max") == 1
    with pytest.raises(UserError, match="unknown linear protocol 'rfd'.*cached, rfd_imagenet"):
        linear("rfd")
    with pytest.raises(UserError, match="ten crops goes with a published"):
        linear(ten_crops=True)
    with pytest.raises(UserError, match="unknown pooling 'mean'"):
        linear("rfd_imagenet", pooling="mean")
