"""Layers: batch normalisation, dropout, the memory bank, the normalising constant, pooling."""

from rfd_tf.layers.adaptive_pooling import adaptive_average_pool, adaptive_max_pool
from rfd_tf.layers.batch_norm import BatchNormalization, limit_momentum
from rfd_tf.layers.dropout import Dropout
from rfd_tf.layers.memory_bank import MemoryBank
from rfd_tf.layers.normalizer import NORMALIZERS, NormalizingConstant

__all__ = [
    "NORMALIZERS",
    "BatchNormalization",
    "Dropout",
    "MemoryBank",
    "NormalizingConstant",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "limit_momentum",
]
