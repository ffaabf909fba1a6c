"""In the graph that runs, every read of a weight, statistic or bank row has its place.

TensorFlow orders the reads and writes of a function as they are written, then drops each such edge
that others imply; where its rewriting takes those others away, a read may see the value before or
after an update, by chance. So the graph after all rewriting is looked at.
"""

import functools

import pytest
import tensorflow as tf
import training_runs
from tensorflow.core.framework import graph_pb2
from tensorflow.python.eager import context

from rfd_tf.methods import METHODS
from rfd_tf.training import loop, optimizers

BANK = {"num_images": training_runs.NUM_IMAGES, "num_negatives": 8, "temperature": 0.2}
#: Arguments of each method, and crops of an image.
SMALL = {
    "aet": ({"decoder_hidden": 5}, 1),
    "bigan": ({"latent_dimensions": 5, "generator_width": 4, "discriminator_width": 4}, 1),
    "deepcluster": ({"num_images": training_runs.NUM_IMAGES, "num_clusters": 3}, 1),
    "distillation": ({"teacher": "six_layer.rfd_cifar10"}, 1),
    "instance": (BANK, 1),
    "jigsaw": ({"permutations": 8, "tile_units": 6, "hidden_units": 7}, 1),
    "pirl": (BANK, 2),
    "rfd": (BANK, 1),
    "rfd_jigsaw": (BANK, 1),
    "rotation": ({}, 1),
}


def _running_graph(function, *arguments) -> graph_pb2.GraphDef:
    """The graph of a function as it runs, after all rewriting."""
    collecting = context.context()
    collecting.enable_graph_collection()
    try:
        function(*arguments)
        found = collecting.export_run_metadata()
    finally:
        collecting.disable_graph_collection()
    graphs = [each.post_optimization_graph for each in found.function_graphs]
    return max(graphs, key=lambda graph: len(graph.node))


def _unordered(graph) -> list[str]:
    """A write of a variable and another, or a read, neither of which waits for the other."""
    inputs = {
        node.name: [name.lstrip("^").split(":")[0] for name in node.input] for node in graph.node
    }
    kinds = {node.name: node.op for node in graph.node}

    def variable(name):
        """Where a resource comes from."""
        while kinds[name] == "Identity":
            name = inputs[name][0]
        return name

    @functools.cache
    def waits_for(name):
        found, left = set(), [name]
        while left:
            for each in inputs[left.pop()]:
                if each not in found:
                    found.add(each)
                    left.append(each)
        return found

    reads, writes = {}, {}
    for node in graph.node:
        if node.op in ("ReadVariableOp", "ResourceGather", "ResourceGatherNd"):
            reads.setdefault(variable(inputs[node.name][0]), []).append(node.name)
        elif node.op.startswith(("Assign", "ResourceScatter", "ResourceApply")):
            for name in inputs[node.name][: 2 if node.op.startswith("ResourceApply") else 1]:
                writes.setdefault(variable(name), []).append(node.name)
    assert reads and writes
    return [
        f"{other} and {write}"
        for held, names in writes.items()
        for position, write in enumerate(names)
        for other in [*reads.get(held, []), *names[:position]]
        if other not in waits_for(write) and write not in waits_for(other)
    ]


def _step(name, optimizer, decay, num_replicas):
    given, crops = SMALL[name]
    method = training_runs.compiled(
        functools.partial(METHODS[name], **given),
        functools.partial(optimizers.build, optimizer, 0.05, weight_decay=decay),
        num_replicas,
    )
    strategy = training_runs.strategy_of(num_replicas)
    data = tf.data.Dataset.from_tensor_slices(training_runs.batches(crops))
    iterator = iter(loop.distribute(strategy, data))
    return loop.make_step_function(strategy, method.train_step), iterator


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("optimizer", "decay", "num_replicas"), [("adam", 0, 1), ("sgd", 5e-4, 2)])
def test_every_read_is_ordered(name, optimizer, decay, num_replicas):
    assert not _unordered(_running_graph(*_step(name, optimizer, decay, num_replicas)))


@pytest.mark.parametrize("ordered", [False, True])
def test_a_read_that_may_come_after_the_write_is_found(ordered):
    with tf.Graph().as_default() as graph:
        held = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])
        read = tf.raw_ops.ReadVariableOp(resource=held, dtype=tf.float32)
        with tf.control_dependencies([read] if ordered else []):
            tf.raw_ops.AssignSubVariableOp(resource=held, value=1.0)
    assert len(_unordered(graph.as_graph_def())) == (0 if ordered else 1)
