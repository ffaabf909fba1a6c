"""Backbones: constructors in the manner of `keras.applications`, weights files, endpoints.

>>> from rfd_tf.applications import build, preprocess_input
>>> backbone = build("six_layer", image_size=32, pooling="avg")
>>> import numpy as np
>>> backbone(preprocess_input(np.zeros((1, 32, 32, 3), "uint8"))).shape
TensorShape([1, 128])
"""

from rfd_tf.applications.alexnet import AlexNet
from rfd_tf.applications.cloning import fuse_batch_normalization, portable
from rfd_tf.applications.endpoints import endpoints, feature_extractor, pooled_feature_model
from rfd_tf.applications.network_in_network import NetworkInNetwork
from rfd_tf.applications.preprocessing import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    preprocess_input,
)
from rfd_tf.applications.pretrained import WEIGHTS
from rfd_tf.applications.registry import BACKBONES, build, default_image_size, load_backbone
from rfd_tf.applications.rescale import rescale_weights
from rfd_tf.applications.resnet18 import ResNet18
from rfd_tf.applications.six_layer import SixLayer
from rfd_tf.applications.start import freeze
from rfd_tf.applications.weights import read_record, save_backbone

__all__ = [
    "BACKBONES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "WEIGHTS",
    "AlexNet",
    "NetworkInNetwork",
    "ResNet18",
    "SixLayer",
    "build",
    "default_image_size",
    "endpoints",
    "feature_extractor",
    "freeze",
    "fuse_batch_normalization",
    "load_backbone",
    "pooled_feature_model",
    "portable",
    "preprocess_input",
    "read_record",
    "rescale_weights",
    "save_backbone",
]
