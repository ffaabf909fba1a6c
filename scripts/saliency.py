"""Measures whether a pretrained network looks at the objects in pictures.

    python scripts/saliency.py --weights=runs/x --voc_dir=PATH --output_dir=saliency
    python scripts/saliency.py --weights=runs/x --coco_annotations=instances.json --coco_images=PATH

Saliency is the gradient of the rotation classifier's outputs, or of the feature's neurons, with
respect to the pixels. Its strongest pixels S are compared with the objects' boxes B by
Q = |S and B| / |S or B|: of the pretrained network, of a random one, and of as many random pixels.
Writes saliency.md, .csv (every image), .json (settings) and .png. scripts/study.py trains the
networks too.
"""

from __future__ import annotations

from pathlib import Path

import saliency_flags
from absl import flags
from common import run

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(saliency_flags)

flags.DEFINE_string("weights", None, "Run folder, weights file or shipped name.")
flags.DEFINE_string("output_dir", "saliency", "Where tables and figure go.")


def main() -> None:
    from rfd_tf.errors import UserError

    settings = saliency_flags.settings()
    if not FLAGS.weights:
        raise UserError("give --weights a run folder, a .weights.h5 file or a shipped name")
    from rfd_tf.evaluation.subject import Subject
    from rfd_tf.interpret import objects

    subject = Subject.pretrained(FLAGS.weights)
    for layer in FLAGS.layers:
        objects.layer_model(subject, layer)  # tells what is missing before the pictures are read
    found = saliency_flags.pictures()
    shown = objects.read_pictures(found, subject.image_size, FLAGS.max_images)
    result = objects.judge(subject, shown, settings, FLAGS.layers, progress=True)
    output = Path(FLAGS.output_dir)
    objects.write(output, shown, result, settings, FLAGS.sheet_images)
    print(f"\n{len(shown.names)} pictures of {found.name}, {subject.image_size} pixels a side\n")
    print(objects.table(result["rows"], settings))
    print(f"\nwritten: {output / 'saliency.md'}, .csv, .json, .png")


if __name__ == "__main__":
    run(main)
