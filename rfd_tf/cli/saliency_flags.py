"""The flags of rfd-tf saliency: pictures, with or without boxes, and maps."""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import limit_flags, path_flags

FLAGS = flags.FLAGS

# Pictures.
path_flags.DEFINE_path("voc_dir", None, "Pictures with boxes in PASCAL VOC's layout.")
flags.DEFINE_string("voc_split", None, "A list of --voc_dir; all annotated pictures if not given.")
flags.DEFINE_bool("masks", False, "Judge against the masks of --voc_dir instead of boxes.")
flags.DEFINE_string(
    "voc_tfds", None, "TFDS dataset with boxes (voc/2007, coco/2017), written out to --voc_dir."
)
path_flags.DEFINE_path("coco_annotations", None, "COCO's JSON of boxes; goes with --coco_images.")
path_flags.DEFINE_path("coco_images", None, "The folder of its pictures.")
flags.DEFINE_list(
    "classes", [], "Of COCO's and --voc_tfds' objects those of these classes; all if none."
)
path_flags.DEFINE_path("data_dir", None, "Folder of images without boxes: maps are drawn, no Q.")
flags.DEFINE_string("dataset", None, "TFDS image dataset, or digits, without boxes.")
flags.DEFINE_string("eval_split", None, "Split of --dataset. Default: test, validation, train.")
path_flags.DEFINE_path("tfds_dir", None, "Where TFDS keeps its datasets.")
flags.DEFINE_bool("tfds_download", False, "Let TFDS download and prepare the dataset.")
limit_flags.DEFINE_max_skipped()
limit_flags.DEFINE_max_megapixels()
flags.DEFINE_integer("max_images", None, "Judge at most so many pictures; all if not given.")

# Maps.
flags.DEFINE_list(
    "layers",
    ["rotation", "embedding"],
    "Whose saliency: rotation, the classifier's outputs; embedding, the feature's neurons.",
)
flags.DEFINE_enum(
    "map",
    "gradient",
    ["gradient", "smooth", "grad_cam", "attention"],
    "gradient of the outputs by the input; smooth: averaged over noisy copies; grad_cam: a layer's "
    "map, weighed by gradients; attention: the strength of a layer's activations.",
)
flags.DEFINE_enum(
    "group", "maximum", ["maximum", "each"], "Maps of several neurons: maximum makes one, or each."
)
flags.DEFINE_enum(
    "combine", "mean", ["mean", "maximum"], "Overlaps of several maps of an image, with each."
)
flags.DEFINE_float("quantile", 0.8, "Share of each map's pixels that do not count as salient.")
flags.DEFINE_list(
    "threshold",
    [],
    "Fixed thresholds to judge beside the quantile: a value for all layers, or LAYER:VALUE,...",
)
flags.DEFINE_integer(
    "neurons", 0, "At most so many neurons of the embedding, evenly spread; all if 0."
)
flags.DEFINE_string(
    "map_layer", None, "Layer of grad_cam and attention; the last with a map if not given."
)
flags.DEFINE_integer("power", 1, "Of attention: the sum over channels of |activation| ** power.")
flags.DEFINE_integer("draws", 16, "Noisy copies of a smooth gradient.")
flags.DEFINE_float("noise", 0.15, "Their noise, as a share of the image's range.")
flags.DEFINE_enum(
    "colors", "maximum", ["maximum", "mean"], "How the gradients of the three colours become one."
)
flags.DEFINE_integer("sheet_images", 6, "Pictures on the figure.")
flags.DEFINE_integer("seed", 0, "Of the random network, noise and random pixels.")


# Flag -> option of `objects.Settings`, where the names differ.
_OPTIONS = {"map_layer": "layer"}
# Flag -> those that it goes with.
_GOES_WITH = {
    "voc_split": ("voc_dir",),
    "masks": ("voc_dir",),
    "voc_tfds": ("voc_dir",),
    "coco_images": ("coco_annotations",),
    "classes": ("coco_annotations", "voc_tfds"),
    "eval_split": ("dataset",),
}


def settings():
    """The flags as `rfd_tf.interpret.objects.Settings`."""
    from rfd_tf.errors import UserError, unknown
    from rfd_tf.interpret import objects

    for name in ("max_images", "sheet_images"):
        if FLAGS[name].value is not None and FLAGS[name].value < 1:
            raise UserError(f"--{name}={FLAGS[name].value} must be at least 1")
    for layer in FLAGS.layers or [""]:
        if layer not in objects.LAYERS:
            raise unknown("layer", layer, objects.LAYERS)
    found = objects.Settings(
        map=FLAGS.map,
        group=FLAGS.group,
        combine=FLAGS.combine,
        quantile=FLAGS.quantile,
        thresholds=thresholds(objects.LAYERS),
        neurons=FLAGS.neurons,
        layer=FLAGS.map_layer,
        power=FLAGS.power,
        draws=FLAGS.draws,
        noise=FLAGS.noise,
        colors=FLAGS.colors,
        seed=FLAGS.seed,
    )
    # (--neurons, which the study always gives, is recorded as without effect.)
    in_use = found.in_use()
    for name in ("group", "combine", "map_layer", "power", "draws", "noise", "colors"):
        if FLAGS[name].present and in_use[_OPTIONS.get(name, name)] is None:
            beside = f"--map={FLAGS.map} and --group={FLAGS.group}"
            raise UserError(f"--{name} has no effect beside {beside}; leave it out")
    return found


def thresholds(layers) -> dict[str, float]:
    """--threshold: layer -> value."""
    from rfd_tf.errors import UserError

    found = {}
    for item in FLAGS.threshold:
        layer, _, text = item.rpartition(":")
        try:
            value = float(text)
        except ValueError:
            raise UserError(f"--threshold '{item}' must be a number or LAYER:NUMBER") from None
        found.update(dict.fromkeys([layer] if layer else layers, value))
    return found


def pictures(image_size: int, run=None):
    """The pictures that the flags name, as `rfd_tf.interpret.objects.Pictures`.

    Args:
        image_size: pixels a side.
        run: folder of the run whose network looks at them, or None.
    """
    from rfd_tf.data.run_images import RunImages, warn_if_trained_on
    from rfd_tf.errors import UserError
    from rfd_tf.interpret import objects

    ways = ("voc_dir", "coco_annotations", "data_dir", "dataset")
    given = [f"--{name}" for name in ways if FLAGS[name].value]
    if len(given) != 1:
        raise UserError(
            "give pictures with boxes (--voc_dir, or --coco_annotations and --coco_images) or "
            f"without (--data_dir, --dataset); {' and '.join(given) or 'none'} given"
        )
    for name, others in _GOES_WITH.items():
        if FLAGS[name].value and not any(FLAGS[other].value for other in others):
            raise UserError(f"--{name} goes with {' or '.join(f'--{other}' for other in others)}")
    if given[0] in ("--data_dir", "--dataset"):
        names = ("dataset", "data_dir", "eval_split", "tfds_dir")
        recorded = RunImages() if run is None else RunImages.of_run(run)
        given = {name: FLAGS[name].value for name in names} | limit_flags.given()
        images = recorded.replaced(**given)
        source = images.test(FLAGS.tfds_download) or images.train(FLAGS.tfds_download)
        if run is not None:
            warn_if_trained_on(recorded, source, what="pictures")
        return objects.without_objects(source, image_size, FLAGS.max_images)
    return objects.read_pictures(_annotated(), image_size, FLAGS.max_images)


def _annotated():
    """The pictures with boxes or masks, a `VocSet`."""
    from rfd_tf.data import coco, voc, voc_tfds
    from rfd_tf.errors import UserError

    if bool(FLAGS.coco_annotations) != bool(FLAGS.coco_images):
        raise UserError("--coco_annotations and --coco_images go together")
    if FLAGS.coco_annotations:
        return coco.coco_file(FLAGS.coco_annotations, FLAGS.coco_images, FLAGS.classes or None)
    if FLAGS.voc_tfds:
        counts = voc_tfds.unpack(
            FLAGS.voc_tfds,
            FLAGS.voc_dir,
            FLAGS.tfds_dir,
            FLAGS.tfds_download,
            FLAGS.classes or None,
        )
        found = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
        print(f"{FLAGS.voc_tfds} in {FLAGS.voc_dir}; splits: {found}")
    return voc.voc_folder(FLAGS.voc_dir, FLAGS.voc_split, masks=FLAGS.masks)
