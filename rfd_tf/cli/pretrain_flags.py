"""The flags of rfd-tf pretrain."""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import data_flags, image_flags, path_flags

flags.adopt_module_key_flags(image_flags)

path_flags.DEFINE_config(
    "config",
    None,
    "Configuration whose flags hold unless given here: a flag file, or the name of an installed "
    "one, such as quickstart or cifar10_rfd_nin.",
)

flags.DEFINE_string("method", "rfd", "Pretraining method, a name in rfd_tf.methods.METHODS.")

flags.DEFINE_multi_string(
    "method_option",
    [],
    "Option of the method that has no flag of its own, as name=value; may be repeated.",
)
flags.DEFINE_bool(
    "fidelity",
    False,
    "For --method=rfd: train as the published program does, with its value for every flag that is "
    "not given, its batch normalisation and its initial weights. rfd_tf/training/fidelity.py lists "
    "them.",
)

# Images to evaluate on.
data_flags.DEFINE_data(
    "val_data",
    None,
    "Images to evaluate on: a folder, or the training images' dataset, for its test images. "
    "Stands for --eval_dir.",
)
path_flags.DEFINE_path("eval_dir", None, "Folder of labelled test images; sub-folders are classes.")
flags.DEFINE_string(
    "eval_split",
    None,
    "Split of --dataset to evaluate on. Default: test, validation, or a part of --train_split.",
)

# Network.
flags.DEFINE_string(
    "feature_endpoint", None, "Layer whose output is the feature; the last one if not given."
)

# Rotation Feature Decoupling.
flags.DEFINE_float("lambda_rotation", 1.0, "Weight of the rotation loss.")
flags.DEFINE_float("lambda_distance", 1.0, "Weight of the distance of f2 to its mean.")
flags.DEFINE_float("lambda_instance", 1.0, "Weight of the instance loss.")
flags.DEFINE_float(
    "lambda_contrast", 0.0, "Weight of telling an image's other views in the batch; use --crops=4."
)
flags.DEFINE_bool("decoupled", True, "Split the feature into f1 and f2.")
flags.DEFINE_float("split", 0.5, "Share of the feature's dimensions that f1 gets.")
flags.DEFINE_integer("projection_dimensions", 128, "Length of an embedding in the memory bank.")
flags.DEFINE_integer(
    "projection_hidden", 0, "Units of a hidden layer of the projection; 0 for a linear one."
)
flags.DEFINE_float("temperature", 0.07, "Divides the similarities of the instance loss.")
flags.DEFINE_enum(
    "instance_loss",
    "nce",
    ["nce", "softmax"],
    "nce: sampled negatives. softmax: exact over the bank, for small sets.",
)
flags.DEFINE_enum(
    "instance_views",
    "mean",
    ["mean", "each"],
    "What must recognise an image: the mean of f2 over the rotations, or each rotation's f2.",
)
flags.DEFINE_enum(
    "negatives", "shared", ["shared", "per_image"], "One set of negatives a batch, or one an image."
)
flags.DEFINE_integer(
    "num_negatives",
    None,
    "Negatives of the NCE; if not given, 4096, or half as many as there are images.",
)
flags.DEFINE_enum(
    "normalizer",
    "running",
    ["first_batch", "running", "analytic"],
    "How the NCE's normalising constant is found.",
)
flags.DEFINE_bool("exclude_positive", True, "Never draw an image as its own negative.")
flags.DEFINE_float("bank_momentum", 0.5, "Share of a bank row kept at an update.")
flags.DEFINE_enum("bank_initialization", "unit", ["unit", "uniform"], "Initial bank rows.")
flags.DEFINE_enum("bank_dtype", "float32", ["float32", "bfloat16"], "Storage of the bank.")
flags.DEFINE_bool("fill_bank", True, "Fill the bank by one forward pass before training.")
flags.DEFINE_enum(
    "distance", "mean_squared", ["mean_squared", "euclidean"], "Form of the distance loss."
)

path_flags.DEFINE_path(
    "pu_weights",
    None,
    "File of P(looks upright) per image and rotation, by scripts/estimate_pu.py, or prob.dat.",
)
flags.DEFINE_float("pu_gamma", 2.0, "A rotated view weighs 1 - P(looks upright) ** pu_gamma.")
flags.DEFINE_integer("pu_start_epoch", 0, "0-based epoch from which the PU weights count.")

# Optimization.
flags.DEFINE_integer("epochs", 100, "Passes over the images.")
flags.DEFINE_integer(
    "steps_per_epoch", None, "Steps an epoch; as many as full batches if not given."
)
flags.DEFINE_enum(
    "optimizer",
    "sgd",
    ["sgd", "adam", "rmsprop"],
    "sgd: coupled weight decay, as published. adam (AdamW) and rmsprop: decoupled.",
)
flags.DEFINE_float("learning_rate", 0.05, "Highest learning rate.")
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "step", "exponential", "constant"],
    "Learning-rate schedule.",
)
flags.DEFINE_string(
    "lr_table",
    None,
    "For --schedule=step: END_EPOCH:RATE,... or rfd_imagenet, rotnet_cifar10, rotnet_imagenet.",
)
flags.DEFINE_float(
    "warmup_epochs",
    0.0,
    "Epochs of linear warm-up of the cosine schedule; at most half of --epochs where it would not "
    "be shorter than them.",
)
flags.DEFINE_float(
    "decay_rate", 0.5, "Share of the rate that --schedule=exponential leaves after --decay_epochs."
)
flags.DEFINE_float("decay_epochs", 10.0, "See --decay_rate; the decay is spread over every step.")
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD and RMSprop, first moment of Adam.")
flags.DEFINE_bool("nesterov", True, "Nesterov momentum.")
flags.DEFINE_float("weight_decay", 5e-4, "Weight decay, on every weight.")
flags.DEFINE_list("undecayed", [], "Names of weights without decay, such as gamma,beta,bias.")
flags.DEFINE_integer(
    "gradient_accumulation", 1, "Parts a replica's batch is cut into, to save memory."
)
flags.DEFINE_integer("steps_per_execution", 1, "Steps run by one call into TensorFlow.")
flags.DEFINE_integer("seed", 0, "Of weights, order, augmentation, negatives.")

# Machine.
flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "none", "mirrored", "multiworker"],
    "Devices and machines to train on.",
)
flags.DEFINE_integer("logical_devices", 0, "Split the CPU into so many devices.")
flags.DEFINE_bool("deterministic", False, "Bit-identical repetition, slower.")

# Run folder.
path_flags.DEFINE_path("output_dir", None, "Folder of the run.")
flags.DEFINE_enum("resume", "auto", ["auto", "never"], "auto: continue the run in --output_dir.")
flags.DEFINE_bool("overwrite", False, "Remove the run in --output_dir first.")
flags.DEFINE_integer("checkpoint_every", 1, "Epochs between checkpoints.")
flags.DEFINE_integer(
    "checkpoint_every_steps",
    0,
    "Steps between checkpoints within an epoch, memory bank included; 0 for none. They are written "
    "beside training.",
    lower_bound=0,
)
flags.DEFINE_float(
    "checkpoint_every_minutes",
    30.0,
    "Minutes between checkpoints within an epoch, memory bank included; 0 for none.",
    lower_bound=0.0,
)
flags.DEFINE_integer("keep_checkpoints", 2, "Checkpoints kept.")
flags.DEFINE_bool(
    "collapse_check",
    True,
    "Log the spread of the features of 256 images and the effective rank of the memory bank every "
    "epoch, and warn when either says that all images get the same feature.",
)
flags.DEFINE_integer("monitor_every", 1, "Epochs between kNN measurements; 0 for none.")
flags.DEFINE_integer(
    "monitor_images", 10_000, "Most train images of the kNN monitor; a fifth as many test images."
)
flags.DEFINE_bool("tensorboard", True, "Write TensorBoard event files.")
flags.DEFINE_list("evaluate", [], "Tasks run at the end, such as knn,linear.")
flags.DEFINE_list("export", [], "Formats exported at the end to export/: saved_model, onnx, keras.")
