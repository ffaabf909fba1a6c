"""What the tests of this folder share."""

import numpy as np

from rfd_tf import applications

FILTERS = [8, 12, 12, 16, 16, 64]
RECORD = {
    "format": 1,
    "backbone": "six_layer",
    "arguments": {"filters": FILTERS},
    "image_size": 32,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "method": "rfd",
    "dataset": "digits",
    "epoch": 3,
    "feature": {"endpoint": "block6", "pooling": "avg", "split": [24, 40]},
    "endpoints": ["block1", "block6"],
}


def randomize(model, seed=1):
    """Gives batch normalisation values as after training: the untrained ones hide mistakes.

    The moving statistics follow real activations, so that every layer matters to the output.
    """
    from rfd_tf.export import verification_images

    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith("beta"):
            weight.assign(rng.normal(0, 0.2, weight.shape))
        elif weight.path.endswith("gamma"):
            weight.assign(rng.uniform(0.7, 1.3, weight.shape))
    images = verification_images(model.input_shape[1]).astype("float32") / 64 - 2
    for _ in range(25):
        model(images, training=True)
    return model


def numpy_embedding(model, record, pixels):
    """The pooled feature, from the backbone and NumPy alone."""
    normalised = (pixels / 255.0 - np.array(record["mean"])) / np.array(record["std"])
    layer = applications.feature_extractor(model, record["feature"]["endpoint"])
    maps = layer(normalised.astype("float32"), training=False)[record["feature"]["endpoint"]]
    return np.asarray(maps).mean(axis=(1, 2))
