"""What the replicas of a TensorFlow strategy must do together; plain identities anywhere else.

Every function may be called in or out of a replica, on any Keras backend. With one replica, or on
another backend, each returns its input unchanged.
"""

from __future__ import annotations

import keras


def _context():
    """The current replica context when several replicas run in step, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context


def num_replicas() -> int:
    """The number of replicas that compute one step together (1 without a strategy)."""
    context = _context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_index():
    """This replica's position, 0-based: an int, or an int32 scalar tensor inside a strategy."""
    context = _context()
    if context is None:
        return 0
    return context.replica_id_in_sync_group


def gather(tensor):
    """Joins the replicas' tensors along the first axis, in the order of the global batch.

    Args:
        tensor: `[batch per replica, ...]`, the same shape on every replica.

    Returns:
        `[global batch, ...]`. Gradients do not pass through it usefully; gather what needs none.
    """
    context = _context()
    return tensor if context is None else context.all_gather(tensor, axis=0)


def gather_with_gradient(tensor):
    """Like `gather`, and gradients pass back to the replica that each row came from."""
    context = _context()
    if context is None:
        return tensor
    import tensorflow as tf

    count, rows = context.num_replicas_in_sync, tf.shape(tensor)[0]
    own = tf.one_hot(context.replica_id_in_sync_group, count, dtype=tensor.dtype)
    spread = tf.reshape(own, [count] + [1] * len(tensor.shape)) * tensor[None]
    return tf.reshape(all_sum(spread), tf.concat([[count * rows], tf.shape(tensor)[1:]], 0))


def all_sum(tensor):
    """Sums a tensor over the replicas; differentiable."""
    context = _context()
    if context is None:
        return tensor
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def all_mean(tensor):
    """Averages a tensor over the replicas; differentiable."""
    count = num_replicas()
    return tensor if count == 1 else all_sum(tensor) / count


def local_slice(tensor, batch_per_replica: int):
    """This replica's rows of a tensor that every replica computed for the whole global batch."""
    if num_replicas() == 1:
        return tensor
    import tensorflow as tf

    start = replica_index() * batch_per_replica
    return tf.slice(
        tensor,
        [start] + [0] * (len(tensor.shape) - 1),
        [batch_per_replica] + [-1] * (len(tensor.shape) - 1),
    )


def draw(draw_global, batch_per_replica: int):
    """Random numbers for this replica's images, the same as one replica would draw for them.

    Args:
        draw_global: function of a number of rows that draws them with a Keras seed generator;
            it is asked for those of the whole global batch.
        batch_per_replica: rows of this replica, an int or a scalar tensor.

    Returns:
        `[batch_per_replica, ...]`.
    """
    return local_slice(draw_global(batch_per_replica * num_replicas()), batch_per_replica)
