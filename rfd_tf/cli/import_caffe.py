"""Converts a Caffe AlexNet (.caffemodel) to Keras weights.

    rfd-tf import-caffe --caffemodel=FILE --output=imported/alexnet.weights.h5
    rfd-tf import-caffe --caffemodel=FILE --color_order=rgb \\
        --pixel_mean=123.675,116.28,103.53 --pixel_std=58.395,57.12,57.375 --output=rgb.weights.h5

The second command normalises images as PyTorch's ImageNet networks do. Caffe is not needed. The
file loads with `rfd_tf.applications.AlexNet(weights=..., include_top=False)`, and
rfd-tf evaluate and rfd-tf export take it.
"""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import common, path_flags

path_flags.DEFINE_path("caffemodel", None, "The .caffemodel file.")
path_flags.DEFINE_path("output", None, "The file to write, ending in .weights.h5.")
flags.DEFINE_string(
    "method",
    None,
    "Training method: rfd, rotation, bigan, deepcluster, jigsaw or supervised; recorded as unknown "
    "if not given.",
)
flags.DEFINE_enum(
    "color_order", "bgr", ["bgr", "rgb"], "Channel order of the network's training images."
)
flags.DEFINE_list(
    "pixel_mean",
    ["122.67891434", "116.66876762", "104.00698793"],
    "Red, green, blue, 0-255: subtracted from the pixels.",
)
flags.DEFINE_list(
    "pixel_std", ["1", "1", "1"], "Red, green, blue: divides the pixels after the subtraction."
)
flags.DEFINE_bool("overwrite", False, "Replace an existing output.")

FLAGS = flags.FLAGS


def numbers(flag: str) -> list[float]:
    """A flag's list as numbers."""
    from rfd_tf.errors import UserError

    try:
        return [float(text) for text in FLAGS[flag].value]
    except ValueError:
        given = ",".join(FLAGS[flag].value)
        raise UserError(f"--{flag} needs three numbers such as 123,117,104; got {given}") from None


def main() -> None:
    from rfd_tf.errors import UserError

    for name in ("caffemodel", "output"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing; see rfd-tf import-caffe --help")

    from rfd_tf.applications import caffe_import

    record = caffe_import.import_caffe(
        FLAGS.caffemodel,
        FLAGS.output,
        FLAGS.method,
        FLAGS.color_order,
        numbers("pixel_mean"),
        numbers("pixel_std"),
        FLAGS.overwrite,
    )
    options = ", ".join(f"{name}={value}" for name, value in record["arguments"].items())
    print(f"imported {record['backbone']} ({options})")
    print(f"feature: endpoint {record['feature']['endpoint']}; {record['image_size']} pixels")
    print(f"weights: {FLAGS.output}")


if __name__ == "__main__":
    common.run(main)
