import pytest

from rfd_tf.evaluation import TASKS, published
from rfd_tf.evaluation.published import CIFAR10, IMAGENET, PUBLISHED, comparable

NIN = {"backbone": "network_in_network", "arguments": {}}
HIDDEN = TASKS["nonlinear"](protocol="rotnet_cifar10_hidden")


def found(task="nonlinear", protocol=None, data=CIFAR10, network=NIN):
    return list(comparable(task, protocol or HIDDEN.protocol(None), data, network))


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: f"{entry.source} {entry.network}")
def test_each_figure_belongs_to_a_protocol_that_there_is(entry):
    # The task, run as published, must lead to its figures.
    protocol = TASKS[entry.task](protocol=entry.protocol["protocol"]).protocol(None)
    network = {"backbone": entry.backbone, "arguments": dict(entry.arguments)}
    assert entry in list(comparable(entry.task, protocol, entry.data, network))
    shares = [*entry.values.values(), *entry.random_init.values()]
    assert all(0 < share < 1 for share in shares)


def test_layers_are_those_of_the_network():
    from rfd_tf import applications

    for entry in PUBLISHED:
        size = {"network_in_network": 32, "alexnet": 224, "resnet50": 64}[entry.backbone]
        network = applications.build(entry.backbone, size, **entry.arguments)
        assert set(entry.values) <= {layer.name for layer in network.layers}, entry


def test_rotnets_table_1():
    (entry,) = found()
    assert entry.network == "NIN, 4 blocks"
    assert entry.values == {"block1": 0.8507, "block2": 0.8906, "block3": 0.8621, "block4": 0.6173}
    (three,) = found(network={**NIN, "arguments": {"blocks": 3, "fused_batch_norm": False}})
    assert three.values["block3"] == 0.6209


def test_only_what_is_comparable_is_shown():
    assert found() != []
    assert found(network={"backbone": "six_layer", "arguments": {}}) == []
    assert found(network={**NIN, "arguments": {"width": 0.5}}) == []
    assert found(data={**CIFAR10, "num_train": 5000}) == []
    assert found(data=IMAGENET) == []
    assert found(task="linear") == []
    shorter = TASKS["nonlinear"](protocol="rotnet_cifar10_hidden", epochs=5)
    assert found(protocol=shorter.protocol(None)) == []
    narrower = TASKS["nonlinear"](protocol="rotnet_cifar10_hidden", hidden=50)
    assert found(protocol=narrower.protocol(None)) == []


def test_sources_are_named():
    assert all("ICLR" in entry.source or "CVPR" in entry.source for entry in PUBLISHED)
    assert {entry.when for entry in PUBLISHED if entry.method == "RotNet"} == {"best epoch"}
    assert published.LAST_EPOCH == "last epoch"
