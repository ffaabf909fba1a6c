"""Runs the saliency study on one dataset: trains its three networks, and judges where they look.

    python scripts/study.py --study=folder --data_dir=PATH --output_dir=runs/study
    python scripts/study.py --study=coco_cats_dogs --tfds_download --output_dir=runs/study

Each network is a run of scripts/pretrain.py by configs/study_STUDY_NETWORK.cfg, judged by
scripts/saliency.py: OUTPUT/NETWORK/ and OUTPUT/NETWORK/saliency/. study.md, .csv and .json hold the
rotation accuracies, and Q for both layers. The same command again takes up what is missing.

A folder in VOC's layout (images/, annotations/) has boxes, any other folder of images has none;
a fifth is held out, unless --voc_dir, --coco_annotations or --test_dir name the pictures to judge.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import common, path_flags

FLAGS = flags.FLAGS
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONFIGS = SCRIPTS.parent / "configs"

flags.DEFINE_string("study", "folder", "folder, lfw, coco_cats_dogs or cityscapes.")
flags.DEFINE_list(
    "networks", ["six_layer", "mobilenet_v2", "efficientnet_b0"], "Networks to train and judge."
)
path_flags.DEFINE_path("output_dir", None, "Folder of the runs and tables.")
path_flags.DEFINE_path("data_dir", None, "Of --study=folder: the pictures to train on.")
path_flags.DEFINE_path(
    "voc_dir", None, "Of --study=folder: pictures with boxes to judge, as VOC's."
)
flags.DEFINE_string("voc_split", None, "A list of --voc_dir.")
path_flags.DEFINE_path(
    "coco_annotations", None, "Of --study=folder: COCO's JSON of boxes to judge."
)
path_flags.DEFINE_path("coco_images", None, "The folder of its pictures.")
path_flags.DEFINE_path("test_dir", None, "Of --study=folder: images without boxes to judge.")
path_flags.DEFINE_path("tfds_dir", None, "Where TFDS datasets lie.")
flags.DEFINE_bool("tfds_download", False, "Let TFDS download and prepare the dataset.")
flags.DEFINE_integer("epochs", None, "Epochs of training; the configuration's if not given.")
flags.DEFINE_integer("batch_size", None, "Images in a batch; the configuration's if not given.")
flags.DEFINE_integer(
    "neurons", 64, "Neurons of the embedding, evenly spread; 0 for all, which takes long."
)
flags.DEFINE_integer("max_images", None, "Judge at most so many pictures.")
flags.DEFINE_bool(
    "shuffle_rotations",
    False,
    "Shuffle the four rotations of an image over the batches of an epoch, as the report does, "
    "instead of training on all four in one batch.",
)
flags.DEFINE_integer("seed", 0, "Of training, the random networks and random pixels.")
flags.DEFINE_multi_string("pretrain_flag", [], "Further flag for scripts/pretrain.py, repeatable.")
flags.DEFINE_multi_string("saliency_flag", [], "Further flag for scripts/saliency.py, repeatable.")

_JUDGED = ("voc_dir", "coco_annotations", "test_dir")


def run(script: str, arguments: list[str]) -> None:
    """Runs a script; its failure ends this one with its own message."""
    print("$", "python", f"scripts/{script}", *arguments, flush=True)
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def check() -> None:
    """Refuses what is wrong on the face of it."""
    from research import study
    from rfd_tf.errors import UserError, unknown

    if FLAGS.study not in study.STUDIES:
        raise unknown("study", FLAGS.study, study.STUDIES)
    for name in FLAGS.networks or [""]:
        if name not in study.NETWORKS:
            raise unknown("network of the study", name, study.NETWORKS)
    if not FLAGS.output_dir:
        raise UserError("give --output_dir, the folder of the runs and tables")
    given = [f"--{name}" for name in ("data_dir", *_JUDGED) if FLAGS[name].value]
    if FLAGS.study != "folder" and given:
        raise UserError(f"{given[0]} goes with --study=folder, not with --study={FLAGS.study}")
    if FLAGS.study == "folder" and not FLAGS.data_dir:
        raise UserError("--study=folder needs --data_dir, the pictures to train on")
    if len([name for name in _JUDGED if FLAGS[name].value]) > 1:
        raise UserError("give one of --voc_dir, --coco_annotations and --test_dir")


def tfds_flags() -> list[str]:
    """Where TFDS finds its datasets, for both scripts."""
    found = [f"--tfds_dir={FLAGS.tfds_dir}"] if FLAGS.tfds_dir else []
    return [*found, "--tfds_download"] if FLAGS.tfds_download else found


def images(output: Path) -> tuple[list[str], list[str]]:
    """Flags that name the images: for scripts/pretrain.py, and for scripts/saliency.py."""
    from research import study

    if FLAGS.study == "coco_cats_dogs":
        pictures = f"--voc_dir={output / 'pictures'}"
        judged = ["--voc_tfds=coco/2017", "--classes=cat,dog", pictures, "--voc_split=validation"]
        return tfds_flags(), [*judged, *tfds_flags()]
    if FLAGS.study == "lfw":
        judged = ["--dataset=lfw", "--eval_split=train[7939:10586]"]
        return tfds_flags(), [*judged, *tfds_flags()]
    if FLAGS.study == "cityscapes":
        return tfds_flags(), ["--dataset=cityscapes", "--eval_split=test", *tfds_flags()]
    if FLAGS.test_dir:
        return [f"--data_dir={FLAGS.data_dir}"], [f"--data_dir={FLAGS.test_dir}"]
    if any(FLAGS[name].value for name in _JUDGED):
        names = ("voc_dir", "voc_split", "coco_annotations", "coco_images")
        judged = [f"--{name}={FLAGS[name].value}" for name in names if FLAGS[name].value]
        return [f"--data_dir={FLAGS.data_dir}"], judged
    train, test, boxes = study.held_out(FLAGS.data_dir, output / "pictures")
    return [f"--data_dir={train}"], [f"--{'voc_dir' if boxes else 'data_dir'}={test}"]


def main() -> None:
    check()
    from research import study
    from rfd_tf.evaluation.files import folder

    output = folder(Path(FLAGS.output_dir))
    trained_on, judged_on = images(output)
    for name in FLAGS.networks:
        directory = output / name
        if not (directory / "saliency" / "saliency.json").exists():
            given = [
                f"--{flag}={FLAGS[flag].value}"
                for flag in ("epochs", "batch_size", "seed")
                if FLAGS[flag].value is not None
            ]
            if FLAGS.shuffle_rotations:
                given.append("--method_option=shuffle_rotations=true")
            run(
                "pretrain.py",
                [
                    f"--flagfile={CONFIGS / f'study_{FLAGS.study}_{name}.cfg'}",
                    *trained_on,
                    *given,
                    *FLAGS.pretrain_flag,
                    f"--output_dir={directory}",
                ],
            )
            thresholds = ",".join(
                f"{layer}:{value:g}" for layer, value in study.THRESHOLDS[name].items()
            )
            given = [f"--max_images={FLAGS.max_images}"] if FLAGS.max_images is not None else []
            run(
                "saliency.py",
                [
                    f"--weights={directory}",
                    *judged_on,
                    f"--threshold={thresholds}",
                    f"--neurons={FLAGS.neurons}",
                    f"--seed={FLAGS.seed}",
                    *given,
                    *FLAGS.saliency_flag,
                ],
            )
    print(f"\n{study.write(output, study.gather(output, FLAGS.networks))}")
    print(f"written: {output / 'study.md'}, .csv and .json")


if __name__ == "__main__":
    common.run(main)
