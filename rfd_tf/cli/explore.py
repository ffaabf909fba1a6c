"""Serves a local page to explore a run interactively.

    rfd-tf explore --run=runs/x --data=PATH/TO/IMAGES

Click an image to see its neighbours under f1, f2 and f. Rotate it to see the predicted rotation,
the distance to the unrotated image and an occlusion map. Drop in a picture of your own. The page is
reachable from this machine only. The network runs as ONNX; its file and the embeddings of the
images are computed once and kept in explore/ in the run folder.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from rfd_tf.cli import config_flags, data_flags, path_flags
from rfd_tf.cli.common import run

path_flags.DEFINE_path("run", None, "A run folder, or another folder with backbone.weights.h5.")
data_flags.DEFINE_data(
    "data",
    None,
    f"The images: {data_flags.FORMS}. Stands for --data_dir or --dataset. Default: those that the "
    "run was evaluated or trained on.",
)
config_flags.DEFINE_images(
    *("data_dir", "dataset", "data_root", "tfds_classes", "tfds_dir", "max_skipped"),
    *config_flags.READING,
    data_dir="images: a folder, several, or a list; without, those that the run was evaluated or "
    "trained on.",
)
flags.DEFINE_string("split", None, "Which part of --dataset or a list. Default: the run's, test.")
_SERVER = config_flags.DEFINE_arguments(
    "interpret.explore.server", "ExploreServer", ("port",), bounds={"port": (0, 65535)}
)
flags.DEFINE_integer(
    "max_images", 2000, "Largest number of images, chosen by a hash of their index; 0 for all."
)
_EXPLORER = config_flags.DEFINE_arguments(
    "interpret.explore.explorer", "Explorer", ("neighbours",), bounds={"neighbours": (1, None)}
)
path_flags.DEFINE_path(
    "cache_dir", None, "Folder of the ONNX file and embeddings. Default: RUN/explore."
)

FLAGS = flags.FLAGS


def images_of(folder: Path):
    """The images that the flags name, or those that the run is evaluated or was trained on."""
    from rfd_tf.data import given as given_images
    from rfd_tf.data.run_images import RunImages, warn_if_trained_on
    from rfd_tf.errors import UserError

    recorded = RunImages.of_run(folder)
    given = config_flags.images()
    given.pop("cache_dir")  # here the folder of the command's own files
    classes = given.pop("tfds_classes")
    images = recorded.replaced(**given)
    if not (images.dataset or images.data_dir or images.eval_dir):
        raise UserError("give --data a folder of images or the name of a dataset")
    if FLAGS.split and not (images.dataset or given_images.has_splits(images.data_dir)):
        raise UserError("--split goes with --dataset; a folder has no splits")
    images = images.replaced(eval_split=FLAGS.split, tfds_classes=classes)
    source = images.test() or images.train()
    warn_if_trained_on(recorded, source, what="images")
    return source


def server():
    """Returns the server, not yet running."""
    import hashlib

    import numpy as np

    from rfd_tf.errors import UserError
    from rfd_tf.evaluation.feature_cache import FeatureCache
    from rfd_tf.evaluation.files import folder as made
    from rfd_tf.evaluation.image_set import ImageSet
    from rfd_tf.evaluation.splits import subset
    from rfd_tf.interpret.explore import Explorer, ExploreServer, OnnxNetwork, exported

    data_flags.resolve()
    if not FLAGS.run:
        raise UserError("give --run a run folder")
    if FLAGS.max_images < 0:
        raise UserError(f"--max_images is 0 or more; got {FLAGS.max_images}")
    folder = Path(FLAGS.run)
    if not folder.is_dir():
        raise UserError(
            f"no such run folder: '{folder}'; give --run a folder that rfd-tf pretrain wrote"
        )
    source = images_of(folder)
    kept = made(Path(FLAGS.cache_dir) if FLAGS.cache_dir else folder / "explore")
    network = OnnxNetwork(exported(folder, kept))
    rows = subset(np.arange(source.num_images), FLAGS.max_images or source.num_images)
    images = ImageSet(source, rows, network.image_size)
    identity = {
        "weights": network.sha256,
        "images": source.fingerprint,
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "image_size": network.image_size,
    }
    explorer = Explorer(
        network,
        images,
        FeatureCache(kept / "embeddings", identity),
        progress=True,
        **config_flags.values(_EXPLORER),
    )
    title = folder.resolve().name
    return ExploreServer(explorer, title=title, **config_flags.values(_SERVER))


def main() -> None:
    page = server()
    count, source = len(page.explorer.images), page.explorer.images.source
    print(f"{count:,} of {source.num_images:,} images of {source.name}: {page.url}", flush=True)
    print("only this machine can reach it; Ctrl-C ends it", flush=True)
    print(source.summary(), flush=True)
    try:
        page.serve_forever()
    except KeyboardInterrupt:
        print("ended")
    finally:
        page.server_close()


if __name__ == "__main__":
    run(main)
