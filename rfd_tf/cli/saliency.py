"""Measures whether a pretrained network looks at the objects in pictures.

    rfd-tf saliency --weights=runs/x --voc_dir=PATH
    rfd-tf saliency --weights=runs/x --coco_annotations=instances.json --coco_images=PATH
    rfd-tf saliency --weights=runs/x --data_dir=PATH --map=grad_cam
    rfd-tf saliency --weights=runs/x --data_dir=PATH --map=attention --map_layer=conv3 \\
        --power=2 --reference_weights=supervised/from_scratch.weights.h5

Saliency is the gradient of the rotation classifier's outputs, or of the feature's neurons, with
respect to the input. Its strongest pixels S are compared with the objects' boxes B by
Q = |S and B| / |S or B|: of the pretrained network and of a random one, beside as many random
pixels and as many central ones. Writes saliency.md, .csv (every image), .json (settings) and .png
to --output_dir, or saliency/ in the run folder. scripts/study.py trains the networks too.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from rfd_tf.cli import path_flags, saliency_flags
from rfd_tf.cli.common import run

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(saliency_flags)

path_flags.DEFINE_path("weights", None, "Run folder, weights file or shipped name.")
path_flags.DEFINE_path(
    "reference_weights",
    None,
    "Another network beside it, such as a supervised one (rfd-tf evaluate --finetune_save_dir).",
)
flags.DEFINE_string("reference_title", "supervised", "What tables and figures call it.")
path_flags.DEFINE_path(
    "output_dir",
    None,
    "Where tables and figure go; saliency/, in the run folder if there is one, if not given.",
)


def main() -> None:
    from rfd_tf.errors import UserError

    settings = saliency_flags.settings()
    if not FLAGS.weights:
        raise UserError("give --weights a run folder, a .weights.h5 file or a shipped name")
    from rfd_tf.evaluation.subject import Subject
    from rfd_tf.interpret import objects, saliency_files

    subject = Subject.pretrained(FLAGS.weights)
    for layer in FLAGS.layers:
        objects.Maps(subject, layer, settings)  # tells what is missing before the pictures are read
    reference = None
    if FLAGS["reference_title"].present and not FLAGS.reference_weights:
        raise UserError("--reference_title goes with --reference_weights")
    if FLAGS.reference_weights:
        reference = Subject.pretrained(FLAGS.reference_weights)
        objects.check_reference(subject, reference, settings, FLAGS.layers)
    pictures = saliency_flags.pictures(subject.image_size, subject.folder)
    output = Path(FLAGS.output_dir or (subject.folder or Path()) / "saliency")
    saliency_files.folder(output)
    found = objects.judge(
        subject,
        pictures,
        settings,
        FLAGS.layers,
        progress=True,
        reference=reference,
        reference_title=FLAGS.reference_title,
    )
    saliency_files.write(output, pictures, found, settings, FLAGS.sheet_images)
    print(f"\n{saliency_files.summary(pictures, found, settings)}")
    print(f"\nwritten: {output / 'saliency.md'}, .csv, .json, .png")


if __name__ == "__main__":
    run(main)
