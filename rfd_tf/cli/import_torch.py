"""Converts a checkpoint of the published RFD or RotNet program to Keras weights.

    rfd-tf import-torch --checkpoint=model_net_epoch245 --architecture=alexnet \\
        --output=imported/alexnet.weights.h5

The file loads with `rfd_tf.applications.AlexNet(weights=..., include_top=False)` and exports with
rfd-tf export. Needs PyTorch: pip install 'rfd_tf[torch]'.
"""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import common, path_flags

path_flags.DEFINE_path(
    "checkpoint", None, "The PyTorch file: a dict with `epoch` and `network`, or a state dict."
)
flags.DEFINE_string("architecture", None, "alexnet or network_in_network.")
path_flags.DEFINE_path("output", None, "The file to write, ending in .weights.h5.")
flags.DEFINE_string(
    "method",
    None,
    "Training method, rfd or rotation; read from the checkpoint if not given.",
)
flags.DEFINE_bool("overwrite", False, "Replace an existing output.")

FLAGS = flags.FLAGS


def main() -> None:
    from rfd_tf.errors import UserError

    for name in ("checkpoint", "architecture", "output"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing; see rfd-tf import-torch --help")

    from rfd_tf.applications import torch_checkpoint

    record = torch_checkpoint.import_checkpoint(
        FLAGS.checkpoint, FLAGS.architecture, FLAGS.output, FLAGS.method, FLAGS.overwrite
    )
    options = ", ".join(f"{name}={value}" for name, value in record["arguments"].items())
    print(f"imported {record['backbone']} ({options}), trained by {record['method']}")
    feature = record["feature"]
    split = f", f1 and f2 of {feature['split']}" if "split" in feature else ""
    print(f"feature: endpoint {feature['endpoint']}{split}; {record['image_size']} pixels")
    print(f"weights: {FLAGS.output}")


if __name__ == "__main__":
    common.run(main)
