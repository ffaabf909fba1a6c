"""Runs the saliency study on one dataset: trains its three networks, evaluates where they look.

    python scripts/study.py --study=folder --data=PATH --output_dir=runs/study
    python scripts/study.py --study=coco_cats_dogs --tfds_download --output_dir=runs/study

Each network is a pretraining by configs/study_STUDY_NETWORK.cfg and the flags of pretrain that are
given, in OUTPUT/NETWORK/; where it looks is in OUTPUT/NETWORK/saliency/. study.md, .csv and .json
hold the rotation accuracies, and Q for both layers. The same command again resumes what was
interrupted and trains what is missing.

A folder in VOC's layout (images/, annotations/) has boxes, any other folder of images has none;
a fifth is held out, unless --voc_dir, --coco_annotations or --test_dir name the pictures to
evaluate on.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf.cli import common, config_flags, path_flags, pretrain

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(pretrain)

flags.DEFINE_string("study", "folder", "folder, lfw, coco_cats_dogs or cityscapes.")
flags.DEFINE_list(
    "networks", ["six_layer", "mobilenet_v2", "efficientnet_b0"], "Networks to train."
)
path_flags.DEFINE_path(
    "voc_dir", None, "Of --study=folder: pictures with boxes to evaluate on, as VOC's."
)
flags.DEFINE_string("voc_split", None, "A list of --voc_dir.")
path_flags.DEFINE_path(
    "coco_annotations", None, "Of --study=folder: COCO's JSON of boxes to evaluate on."
)
path_flags.DEFINE_path("coco_images", None, "The folder of its pictures.")
path_flags.DEFINE_path("test_dir", None, "Of --study=folder: images without boxes to evaluate on.")
flags.DEFINE_integer(
    "neurons", 64, "Neurons of the embedding, evenly spread; 0 for all, which takes long."
)
flags.DEFINE_integer("max_images", None, "Evaluate on at most so many pictures.", 1)
flags.DEFINE_integer("sheet_images", 6, "Pictures on the figure of a network.", 1)
flags.DEFINE_multi_string(
    "saliency_option",
    [],
    "Option of rfd_tf.interpret.objects.Settings as name=value, such as map=smooth; may be "
    "repeated.",
)
flags.DEFINE_bool(
    "shuffle_rotations",
    False,
    "Shuffle the four rotations of an image over the batches of an epoch, as the report does, "
    "instead of training on all four in one batch.",
)

_TEST_SETS = ("voc_dir", "coco_annotations", "test_dir")


def check() -> None:
    """Refuses what is wrong on the face of it."""
    from research import study
    from rfd_tf.errors import UserError, unknown
    from rfd_tf.interpret import objects

    if FLAGS.study not in study.STUDIES:
        raise unknown("study", FLAGS.study, study.STUDIES)
    for name in FLAGS.networks or [""]:
        if name not in study.NETWORKS:
            raise unknown("network of the study", name, study.NETWORKS)
    if not FLAGS.output_dir:
        raise UserError("give --output_dir, the folder of the runs and tables")
    given = [f"--{name}" for name in ("data_dir", *_TEST_SETS) if FLAGS[name].value]
    if FLAGS.study != "folder" and given:
        raise UserError(f"{given[0]} goes with --study=folder, not with --study={FLAGS.study}")
    if FLAGS.study == "folder" and not FLAGS.data_dir:
        raise UserError("--study=folder needs --data_dir, the pictures to train on")
    if len([name for name in _TEST_SETS if FLAGS[name].value]) > 1:
        raise UserError("give one of --voc_dir, --coco_annotations and --test_dir")
    if bool(FLAGS.coco_annotations) != bool(FLAGS.coco_images):
        raise UserError("--coco_annotations and --coco_images go together")
    if FLAGS.callback:
        raise UserError("the study trains without --callback; leave it out")
    known = [field.name for field in dataclasses.fields(objects.Settings)]
    for name in common.named_values("saliency_option"):
        if name not in known:
            raise unknown("saliency_option", name, known)


def settings(network: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a network's pretraining: its configuration's, and those given.

    Raises:
        UserError: the user gave a setting that has no effect.
    """
    from research import runs
    from rfd_tf import presets
    from rfd_tf.settings import named_values

    values = flags.FlagValues()
    for flag in FLAGS.get_key_flags_for_module(pretrain):
        values[flag.name] = copy.deepcopy(flag)
        values[flag.name].unparse()
    text = presets.find(f"study_{FLAGS.study}_{network}").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("--")]
    values(["", *common.config_lines(lines, given)])
    found = {name: values[name].value for name in values if values[name].present}
    options = named_values(found.pop("method_option", ()), "method_option")
    if FLAGS.shuffle_rotations:
        options["shuffle_rotations"] = True
    options.update(given.get("method_option", {}))
    own = {*given, *given.get("method_option", ())} - config_flags.configured
    if FLAGS.shuffle_rotations:
        own.add("shuffle_rotations")
    named = {**found, **given, "method_option": options}
    return runs.effective(network, named, {*named, *options} - own)


def images(output: Path, given: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns what names the images: settings of those to train on, and those to evaluate on."""
    from research import study

    if FLAGS.study == "coco_cats_dogs":
        return {}, {"voc_dir": str(output / "pictures"), "voc_split": "validation"}
    if FLAGS.study == "lfw":
        split = given.get("eval_split", "train[7939:10586]")
        return {}, {"dataset": "lfw", "eval_split": split}
    if FLAGS.study == "cityscapes":
        return {}, {"dataset": "cityscapes", "eval_split": given.get("eval_split", "test")}
    if FLAGS.test_dir:
        return {}, {"data_dir": FLAGS.test_dir}
    if any(FLAGS[name].value for name in _TEST_SETS):
        names = ("voc_dir", "voc_split", "coco_annotations", "coco_images")
        return {}, {name: FLAGS[name].value for name in names if FLAGS[name].value}
    train, test, boxes = study.held_out(FLAGS.data_dir, output / "pictures")
    return {"data_dir": str(train)}, {"voc_dir" if boxes else "data_dir": str(test)}


def pictures(named: dict[str, str], run: Path, image_size: int):
    """Reads the pictures that `named` describes, as `rfd_tf.interpret.objects.Pictures`."""
    from rfd_tf.data import coco, voc, voc_tfds
    from rfd_tf.data.run_images import RunImages, warn_if_trained_on
    from rfd_tf.interpret import objects

    if FLAGS.study == "coco_cats_dogs":
        place, download = FLAGS.tfds_dir, FLAGS.tfds_download
        voc_tfds.unpack("coco/2017", named["voc_dir"], place, download, ["cat", "dog"])
    if "voc_dir" in named:
        found = voc.voc_folder(named["voc_dir"], named.get("voc_split"))
    elif "coco_annotations" in named:
        found = coco.coco_file(named["coco_annotations"], named["coco_images"])
    else:
        recorded = RunImages.of_run(run)
        replaced = recorded.replaced(**named, tfds_dir=FLAGS.tfds_dir)
        source = replaced.test(FLAGS.tfds_download) or replaced.train(FLAGS.tfds_download)
        warn_if_trained_on(recorded, source, what="pictures")
        return objects.without_objects(source, image_size, FLAGS.max_images)
    return objects.read_pictures(found, image_size, FLAGS.max_images)


def main() -> None:
    given = pretrain.given()
    check()

    from research import study
    from rfd_tf.run import shown

    output = Path(given.pop("output_dir"))
    trained_on, tested = images(output, given)
    given.update(trained_on)
    options = {"neurons": FLAGS.neurons, "seed": FLAGS.seed}
    with shown(verbose=1):
        text = study.run(
            output,
            {name: settings(name, given) for name in FLAGS.networks},
            functools.partial(pictures, tested),
            {**tested, "max_images": FLAGS.max_images},
            options={**options, **common.named_values("saliency_option")},
            sheet_images=FLAGS.sheet_images,
        )
    print(f"\n{text}\nwritten: {output / 'study.md'}, .csv and .json")


if __name__ == "__main__":
    common.run(main)
