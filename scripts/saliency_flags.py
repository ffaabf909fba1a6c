"""Flags of scripts/saliency.py and scripts/study.py: pictures with boxes, and maps."""

from __future__ import annotations

from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string("voc_dir", None, "Pictures with boxes in PASCAL VOC's layout.")
flags.DEFINE_string("voc_split", None, "A list of --voc_dir; all annotated pictures if not given.")
flags.DEFINE_bool("masks", False, "Judge against the masks of --voc_dir instead of boxes.")
flags.DEFINE_string(
    "voc_tfds", None, "TFDS dataset with boxes (voc/2007, coco/2017), written out to --voc_dir."
)
flags.DEFINE_string("tfds_dir", None, "Where TFDS keeps its datasets.")
flags.DEFINE_bool("tfds_download", False, "Whether TFDS may download a dataset.")
flags.DEFINE_string("coco_annotations", None, "COCO's JSON of boxes; goes with --coco_images.")
flags.DEFINE_string("coco_images", None, "The folder of its pictures.")
flags.DEFINE_list("classes", [], "Of COCO's and TFDS' objects those of these classes; all if none.")
flags.DEFINE_list("layers", ["rotation", "embedding"], "Whose saliency: rotation, embedding.")
flags.DEFINE_string("map", "gradient", "gradient, smooth, grad_cam or attention.")
flags.DEFINE_string("group", "maximum", "Maps of several neurons: maximum makes one, or each.")
flags.DEFINE_string("combine", "mean", "Overlaps of several maps of an image: mean or maximum.")
flags.DEFINE_float("quantile", 0.8, "Share of a map's pixels that do not count as salient.")
flags.DEFINE_float("threshold", None, "A fixed threshold instead of the quantile.")
flags.DEFINE_integer("neurons", 0, "At most so many neurons of the embedding; all if 0.")
flags.DEFINE_string("map_layer", None, "Of grad_cam and attention; the last map if not given.")
flags.DEFINE_integer("power", 1, "Of attention: the sum over channels of |activation| ** power.")
flags.DEFINE_integer("draws", 16, "Noisy copies of a smooth gradient.")
flags.DEFINE_float("noise", 0.15, "Their noise, as a share of the image's range.")
flags.DEFINE_integer("max_images", None, "Judge at most so many pictures.")
flags.DEFINE_integer("sheet_images", 6, "Pictures on the figure.")
flags.DEFINE_integer("seed", 0, "Of the random network, noise and random pixels.")


def settings():
    """The flags as `rfd_tf.interpret.objects.Settings`."""
    from rfd_tf.errors import UserError, unknown
    from rfd_tf.interpret import objects

    if FLAGS.threshold is not None and FLAGS["quantile"].present:
        raise UserError("--threshold and --quantile exclude one another")
    if FLAGS.max_images is not None and FLAGS.max_images < 1:
        raise UserError(f"--max_images={FLAGS.max_images} must be at least 1")
    if FLAGS.sheet_images < 1:
        raise UserError(f"--sheet_images={FLAGS.sheet_images} must be at least 1")
    for layer in FLAGS.layers or [""]:
        if layer not in objects.LAYERS:
            raise unknown("layer", layer, objects.LAYERS)
    return objects.Settings(
        map=FLAGS.map,
        group=FLAGS.group,
        combine=FLAGS.combine,
        quantile=None if FLAGS.threshold is not None else FLAGS.quantile,
        threshold=FLAGS.threshold,
        neurons=FLAGS.neurons,
        layer=FLAGS.map_layer,
        power=FLAGS.power,
        draws=FLAGS.draws,
        noise=FLAGS.noise,
        seed=FLAGS.seed,
    )


def unpacked() -> None:
    """Writes the TFDS dataset that --voc_tfds names into --voc_dir, unless it is there."""
    from rfd_tf.data import voc_tfds
    from rfd_tf.errors import UserError

    if not FLAGS.voc_tfds:
        return
    if not FLAGS.voc_dir:
        raise UserError("--voc_tfds needs --voc_dir, the folder to write the pictures to")
    counts = voc_tfds.unpack(
        FLAGS.voc_tfds, FLAGS.voc_dir, FLAGS.tfds_dir, FLAGS.tfds_download, FLAGS.classes or None
    )
    found = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
    print(f"{FLAGS.voc_tfds} in {FLAGS.voc_dir}; splits: {found}")


def pictures():
    """The pictures with boxes or masks that the flags name, a `VocSet`."""
    from rfd_tf.data import coco, voc
    from rfd_tf.errors import UserError

    unpacked()
    if bool(FLAGS.coco_annotations) != bool(FLAGS.coco_images):
        raise UserError("--coco_annotations and --coco_images go together")
    if FLAGS.coco_annotations:
        if FLAGS.voc_dir:
            raise UserError("give --voc_dir or --coco_annotations, one of the two")
        return coco.coco_file(FLAGS.coco_annotations, FLAGS.coco_images, FLAGS.classes or None)
    if not FLAGS.voc_dir:
        raise UserError(
            "give pictures with boxes: --voc_dir, or --coco_annotations with its images"
        )
    return voc.voc_folder(FLAGS.voc_dir, FLAGS.voc_split, masks=FLAGS.masks)
