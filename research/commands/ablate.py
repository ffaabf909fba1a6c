"""Trains and probes the paper's ablations of RFD on one dataset, and writes the table.

    python scripts/ablate.py --config=digits --output_dir=runs/ablations
    python scripts/ablate.py --config=cifar10_rfd_six_layer --data=PATH/train \\
        --val_data=PATH/test --seeds=0,1,2 --task=knn,linear --output_dir=runs/ablations

Each variant and seed is a pretraining in its own folder, evaluated by the tasks. The same command
again resumes what was interrupted and trains what is missing. ablations.md, .csv and .json hold the
table (Feng et al., CVPR 2019, table 4); over several seeds, means and sample deviations.

The flags of pretrain hold for all variants. Where a variant needs PU weights and no file is given,
they are estimated with the same images, augmentation and network.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from rfd_tf.cli import common, pretrain

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(pretrain)

flags.DEFINE_list(
    "variants",
    ["rotation", "f1", "instance", "f2", "coupled", "decoupled", "full_conv5", "full_fc6", "full"],
    "Which to train. rotation: RotNet. f1: rotation on f1 alone. instance: upright views. f2: "
    "losses of f2 alone. coupled: one feature for all losses. decoupled: without PU weights. full: "
    "with PU weights; full_conv5, full_fc6: split at the third or second last endpoint, AlexNet's "
    "conv5 and fc6. Without --pu_start_epoch, PU weights count in the last seventh of the epochs.",
)
flags.DEFINE_list(
    "split_endpoints", [], "Further layers at which the full variant is split, such as conv4."
)
flags.DEFINE_integer("pu_epochs", None, "Epochs of each PU network. Default: those of estimate_pu.")
flags.DEFINE_integer("pu_folds", None, "Parts of the images for PU. Default: as for estimate_pu.")
flags.DEFINE_list("seeds", [], "Seeds to train every variant with; --seed alone if not given.")
flags.DEFINE_list("task", ["linear"], "Tasks that evaluate every variant.")
flags.DEFINE_multi_string(
    "evaluate_option",
    [],
    "Option of the evaluation as name=value, such as max_train_images=25000, or of a task, such as "
    "linear.epochs=6; may be repeated.",
)


def main() -> None:
    from rfd_tf.errors import UserError

    if not FLAGS.output_dir:
        raise UserError("give --output_dir, the folder of the runs and the table")
    for seed in FLAGS.seeds:
        if not seed.isdigit():
            raise UserError(f"seeds are whole numbers of at least 0, not '{seed}'")
    settings = pretrain.given()

    from research import ablation
    from rfd_tf.run import shown

    output = Path(settings.pop("output_dir"))
    with shown(verbose=1):
        table = ablation.ablate(
            settings,
            output,
            FLAGS.variants,
            split_endpoints=FLAGS.split_endpoints,
            seeds=[int(seed) for seed in FLAGS.seeds],
            tasks=FLAGS.task,
            options=common.named_values("evaluate_option"),
            pu_epochs=FLAGS.pu_epochs,
            pu_folds=FLAGS.pu_folds,
            callbacks=pretrain.callbacks,
        )
    print(f"\n{table}\nwritten: {output / 'ablations.md'}, .csv and .json")


if __name__ == "__main__":
    common.run(main)
