"""Settings of a pretraining run and their defaults; methods have their own options."""

from __future__ import annotations

import copy
import dataclasses
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rfd_tf.errors import UserError, unknown
from rfd_tf.rules import (
    A_LIST,
    ABSENT_OR_SPLITS,
    ELSEWHERE,
    GIVEN,
    ON,
    WITH_SPLITS,
    AllBut,
    Rule,
    is_off,
    moot,
    refusal,
)
from rfd_tf.settings import named_values, settings_of

if TYPE_CHECKING:
    import keras


_EMBEDDED = AllBut(("clothing", "digits"))
_SOME_IMAGES = 10_000
#: When settings of images and of the run have an effect. `PretrainConfig.rules` adds the rules of
#: augmentation, optimisation and methods.
_RULES = (
    Rule(("tfds_dir", "tfds_download", "tfds_classes"), {"dataset": GIVEN}),
    Rule(("train_split",), {"dataset": GIVEN, "data_dir": WITH_SPLITS}),
    Rule(("eval_split",), {"dataset": GIVEN, "data_dir": WITH_SPLITS, "eval_dir": WITH_SPLITS}),
    Rule(("data_root",), {"data_dir": A_LIST, "eval_dir": A_LIST}),
    Rule(("tfds_dir", "tfds_download", "tfds_classes"), {"dataset": _EMBEDDED},
         "which is embedded"),
    Rule(("max_skipped", "max_megapixels"), {"dataset": _EMBEDDED, "eval_dir": GIVEN},
         "which has no files"),
    Rule(("high_bit_depth", "color_profile"),
         {"data_dir": GIVEN, "eval_dir": GIVEN, "source_images": GIVEN}),
    Rule(("merge_copies",), {"data_dir": GIVEN}),
    Rule(("cache_dir", "cache_gb"), dict.fromkeys(("data_dir", "eval_dir"), ELSEWHERE)),
    Rule(("eval_split",), {"eval_dir": ABSENT_OR_SPLITS}),
    Rule(tuple(f"source_{name}" for name in (
        "crops", "size", "seed", "region", "scale", "area_min", "aspect", "rotation", "shear",
        "vertical_flip", "horizontal_flip", "color_jitter", "hue", "color_probability", "noise")),
        {"source_images": GIVEN}),
    Rule(("source_area_min", "source_aspect"), {"source_scale": ON}),
    Rule(("source_color_probability",), {"source_color_jitter": ON, "source_hue": ON}),
    Rule(("source_color_jitter", "source_hue"), {"source_color_probability": ON}),
    Rule(("monitor_images",), {"monitor_every": ON}),
    Rule(("logical_devices",), {"strategy": ("auto", "mirrored", "multiworker")},
         "which trains on one device"),
    Rule(("small_epochs",), {"method": ("instance", "rfd", "rotation")},
         "which trains on images of one size"),
    Rule(("lambda_contrast",), {"crops": (4,)},
         "whose views are rotated copies of one another"),
)  # fmt: skip

#: Settings for which `PretrainConfig.choose` chooses a value if none is given.
CHOSEN = (
    *("batch_size", "epochs", "optimizer", "learning_rate", "schedule", "warmup_epochs"),
    *("momentum", "weight_decay", "crop", "crop_area_min", "horizontal_flip", "color_jitter"),
    *("hue", "grayscale", "crops", "small_epochs"),
)
_BOUNDS = {
    "batch_size": (1, None),
    "gradient_accumulation": (1, None),
    "seed": (0, 2**32 - 1),
    "crop_area_min": (0.001, 1.0),
    "color_jitter": (0.0, None),
    "hue": (0.0, 0.5),
    "grayscale": (0.0, 1.0),
    "monitor_every": (0, None),
    "monitor_images": (1, None),
    "logical_devices": (0, None),
    "max_skipped": (0.0, 1.0),
    "max_megapixels": (0.001, None),
    "cache_gb": (0.0, None),
    "health_every": (0, None),
    "batch_norm_momentum": (0.0, 1.0),
    "small_epochs": (0.0, 1.0),
    "checkpoint_every_steps": (0, None),
    "checkpoint_every_minutes": (0.0, None),
}


@dataclasses.dataclass(kw_only=True)
class PretrainConfig:
    """The settings of a pretraining run, for Python and the command line.

    Create it with `PretrainConfig.create`, which checks names and types. Options of the method,
    such as `temperature`, are arguments of its constructor and are kept in `method_option`.
    Settings of optimisation and augmentation that are None are chosen by `choose`.

    Args:
        dataset: embedded dataset (clothing, digits) or TFDS image dataset by name.
        data_dir: training images: a folder, flat or nested; several with commas between them; or
            a list of files (.csv, .tsv, .txt, .jsonl), see rfd_tf.data.image_list; or shards (.tar,
            .tfrecord, .parquet), see rfd_tf.data.shards. Lists and shards may have addresses such
            as s3://bucket/train-{000..099}.tar. hf:FOLDER or hf:NAME is a dataset of Hugging Face.
        data_root: folder that the paths in a list of images are relative to; the list's own if not
            given.
        train_split: split of `dataset` to train on, such as train or train[:60%]; of a list with a
            column split a word in it, or all.
        tfds_classes: only the images of a TFDS `dataset` that show an object of one of these
            classes, such as cat,dog of coco/2017.
        tfds_dir: folder of the TFDS datasets.
        tfds_download: let TFDS download and prepare the dataset.
        max_skipped: largest share of undecodable images; more stop the run.
        max_megapixels: larger images are skipped before decoding.
        high_bit_depth: grey images of more than 8 bits: stretch maps each image's 0.1 and 99.9
            percentiles to 0 and 255, truncate keeps the upper 8 of 16 bits.
        color_profile: srgb converts image files with a colour profile (ICC) to sRGB.
        merge_copies: train on exact copies of an image file as one image; otherwise they are one
            another's negatives. Up to 200,000 images are compared.
        cache_dir: folder in which files from addresses (https://, s3://, gs://) are kept; rfd_tf in
            the user's folder of caches if not given.
        cache_gb: largest total size of the files in `cache_dir` in 10^9 bytes.
        image_size: side of the training images in pixels; the backbone's default if not given.
        crop: how images are cropped. pad: zero border, random crop. resized: random resized crop.
            window: a random square with 7/8 of the image's side. stretch: the whole image, resized
            to a square. none: centre crop.
        crop_area_min: smallest share of an image's area in a resized crop.
        padding: border of crop=pad in pixels; image_size / 8 if not given.
        horizontal_flip: mirror half of the images.
        color_jitter: strength of brightness, contrast and saturation changes.
        hue: largest hue rotation, as a fraction of the colour circle up to 0.5.
        grayscale: share of images converted to grey.
        crops: crops per image and step. rfd, rotation: 1 for all rotations, or one for each. pirl:
            2 gives the transformed version a crop of its own.
        mean: channel means of pixels / 255; ImageNet's if not given.
        std: channel standard deviations of pixels / 255; ImageNet's if not given.
        backbone: name of the network: six_layer, network_in_network, alexnet, resnet18, or one of
            keras.applications such as mobilenet_v2; or the path of a .keras file with a functional
            Keras model, or hf://USER/REPO[@REVISION] with one on the Hugging Face Hub. A .keras
            file, a model from the Hub, and one given from Python start from their own weights.
        backbone_option: option of the backbone's constructor, such as width=0.5; on the command
            line name=value, repeatable.
        include_preprocessing: the Keras model given as `backbone` takes pixels from 0 to 255 and
            normalises them itself; `mean` and `std` are then refused.
        token_pooling: how the tokens returned by a Keras model given as `backbone` are pooled: mean
            (default), or class for the first token.
        batch_norm_momentum: momentum of batch normalisation's moving statistics; the network's own
            if not given. Some Keras networks have 0.999, which takes thousands of steps to settle.
        batch_size: images per batch, before rotations and other views.
        mixed_precision: numeric precision of the backbone. auto: bfloat16 where it is faster.
        jit_compile: compile training steps by XLA. auto: on a single GPU without `deterministic`;
            XLA slows convolutional networks down on CPUs.
        method: pretraining method: rfd, rotation, instance, pirl, jigsaw, aet, deepcluster, bigan,
            rfd_jigsaw or distillation.
        method_option: option of the method's constructor; on the command line name=value,
            repeatable.
        preset: what is chosen for settings that are not given. auto: small_images up to 64 pixels,
            photographs above. paper: the defaults of the classes that take them, a method's
            own being those of its paper. rfd_tf/recipes.py has the values.
        fidelity: for method=rfd: train as the published program does, with its value for every
            flag that is not given, its batch normalisation and its initial weights.
            rfd_tf/training/fidelity.py lists them.
        eval_dir: labelled test images, in the forms of `data_dir`; sub-folders are classes.
        eval_split: split of `dataset`, or of a list, to evaluate on. Default: test, validation, or
            a part of `train_split`.
        teacher: for method=distillation: the frozen network to learn from: shipped weights such as
            network_in_network.rfd_cifar10, a run folder, a .weights.h5 or .keras file, or
            imagenet:mobilenet_v2 (any network of keras.applications, downloaded by Keras); in
            Python also a Keras model.
        init_weights: weights to start from: imagenet (those of keras.applications, which Keras
            downloads), a run folder, a .weights.h5 or .keras file, shipped weights such as
            rfd_cifar10, or hf://USER/REPO[@REVISION]. If they carry a record, it sets `backbone`,
            its options, `mean` and `std` that are not given.
        freeze_until: name of a layer: freeze the layers up to and including it, with the statistics
            of their batch normalisation. Needs weights to start from.
        backbone_learning_rate_scale: learning rate of the backbone relative to the heads'; below 1
            to preserve starting weights.
        feature_endpoint: layer whose output is the feature; the last one if not given.
        fill_bank: fill the memory bank with one forward pass before training.
        pu_weights: file of P(looks upright) per image and rotation, from estimate-pu, or prob.dat.
        epochs: passes over the images.
        steps_per_epoch: steps per epoch; the number of full batches if not given.
        optimizer: sgd: coupled weight decay, as published. adam (AdamW) and rmsprop: decoupled.
        learning_rate: peak learning rate.
        schedule: learning-rate schedule.
        lr_table: for schedule=step: END_EPOCH:RATE,... or rfd_imagenet, rotnet_cifar10,
            rotnet_imagenet.
        warmup_epochs: epochs of linear warm-up of the cosine schedule; half of `epochs` if it is
            not shorter than them.
        decay_rate: factor by which schedule=exponential lowers the rate every `decay_epochs`.
        decay_epochs: see `decay_rate`; the decay is applied at every step.
        momentum: momentum of SGD and RMSprop, beta_1 of Adam.
        nesterov: use Nesterov momentum.
        weight_decay: weight decay of all weights that are not `undecayed`.
        undecayed: names of weights without weight decay, such as gamma,beta,bias.
        gradient_accumulation: number of parts that a replica's batch is cut into, to save memory.
        steps_per_execution: steps per call into TensorFlow.
        small_epochs: share of the epochs, from the first on, that train on images of three quarters
            of `image_size`, which takes little more than half as long; 0 for none.
        seed: seed of weights, order, augmentation and negatives.
        strategy: devices and machines to train on.
        logical_devices: split the CPU into this many devices.
        deterministic: train reproducibly, bit for bit; slower.
        output_dir: run folder.
        resume: auto: resume the run in `output_dir`, if there is one. never: refuse to resume it.
        overwrite: delete the run in `output_dir` first.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between checkpoints within an epoch, including the memory
            bank; 0 for none. They are written in the background.
        checkpoint_every_minutes: minutes between checkpoints within an epoch, including the memory
            bank; 0 for none.
        keep_checkpoints: number of checkpoints kept.
        health_every: epochs between measurements of the features without labels: spread, effective
            rank, alignment, uniformity, rotation leaking into f2, neighbours kept. Warns of
            collapsed features, draws nearest neighbours and ends with a verdict. 0 for none.
        monitor_every: epochs between kNN measurements; 0 for none.
        monitor_images: largest number of train images of the kNN monitor; a fifth as many test
            images.
        tensorboard: write TensorBoard event files.
        evaluate: tasks to run at the end, such as knn,linear.
        export: formats to export to export/ at the end: saved_model, onnx, litert, keras.
        source_images: one or a few photographs, whose crops are the training images. Files, or
            sklearn:china.jpg and sklearn:flower.jpg, which come with scikit-learn.
        source_crops: number of crops of `source_images`, which is one epoch (published: 1281167).
        source_size: side of the crops in pixels (published: 256); if not given, `image_size`, and
            from 96 on 256 for each 224 of it.
        source_seed: seed of the crops, independent of `seed`.
        source_region: side of the random square region that a crop is cut from, relative to the
            photograph's shorter side; 0 for the whole photograph.
        source_scale: cut windows of random area from the region; if false, windows of the crops'
            size.
        source_area_min: smallest share of the region's area in a window.
        source_aspect: largest width / height of a window; 1 for squares.
        source_rotation: largest rotation of crops in degrees.
        source_shear: largest shear of crops in degrees.
        source_vertical_flip: flip half of the crops vertically.
        source_horizontal_flip: mirror half of the crops.
        source_color_jitter: strength of brightness, contrast and saturation changes of crops.
        source_hue: largest hue rotation of crops, as a fraction up to 0.5.
        source_color_probability: share of the crops with colour changes.
        source_noise: standard deviation of Gaussian noise on crops, relative to the range 0 to 255.

    >>> config = PretrainConfig.create({"epochs": 3, "temperature": 0.1})
    >>> config.epochs, config.crop, config.method_option, sorted(config.given)
    (3, None, {'temperature': 0.1}, ['epochs', 'temperature'])
    >>> PretrainConfig.create({"epoch": 3})
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: unknown setting 'epoch' (did you mean 'epochs'?)
    """

    dataset: str | None = None
    data_dir: Path | None = None
    data_root: Path | None = None
    train_split: str = "train"
    tfds_classes: list[str] = dataclasses.field(default_factory=list)
    tfds_dir: Path | None = None
    tfds_download: bool = False
    max_skipped: float = 0.01
    max_megapixels: float = 300.0
    high_bit_depth: Literal["stretch", "truncate"] = "stretch"
    color_profile: Literal["ignore", "srgb"] = "ignore"
    merge_copies: bool = True
    cache_dir: Path | None = None
    cache_gb: float = 50.0
    image_size: int | None = None
    crop: Literal["pad", "resized", "window", "stretch", "none"] | None = None
    crop_area_min: float | None = None
    padding: int | None = None
    horizontal_flip: bool | None = None
    color_jitter: float | None = None
    hue: float | None = None
    grayscale: float | None = None
    crops: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    backbone: str = "network_in_network"
    backbone_option: dict[str, Any] = dataclasses.field(default_factory=dict)
    include_preprocessing: bool = False
    token_pooling: Literal["mean", "class"] | None = None
    batch_norm_momentum: float | None = None
    batch_size: int | None = None
    mixed_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    jit_compile: Literal["auto", "true", "false"] = "auto"
    method: str = "rfd"
    method_option: dict[str, Any] = dataclasses.field(default_factory=dict)
    preset: Literal["auto", "small_images", "photographs", "paper"] = "auto"
    fidelity: bool = False
    eval_dir: Path | None = None
    eval_split: str | None = None
    teacher: Any = None
    init_weights: str | None = None
    freeze_until: str | None = None
    backbone_learning_rate_scale: float = 1.0
    feature_endpoint: str | None = None
    fill_bank: bool = True
    pu_weights: Path | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    optimizer: Literal["sgd", "adam", "rmsprop"] | None = None
    learning_rate: float | None = None
    schedule: Literal["cosine", "step", "exponential", "constant"] | None = None
    lr_table: str | None = None
    warmup_epochs: float | None = None
    decay_rate: float = 0.5
    decay_epochs: float = 10.0
    momentum: float | None = None
    nesterov: bool = True
    weight_decay: float | None = None
    undecayed: list[str] = dataclasses.field(default_factory=list)
    gradient_accumulation: int = 1
    steps_per_execution: int = 1
    small_epochs: float | None = None
    seed: int = 0
    strategy: Literal["auto", "none", "mirrored", "multiworker"] = "auto"
    logical_devices: int = 0
    deterministic: bool = False
    output_dir: Path | None = None
    resume: Literal["auto", "never"] = "auto"
    overwrite: bool = False
    checkpoint_every: int = 1
    checkpoint_every_steps: int = 0
    checkpoint_every_minutes: float = 30.0
    keep_checkpoints: int = 2
    health_every: int = 1
    monitor_every: int = 1
    monitor_images: int = 10000
    tensorboard: bool = True
    evaluate: list[str] = dataclasses.field(default_factory=list)
    export: list[str] = dataclasses.field(default_factory=list)
    source_images: list[str] | None = None
    source_crops: int = 50000
    source_size: int | None = None
    source_seed: int = 0
    source_region: float = 0.5
    source_scale: bool = True
    source_area_min: float = 0.002
    source_aspect: float = 1.3333333333333333
    source_rotation: float = 30.0
    source_shear: float = 30.0
    source_vertical_flip: bool = False
    source_horizontal_flip: bool = False
    source_color_jitter: float = 0.4
    source_hue: float = 0.1
    source_color_probability: float = 0.5
    source_noise: float = 0.0

    chosen: ClassVar[tuple[str, ...]] = CHOSEN
    bounds: ClassVar[Mapping[str, tuple[float | None, float | None]]] = _BOUNDS

    def __post_init__(self):
        #: Names of the settings that were given; the others have their defaults.
        self.given: frozenset[str] = frozenset()
        #: Those of them that come from a configuration, not from the user.
        self.configured: frozenset[str] = frozenset()
        #: The adapted Keras model of a `backbone` without a name; see `take`.
        self.model: keras.Model | None = None
        #: Where that model is from, if it is from the Hub.
        self.model_origin: str | None = None

    @classmethod
    def create(
        cls, settings: Mapping[str, Any], configured: Collection[str] = ()
    ) -> PretrainConfig:
        """Creates the configuration from settings and options of the method, by name.

        Args:
            settings: name -> value; missing settings have their defaults.
            configured: names of those that come from a configuration or a run, not from the user.

        Raises:
            UserError: an unknown name (the message suggests the nearest one), or a value of another
                type, out of bounds or not among the choices.
        """
        from rfd_tf import methods

        known, options = settings_of(cls), methods.all_arguments()
        values: dict[str, Any] = {}
        given = dict(settings.get("method_option") or {})
        # (The teacher is a setting, and an argument of the method.)
        both = {name: given.pop(name) for name in known.keys() & options & given.keys()}
        for name, value in both.items():
            if settings.get(name) not in (None, value):
                raise UserError(f"{name} is given twice, by itself and in method_option")
        if both:
            settings = {**settings, **both, "method_option": given}
        for name, value in settings.items():
            if name in known:
                values[name] = known[name].checked(value)
            elif name in options:
                given[name] = value
            else:
                raise unknown("setting", name, [*known, *options])
        if given:
            values["method_option"] = given
        options = dict(values.get("backbone_option") or {})
        if "weights" in options:  # the earlier name of init_weights
            if values.get("init_weights") is not None:
                raise UserError("backbone_option weights is init_weights: give one of them")
            values["init_weights"] = options.pop("weights")
            values["backbone_option"] = options
        config = cls(**values)
        config.given = frozenset(settings) | frozenset(given)
        config.configured = config.given & frozenset(configured)
        return config

    @classmethod
    def of_flags(cls, flags: Mapping[str, Any]) -> PretrainConfig:
        """Creates the configuration that a run recorded in run.json.

        Args:
            flags: the entry "flags" of run.json; None marks settings without effect.
        """
        from rfd_tf.data.image_files import recorded

        settings = {}
        for name, value in recorded(flags).items():
            if name in ("backbone_option", "method_option"):
                value = named_values(value, name)
            if value is not None and value != []:
                settings[name] = value
        known = {*settings_of(cls), *_options_of(settings.get("method", cls.method))}
        kept = {name: settings[name] for name in settings if name in known}
        return cls.create(kept, configured={*kept, *kept.get("method_option", ())})

    def check(self) -> None:
        """Checks the settings that can be checked before images are read.

        Raises:
            UserError: a wrong setting; the message names it, its value and the options.
        """
        from rfd_tf import export, methods
        from rfd_tf.applications import custom, registry

        if not self.output_dir:
            raise UserError("give --output_dir, the folder of the run")
        if self.method not in methods.METHODS:
            raise unknown("method", self.method, methods.METHODS)
        self._follow_init_weights()
        registry.check_name(self.backbone)
        if custom.is_file(self.backbone):
            if self.model is None:
                self.take(custom.read(self.backbone))
        else:
            for name in ("include_preprocessing", "token_pooling"):
                if getattr(self, name):
                    raise UserError(
                        f"--{name} goes with a Keras model as backbone, not with {self.backbone}"
                    )
        starts = self.init_weights is not None or self.model is not None
        if self.freeze_until is not None and not starts:
            raise UserError(
                f"--freeze_until={self.freeze_until} would keep random layers: give --init_weights"
            )
        if not self.backbone_learning_rate_scale > 0:
            raise UserError(
                f"--backbone_learning_rate_scale {self.backbone_learning_rate_scale:g} must be "
                "above 0; --freeze_until keeps layers as they are"
            )
        for kind in self.export:
            if kind not in export.FORMATS:
                raise unknown("export format", kind, export.FORMATS)
        if "teacher" in _all_arguments_of(self.method):
            methods.teacher.check(self.teacher)
        self.backbone_arguments()
        self.normalization()

    def drop_moot(self) -> list[str]:
        """Drops settings of a configuration that have no effect next to the user's settings.

        These are options of other methods, and settings without effect by `rules`. A value that
        switches something off, such as 0 or False, is never refused.

        Returns:
            The dropped settings, each with the reason.

        Raises:
            UserError: a setting of the user has no effect next to the others.
        """
        from rfd_tf import methods

        arguments = _all_arguments_of(self.method)
        files = {"pu_weights": self.pu_weights, "teacher": self.teacher}
        accepted, strange, dropped = _options_of(self.method), [], []
        for name in (*self.method_option, *(name for name, value in files.items() if value)):
            if name in accepted or (name in files and name in arguments):
                continue
            if name not in methods.all_arguments():
                raise unknown(f"option of method {self.method}", name, accepted)
            if name not in self.configured:
                raise UserError(
                    f"--{name} has no meaning for method {self.method}; leave it out, or give "
                    f"another method"
                )
            strange.append(name)
        for name in strange:
            self._drop(name)
        if strange:
            dropped.append(f"{', '.join(strange)}, of other methods than {self.method}")
        # Dropping one may leave another without effect.
        while found := list(self._moot()):
            for name, rule, values, default in found:
                if name in self.given and name not in self.configured:
                    raise refusal(name, rule, values)
                if values[name] != default and self.given & {name, *rule.beside}:
                    dropped.append(f"{name}={values[name]!r}, {rule.reason(values)}")
                self._drop(name)
        return dropped

    def _moot(self) -> Iterator[tuple[str, Rule, dict[str, Any], Any]]:
        """Yields the settings without effect: name, rule, all values, and the default."""
        arguments = _all_arguments_of(self.method)
        own = {**arguments, **vars(self), **self.method_option}
        # No rule depends on a setting that is chosen by the number of images.
        trial = copy.copy(self)
        trial.method_option = dict(self.method_option)
        trial.choose(_SOME_IMAGES)
        values = {**arguments, **vars(trial), **trial.method_option}
        defaults = {**arguments, **{n: each.default for n, each in settings_of(type(self)).items()}}
        for name, rule in moot(self.rules(), values):
            if not is_off(own.get(name)) and (name in self.given or own[name] != defaults[name]):
                yield name, rule, values, defaults[name]

    def _drop(self, name: str) -> None:
        """Resets a setting to its default, as if it had not been given."""
        if name in self.method_option:
            del self.method_option[name]
        else:
            setattr(self, name, settings_of(type(self))[name].default)
        self.given -= {name}

    def rules(self) -> tuple[Rule, ...]:
        """Returns the rules of when settings and options of the method have an effect."""
        from rfd_tf import methods
        from rfd_tf.training import pretraining

        return (
            *pretraining.Augmentation.rules,
            *pretraining.Optimization.rules,
            *methods.METHODS[self.method].rules,
            *_RULES,
        )

    def take(self, model: keras.Model) -> None:
        """Uses a Keras model as the backbone.

        Args:
            model: functional; see `rfd_tf.applications.custom.adapted`.

        Raises:
            UserError: an unsuitable model, or an option for backbones by name only.
        """
        from rfd_tf.applications import custom

        for name in ("backbone_option", "fidelity"):
            if getattr(self, name):
                raise UserError(f"--{name} goes with a backbone by name, not with a Keras model")
        self.model = custom.adapted(model, self.token_pooling)
        rescales = custom.rescaling_layer(self.model)
        if rescales and not self.include_preprocessing and self.mean is None and self.std is None:
            warnings.warn(
                f"backbone '{model.name}' gets normalised pixels, but its layer '{rescales}' "
                "rescales its input: if it takes pixels from 0 to 255, give "
                "include_preprocessing; if not, give mean and std",
                stacklevel=2,
            )

    def _follow_init_weights(self) -> None:
        """Takes backbone and options from the starting weights, if they are not given."""
        from rfd_tf.applications import custom, hub, registry, start, weights

        if hub.is_place(self.backbone):
            if self.init_weights is not None:
                raise UserError(
                    f"--backbone '{self.backbone}' has weights; leave out --init_weights"
                )
            self.init_weights, self.backbone = self.backbone, type(self).backbone
            self.given -= {"backbone"}
        file = self._from_hub() if hub.is_place(self.init_weights) else None
        place = self.init_weights
        if place is None or "backbone" in self.given or self.model is not None:
            return
        if file is not None and custom.is_file(file):
            self.model_origin, self.backbone, self.init_weights = place, str(file), None
            return
        if place == start.IMAGENET:
            raise UserError("--init_weights=imagenet needs --backbone, such as mobilenet_v2")
        if isinstance(place, str) and custom.is_file(place):
            self.backbone, self.init_weights = place, None
            return
        try:
            path = weights.find_weights(place)
            record = weights.read_record(path)
        except UserError:
            # A run resumes from its checkpoint, even if its starting weights were deleted.
            path = Path(self.output_dir) / weights.RUN_FILE
            if not path.is_file():
                raise
            record = weights.read_record(path)
        if record is not None:
            self.backbone = registry.recorded_name(record, path)
            self.backbone_option = {**record["arguments"], **self.backbone_option}

    def _from_hub(self) -> Path | None:
        """Downloads starting weights from the Hub and pins them to a commit, that of a run which
        is resumed; returns their file, or None if a run is resumed and they are not there."""
        from rfd_tf.applications import hub, weights

        run = Path(self.output_dir) / weights.RUN_FILE
        resumes = run.is_file() and self.resume == "auto" and not self.overwrite
        if resumes:
            started = (weights.read_record(run) or {}).get("started_from") or {}
            if hub.same(self.init_weights, started.get("weights")):
                self.init_weights = started["weights"]
        try:
            file = hub.fetch(self.init_weights, keras_model=True)
        except UserError:
            if not resumes:
                raise
            return None
        self.init_weights = hub.pinned(self.init_weights, file)
        return file

    def untrained_backbone(self) -> keras.Model:
        """Builds the backbone with new weights, under the current dtype policy."""
        from rfd_tf import applications
        from rfd_tf.applications import custom

        if self.model is not None:
            return custom.build(self.model, self.side())
        return applications.build(self.backbone, self.side(), **self.backbone_arguments()[0])

    def follow_the_published_program(self) -> list[str]:
        """Sets every setting that the user did not give to the published RFD program's value.

        Returns:
            The user's settings that differ from it, as `name=value`.

        Raises:
            UserError: the method is not rfd.
        """
        from rfd_tf.training import fidelity

        fidelity.check_method(self.method)
        values = fidelity.flag_values()
        own = []
        for name, value in values.items():
            current = getattr(self, name, self.method_option.get(name))
            if name not in self.given:
                if hasattr(self, name):
                    setattr(self, name, value)
                else:
                    self.method_option[name] = value
            elif current != value:
                own.append(f"{name}={current}")
        return own

    def choose(self, num_images: int) -> dict[str, Any]:
        """Sets every setting that is still None to the value that `rfd_tf.recipes` recommends.

        Args:
            num_images: number of training images.

        Returns:
            The recommended values, including options of the method: name -> value. Settings without
            a recommendation get the default of the class that takes them.

        >>> config = PretrainConfig.create({"backbone": "six_layer", "temperature": 0.1})
        >>> config.choose(50_000)["batch_size"], config.epochs, config.method_option["temperature"]
        (64, 15, 0.1)
        """
        from rfd_tf import recipes
        from rfd_tf.training import pretraining

        base = {
            **dataclasses.asdict(pretraining.Optimization()),
            **dataclasses.asdict(pretraining.Augmentation()),
        }
        base["crop_area_min"] = base["crop_area"][0]
        known = {name: getattr(self, name) for name in base if hasattr(self, name)}
        found = recipes.recommended(
            self.method,
            image_size=self.side(),
            num_images=num_images,
            preset="paper" if self.fidelity else self.preset,
            cut_photographs=bool(self.source_images),
            given={
                **{name: value for name, value in known.items() if value is not None},
                **self.method_option,
            },
        )
        chosen = {name: found.get(name, base[name]) for name in CHOSEN if known[name] is None}
        for name, value in chosen.items():
            setattr(self, name, value)
        accepted = set(_options_of(self.method)) - set(self.method_option)
        options = {name: value for name, value in found.items() if name in accepted}
        arguments = _all_arguments_of(self.method)
        while moot_options := [
            name
            for name, _ in moot(
                self.rules(), {**arguments, **vars(self), **self.method_option, **options}
            )
            if name in options
        ]:
            for name in moot_options:
                del options[name]
        self.method_option.update(options)
        return {**{name: chosen[name] for name in chosen if name in found}, **options}

    def most_batch_norm_momentum(self, num_images: int) -> float | None:
        """Returns the upper bound of the network's batch-norm momenta, or None for no bound."""
        from rfd_tf import recipes

        if self.fidelity or self.preset == "paper" or self.batch_norm_momentum is not None:
            return None
        steps = self.steps_per_epoch or max(1, num_images // self.batch_size)
        return recipes.batch_norm_momentum(steps)

    # -- derived from the settings ----------------------------------------------------------

    def backbone_arguments(self) -> tuple[dict[str, Any], str | None]:
        """Returns the backbone's own options, and its starting weights or None."""
        from rfd_tf.applications import registry

        own, _ = registry.own_arguments(self.backbone, dict(self.backbone_option))
        weights = self.init_weights
        if self.fidelity and weights is None:
            from rfd_tf.training import fidelity

            own = {**fidelity.backbone_options(self.backbone), **own}
        return own, weights

    def side(self) -> int:
        """Returns the side of the training images in pixels; the backbone's if not given."""
        from rfd_tf import applications

        if self.model is not None:
            return self.image_size or applications.custom.side(self.model)
        return self.image_size or applications.default_image_size(self.backbone)

    def normalization(self, own: Mapping[str, Any] | None = None) -> dict[str, tuple[float, ...]]:
        """Returns the arguments `mean` and `std` of a method.

        Args:
            own: `mean` and `std` of the starting weights, if known; ImageNet's if None.

        Raises:
            UserError: not three numbers, a standard deviation not above 0, or `mean` or `std` for a
                model that normalises pixels itself.
        """
        from rfd_tf import applications

        if self.include_preprocessing:
            for name in ("mean", "std"):
                if getattr(self, name) is not None:
                    raise UserError(f"--{name} has no meaning beside --include_preprocessing")
            # (pixels / 255 - 0) / (1 / 255): the pixels as they are.
            return {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
        defaults = own or {"mean": applications.IMAGENET_MEAN, "std": applications.IMAGENET_STD}
        return {name: self._channels(name, value) for name, value in defaults.items()}

    def _channels(self, name: str, default) -> tuple[float, ...]:
        from rfd_tf.applications.preprocessing import per_channel

        given = getattr(self, name)
        return tuple(default) if given is None else per_channel(f"--{name}", given)

    def augmentation(self):
        """Returns the `rfd_tf.training.pretraining.Augmentation` of the settings."""
        from rfd_tf.training import pretraining

        names = {field.name for field in dataclasses.fields(pretraining.Augmentation)}
        return pretraining.Augmentation(
            crop_area=(self.crop_area_min, 1.0),
            **{name: getattr(self, name) for name in names - {"crop_area"}},
        )

    def optimization(self):
        """Returns the `rfd_tf.training.pretraining.Optimization` of the settings."""
        from rfd_tf.training import pretraining

        names = {field.name for field in dataclasses.fields(pretraining.Optimization)}
        return pretraining.Optimization(**{name: getattr(self, name) for name in names})

    def images(self):
        """Returns the `rfd_tf.data.run_images.RunImages` that the settings name."""
        from rfd_tf.data.run_images import RunImages, photo_options

        names = ("dataset", "data_dir", "data_root", "eval_dir", "train_split", "eval_split")
        names += ("tfds_dir", "max_skipped", "max_megapixels", "cache_dir", "cache_gb")
        names += ("high_bit_depth", "color_profile")
        given = {name: getattr(self, name) for name in names}
        if self.source_images:
            options = {name: getattr(self, name) for name in PHOTO_SETTINGS}
            given.update(
                photos=self.source_images, photo_options=photo_options(options, self.side())
            )
        return RunImages(**given, tfds_classes=tuple(self.tfds_classes))

    def training_images(self, leave_out: Sequence[str | os.PathLike] = ()):
        """Returns the `rfd_tf.data.Source` to train on, each image file once by default.

        Args:
            leave_out: folders that hold no images of the set, see `rfd_tf.data.image_folder`.
        """
        from rfd_tf.data import copies

        source = self.images().train(self.tfds_download, leave_out)
        return copies.merged(source) if self.merge_copies else source

    def method_arguments(self, source, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the arguments of the method besides the backbone.

        Args:
            source: the images.
            own: see `normalization`.
        """
        accepted = _options_of(self.method)
        arguments = {
            **self.normalization(own),
            "feature_endpoint": self.feature_endpoint,
            "gradient_accumulation": self.gradient_accumulation,
            "seed": self.seed,
            **self.method_option,
        }
        if "num_images" in _all_arguments_of(self.method):
            arguments["num_images"] = source.num_images
        if "teacher" in accepted:
            arguments["teacher"] = self.teacher
        if self.pu_weights and "pu_gamma" in accepted:
            from rfd_tf.data import pu_weights

            arguments["pu_weights"] = pu_weights.read(self.pu_weights, source)
        return arguments


def _all_arguments_of(method: str) -> dict[str, Any]:
    from rfd_tf import methods

    return methods.arguments(method) if method in methods.METHODS else {}


def _options_of(method: str) -> list[str]:
    """The options of a method that the user gives by name."""
    return [
        name
        for name in _all_arguments_of(method)
        if name not in ("num_images", "pu_weights", "seed")
    ]


#: The settings of crops of photographs.
PHOTO_SETTINGS = tuple(
    field.name for field in dataclasses.fields(PretrainConfig) if field.name.startswith("source_")
)
#: Settings of images, augmentation and network, shared by a run and its PU weights.
IMAGE_SETTINGS = (
    "dataset", "data_dir", "data_root", "train_split", "tfds_classes", "tfds_dir",
    "tfds_download", "max_skipped", "max_megapixels", "high_bit_depth", "color_profile",
    "merge_copies", "cache_dir", "cache_gb", "image_size", "crop", "crop_area_min", "padding",
    "horizontal_flip", "color_jitter", "hue", "grayscale", "crops", "mean", "std", "backbone",
    "backbone_option", "batch_norm_momentum", "batch_size", "mixed_precision", "preset",
    *PHOTO_SETTINGS,
)  # fmt: skip
