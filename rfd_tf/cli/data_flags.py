"""--data and --val_data: one flag each for folders and lists of images and for datasets."""

from __future__ import annotations

from collections.abc import Collection

from absl import flags

FLAGS = flags.FLAGS

# (A flag belongs to the command that defines it by these functions.)
flags.disclaim_key_flags()

_IMAGES = ("data", "data_dir", "dataset", "source_images")
_TEST_IMAGES = ("val_data", "eval_dir", "eval_split")
# (Export has its own name for it.)
_FILES = ("data_dir", "calibration_dir")


#: What --data takes.
FORMS = (
    "a folder, several (a,b), a list of files (.csv, .tsv, .txt, .jsonl), shards (.tar, .tfrecord, "
    ".parquet: a file, a folder or a pattern), the address of a list or of shards (https://, "
    "s3://, gs://), a dataset of Hugging Face (hf:FOLDER, hf:NAME), an embedded "
    "dataset (clothing, digits) or a TFDS dataset by name"
)


def DEFINE_data(name: str, default: str | None, help: str) -> None:
    """Defines --data or --val_data.

    A command with --data has --data_dir and --dataset; one with --val_data has --eval_dir and
    --eval_split.
    """
    flags.DEFINE_string(name, default, help)


def resolve() -> None:
    """Sets the flags that --data and --val_data stand for.

    Raises:
        UserError: these flags are given too, or the command does not take such images.
    """
    from rfd_tf.data.given import place_of
    from rfd_tf.errors import UserError

    if "data" in FLAGS and (data := FLAGS["data"].value):
        ((name, value),) = place_of(data).items()
        if name == "data_dir":
            name = next(flag for flag in _FILES if flag in FLAGS)
        taken = {*_IMAGES[1:], *_FILES}
        _give("data", name, value, [one for one in sorted(taken) if one in FLAGS])
    if "val_data" in FLAGS and (data := FLAGS["val_data"].value):
        ((name, value),) = place_of(data).items()
        if name == "data_dir":
            _give("val_data", "eval_dir", value, ["eval_dir", "eval_split"])
        elif value == FLAGS["dataset"].value:
            FLAGS["val_data"].value = None  # its test images are the default
        else:
            raise UserError(
                f"--val_data='{data}' is neither a folder nor the dataset of the training images; "
                "give a folder with the same classes"
            )


def _give(flag: str, name: str, value: str, taken: list[str]) -> None:
    from rfd_tf.errors import UserError

    for other in taken:
        if FLAGS[other].value:
            raise UserError(
                f"--{flag}='{value}' and --{other}='{FLAGS[other].value}' both name the images; "
                "give one of them"
            )
    # (Parsed, so that a path's ~ is expanded.)
    FLAGS[name].value = FLAGS[name].parser.parse(value)
    FLAGS[name].present += 1
    FLAGS[flag].value = None


def replaced(name: str, given: Collection[str]) -> bool:
    """Whether the given flags replace a configuration's flag of another name.

    Args:
        name: the configuration's flag.
        given: names of the given flags.
    """
    if any(one in given for one in _IMAGES):
        if name in (*_IMAGES, *_TEST_IMAGES, "data_root", "train_split", "tfds_classes"):
            return True
        if name.startswith("source_") and "source_images" not in given:
            return True
    return name in _TEST_IMAGES and any(one in given for one in _TEST_IMAGES)
