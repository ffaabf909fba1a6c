"""What is chosen for GPUs, from what TensorFlow reports of them; none is needed here."""

import pytest
import tensorflow as tf

from rfd_tf.config import PretrainConfig
from rfd_tf.errors import UserError
from rfd_tf.training import strategy


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("auto", {"num_gpus": 1}, True),
        ("auto", {"num_gpus": 0}, False),
        ("auto", {"num_gpus": 2, "num_replicas": 2}, False),
        ("auto", {"num_gpus": 1, "compiles": False}, False),
        ("true", {"num_gpus": 0}, True),
        ("false", {"num_gpus": 1}, False),
    ],
)
def test_xla_compiles_on_one_gpu_or_where_it_is_asked_for(name, facts, expected):
    assert strategy.uses_xla(name, **facts) is expected


@pytest.mark.parametrize(
    ("name", "facts", "message"),
    [
        ("true", {"num_replicas": 2}, "not for 2 replicas"),
        ("true", {"compiles": False}, "layers that XLA does not compile"),
        ("yes", {}, "unknown jit_compile 'yes'"),
    ],
)
def test_what_xla_cannot_compile_is_refused(name, facts, message):
    with pytest.raises(UserError, match=message):
        strategy.uses_xla(name, **facts)


def test_jit_compile_takes_booleans_in_python():
    assert PretrainConfig.create({"jit_compile": True}).jit_compile == "true"
    with pytest.raises(UserError, match="jit_compile"):
        PretrainConfig.create({"jit_compile": "on"})


def test_bfloat16_is_for_gpus_that_all_have_it():
    new, old, other = {"compute_capability": (8, 0)}, {"compute_capability": (7, 5)}, {}
    found = [strategy.bfloat16_is_faster(gpus) for gpus in ([new, new], [new, old], [other])]
    assert found == [True, False, False]


def test_gpu_memory_grows_unless_the_environment_decides(monkeypatch):
    asked = []
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda gpu, on: asked.append((gpu, on))
    )
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    strategy.grow_gpu_memory(["GPU:0", "GPU:1"])
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    strategy.grow_gpu_memory(["GPU:2"])
    assert asked == [("GPU:0", True), ("GPU:1", True)]
