"""Measures whether the saliency of a pretrained network is on the objects in pictures.

    rfd-tf saliency --weights=runs/x --voc_dir=PATH
    rfd-tf saliency --weights=runs/x --coco_annotations=instances.json --coco_images=PATH
    rfd-tf saliency --weights=runs/x --data=PATH --map=grad_cam
    rfd-tf saliency --weights=runs/x --data=PATH --map=attention --map_layer=conv3 \\
        --power=2 --reference_weights=supervised/from_scratch.weights.h5

Saliency is the gradient of the rotation classifier's outputs, or of the feature's neurons, with
respect to the input. Its strongest pixels S are compared with the objects' boxes B by
Q = |S and B| / |S or B|, for the pretrained network, a random network, as many random pixels and as
many central pixels. Writes saliency.md, .csv (every image), .json (settings) and .png
to --output_dir, or saliency/ in the run folder. scripts/study.py trains the networks too.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from rfd_tf.cli import config_flags, data_flags, path_flags
from rfd_tf.cli.common import run

FLAGS = flags.FLAGS

path_flags.DEFINE_path("weights", None, "Run folder, weights file or shipped name.")
path_flags.DEFINE_path(
    "reference_weights",
    None,
    "Another network to compare, such as a supervised one (rfd-tf evaluate --finetune_save_dir).",
)
flags.DEFINE_string(
    "reference_title", "supervised", "Name of --reference_weights in tables and figures."
)
path_flags.DEFINE_path(
    "output_dir",
    None,
    "Folder of tables and figure. Default: saliency/, in the run folder if there is one.",
)

# Pictures.
path_flags.DEFINE_path("voc_dir", None, "Pictures with boxes in PASCAL VOC's layout.")
flags.DEFINE_string("voc_split", None, "Image list of --voc_dir. Default: all annotated pictures.")
flags.DEFINE_bool("masks", False, "Compare with the masks of --voc_dir instead of boxes.")
flags.DEFINE_string(
    "voc_tfds", None, "TFDS dataset with boxes (voc/2007, coco/2017), to write to --voc_dir."
)
path_flags.DEFINE_path(
    "coco_annotations", None, "COCO's JSON file of boxes; goes with --coco_images."
)
path_flags.DEFINE_path("coco_images", None, "Folder of the pictures of --coco_annotations.")
flags.DEFINE_list("classes", [], "Classes of objects, for COCO and --voc_tfds. Default: all.")
data_flags.DEFINE_data(
    "data",
    None,
    f"Images without boxes: maps are drawn, no Q: {data_flags.FORMS}. Stands for --data_dir or "
    "--dataset.",
)
config_flags.DEFINE_images(
    *("data_dir", "dataset", "data_root", "eval_split", "tfds_dir", "tfds_download"),
    *("max_skipped", *config_flags.READING, "cache_dir", "cache_gb"),
    data_dir="images without boxes: a folder, several, or a list.",
    dataset="TFDS image dataset, clothing or digits, without boxes.",
    eval_split="split of --dataset or of a list; test, validation or train if not given.",
)
flags.DEFINE_integer("max_images", None, "Largest number of pictures. Default: all.", 1)

# Maps.
flags.DEFINE_list(
    "layers",
    ["rotation", "embedding"],
    "Outputs whose saliency is computed: rotation, the classifier's outputs; embedding, the "
    "feature's neurons.",
)
flags.DEFINE_list(
    "threshold",
    [],
    "Fixed thresholds in addition to the quantile: a value for all layers, or LAYER:VALUE,...",
)
_SETTINGS = config_flags.DEFINE_arguments(
    "interpret.objects",
    "Settings",
    ("map", "group", "combine", "quantile", "neurons", "layer", "power", "draws", "noise",
     "colors", "seed"),
    {"layer": "map_layer"},
)  # fmt: skip
flags.DEFINE_integer("sheet_images", 6, "Number of pictures in the figure.", 1)

# Flag -> those that it goes with.
_GOES_WITH = {
    "voc_split": ("voc_dir",),
    "masks": ("voc_dir",),
    "voc_tfds": ("voc_dir",),
    "coco_images": ("coco_annotations",),
    "classes": ("coco_annotations", "voc_tfds"),
    "eval_split": ("dataset", "data_dir"),
}


def settings():
    """Returns the flags as `rfd_tf.interpret.objects.Settings`."""
    from rfd_tf.errors import UserError, unknown
    from rfd_tf.interpret import objects
    from rfd_tf.rules import moot, refusal

    for layer in FLAGS.layers or [""]:
        if layer not in objects.LAYERS:
            raise unknown("layer", layer, objects.LAYERS)
    given = config_flags.values(_SETTINGS)
    found = objects.Settings(thresholds=thresholds(objects.LAYERS), **given)
    values = vars(found)
    for name, rule in moot(found.rules, values):
        # (scripts/study.py gives --neurons for every kind of map.)
        if name in given and name != "neurons":
            message = str(refusal(name, rule, values))
            raise UserError(message.replace(f"{name}=", f"{_SETTINGS[name]}=", 1))
    return found


def thresholds(layers) -> dict[str, float]:
    """Returns --threshold as layer -> value."""
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
    """Returns the pictures of the flags, as `rfd_tf.interpret.objects.Pictures`.

    Args:
        image_size: pixels a side.
        run: folder of the run under evaluation, or None.
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
        recorded = RunImages() if run is None else RunImages.of_run(run)
        images = recorded.replaced(**config_flags.images())
        source = images.test(FLAGS.tfds_download) or images.train(FLAGS.tfds_download)
        if run is not None:
            warn_if_trained_on(recorded, source, what="pictures")
        return objects.without_objects(source, image_size, FLAGS.max_images)
    return objects.read_pictures(_annotated(), image_size, FLAGS.max_images)


def _annotated():
    """Returns the pictures with boxes or masks, a `VocSet`."""
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


def main() -> None:
    from rfd_tf.errors import UserError

    data_flags.resolve()
    how = settings()
    if not FLAGS.weights:
        raise UserError("give --weights a run folder, a .weights.h5 file or a shipped name")
    from rfd_tf.evaluation.subject import Subject
    from rfd_tf.interpret import objects, saliency_files

    subject = Subject.pretrained(FLAGS.weights)
    for layer in FLAGS.layers:
        objects.Maps(subject, layer, how)  # fails before the pictures are read
    reference = None
    if FLAGS["reference_title"].present and not FLAGS.reference_weights:
        raise UserError("--reference_title goes with --reference_weights")
    if FLAGS.reference_weights:
        reference = Subject.pretrained(FLAGS.reference_weights)
        objects.check_reference(subject, reference, how, FLAGS.layers)
    shown = pictures(subject.image_size, subject.folder)
    output = Path(FLAGS.output_dir or (subject.folder or Path()) / "saliency")
    saliency_files.folder(output)
    found = objects.measure(
        subject,
        shown,
        how,
        FLAGS.layers,
        progress=True,
        reference=reference,
        reference_title=FLAGS.reference_title,
    )
    saliency_files.write(output, shown, found, how, FLAGS.sheet_images)
    print(f"\n{saliency_files.summary(shown, found, how)}")
    written = [s for s in (".csv", ".json", ".png") if (output / f"saliency{s}").exists()]
    print(f"\nwritten: {', '.join([str(output / 'saliency.md'), *written])}")


if __name__ == "__main__":
    run(main)
