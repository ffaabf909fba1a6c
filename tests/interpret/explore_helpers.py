"""A small trained-looking run, a folder of images, and a server in this process."""

import contextlib
import json
import threading

import keras
import numpy as np
from PIL import Image

from rfd_tf import applications, data
from rfd_tf.evaluation.feature_cache import FeatureCache
from rfd_tf.evaluation.heads import save_heads
from rfd_tf.evaluation.image_set import ImageSet
from rfd_tf.interpret.explore import Explorer, ExploreServer, OnnxNetwork, exported

FILTERS = [4, 4, 4, 4, 4, 8]
SIZE = 16
HOSTILE = '<img src=x onerror="console.error(1)">'


def make_run(folder, heads=True):
    """Writes the folder of a run, split 4 and 4; returns its backbone."""
    keras.utils.set_random_seed(7)
    model = applications.build("six_layer", SIZE, filters=FILTERS)
    noise = np.random.default_rng(0).normal(size=(64, SIZE, SIZE, 3)).astype("float32")
    for _ in range(20):
        model(noise, training=True)
    record = {
        "format": 1, "backbone": "six_layer", "arguments": {"filters": FILTERS}, "epoch": 2,
        "image_size": SIZE, "method": "rfd", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3],
        "feature": {"endpoint": "block6", "pooling": "avg", "split": [4, 4]},
    }  # fmt: skip
    folder.mkdir(parents=True)
    applications.save_backbone(model, folder / "backbone.weights.h5", record)
    (folder / "run.json").write_text(json.dumps({"flags": {"dataset": "digits"}}))
    if heads:
        head = keras.layers.Dense(4)
        head.build((None, 4))
        save_heads(folder, {"rotation_head": head}, 2)
    return model, record


def make_images(folder, count=40):
    """Writes a folder of two classes; one file has a name that must not become markup."""
    images = data.digits("test").images
    for place in range(count):
        name = f"{HOSTILE}.png" if place == 0 else f"{place:03}.png"
        target = folder / ("even & odd" if place % 2 else "<b>zero") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = images[place].copy()
        pixels[..., place % 3] //= 2
        Image.fromarray(pixels).save(target)
    return data.image_folder(folder)


def make_explorer(run, source, cache=None, **options):
    network = OnnxNetwork(exported(run, run / "explore"))
    images = ImageSet(source, None, network.image_size)
    cache = FeatureCache(run / "explore" / "embeddings", {"of": cache}) if cache else None
    return Explorer(network, images, cache, **options)


@contextlib.contextmanager
def serving(explorer):
    server = ExploreServer(explorer, 0, title="<i>run</i>")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def keras_features(model, record, pixels):
    """f, f1 and f2 by Keras and NumPy, not by way of the export."""
    normalised = (pixels / 255.0 - np.array(record["mean"])) / np.array(record["std"])
    f = np.asarray(model(normalised.astype("float32"), training=False)).mean(axis=(1, 2))
    return {"f": f, "f1": f[:, :4], "f2": f[:, 4:]}
