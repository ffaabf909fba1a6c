"""PU weights as one call: what the command `estimate-pu` runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfd_tf.config import IMAGE_SETTINGS, PretrainConfig
from rfd_tf.errors import UserError, unknown
from rfd_tf.run import Images, Run, images_of, shown

if TYPE_CHECKING:
    import keras
    import numpy as np

    from rfd_tf.data.base import Source
    from rfd_tf.training.pu_estimation import Estimate, Estimation

_log = logging.getLogger("rfd_tf")
#: Settings of the training of each fold's network, with the defaults of this training.
TRAINING = {
    "epochs": 30,
    **{
        name: getattr(PretrainConfig, name)
        for name in ("steps_per_epoch", "learning_rate", "warmup_epochs", "weight_decay")
    },
}
# What a run's record says of its images, in whose place others may be given.
_IMAGES = ("dataset", "data_dir", "data_root", "train_split", "tfds_classes")


def estimate_pu_weights(
    network: str | os.PathLike | Run | keras.Model | None = None,
    data: Images | Source | np.ndarray | None = None,
    output: str | os.PathLike | None = None,
    *,
    classifier: str = "softmax",
    num_folds: int = 5,
    positive_prior: float = 0.1,
    overwrite: bool = False,
    verbose: int = 1,
    **settings: Any,
) -> Estimate:
    """Estimates how probable it is that each rotated view of an image looks upright.

    A rotation network is trained on all folds of the images but one and predicts the rotations of
    the one left out, for each fold in turn.

    Args:
        network: whose architecture the folds' networks have: a run or its folder (with its images
            and augmentation), a `.weights.h5` file, a shipped name, or a `keras.Model`. They start
            from random weights: a network that has seen the images of a fold cannot be asked about
            them. None where `settings` name a `backbone`, or for its default.
        data: images, in the forms of `rfd_tf.pretrain`; those of the run if None.
        output: `.npz` or `.dat` file to write, for `pu_weights` of `rfd_tf.pretrain`. Finished
            folds are kept beside it until all are done: the same call again takes them up.
        classifier, num_folds, positive_prior: see `rfd_tf.training.pu_estimation.Estimation`.
        overwrite: whether `output` may be replaced.
        verbose: 0 is silent.
        **settings: of images, augmentation, network and batch as of
            `rfd_tf.config.PretrainConfig`, and `epochs` (30), `steps_per_epoch`, `learning_rate`,
            `warmup_epochs`, `weight_decay`, `seed`.

    Returns:
        The estimate; `upright_probability` is float32 `[N, 4]`.

    Raises:
        UserError: an unknown setting, images or a network that cannot be used, an `output` that
            exists, before long work starts.

    >>> import numpy as np
    >>> pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    >>> found = estimate_pu_weights("six_layer.rfd_cifar10", pixels, num_folds=2, epochs=1,
    ...                             batch_size=4, verbose=0)
    >>> found.upright_probability.shape
    (8, 4)
    """
    known = (*IMAGE_SETTINGS, *TRAINING, "seed")
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known)
    named, source = images_of(data, "data")
    recorded, model = _recorded(network)
    if data is not None:
        recorded = {
            name: value
            for name, value in recorded.items()
            if name not in _IMAGES and not name.startswith("source_")
        }
    given = {**recorded, **named, **settings}
    configured = recorded.keys() - named.keys() - settings.keys()
    config = PretrainConfig.create({**TRAINING, **given}, configured)
    with shown(verbose):
        if output is not None:
            check_output(output, overwrite)
        source = source or load(config)
        how = estimation(
            config,
            source.num_images,
            backbone=model,
            classifier=classifier,
            num_folds=num_folds,
            positive_prior=positive_prior,
        )
        return run(source, how, output, overwrite, progress=bool(verbose))


def estimation(
    config: PretrainConfig,
    num_images: int,
    *,
    backbone: keras.Model | None = None,
    **options: Any,
) -> Estimation:
    """Returns how to estimate, from a configuration of images, network and training.

    Args:
        config: its optimisation, augmentation and network count; what is open is chosen as for a
            pretraining.
        num_images: how many images there are.
        backbone: a model in place of the network by name.
        **options: of `rfd_tf.training.pu_estimation.Estimation`.

    Raises:
        UserError: a setting without effect, or a wrong value.
    """
    from rfd_tf.training import pretraining, pu_estimation
    from rfd_tf.training import strategy as strategies

    if dropped := config.drop_moot():
        _log.info(f"ignored, no effect here: {'; '.join(dropped)}")
    config.choose(num_images)
    options_of_network = dict(config.backbone_option)
    if config.init_weights is not None:
        options_of_network["weights"] = config.init_weights
    kept = {name: getattr(config, name) for name in (*TRAINING, "batch_size")}
    return pu_estimation.Estimation(
        backbone=config.backbone if backbone is None else backbone,
        backbone_options=options_of_network,
        image_size=config.image_size,
        **config.normalization(),
        batch_norm_momentum=config.batch_norm_momentum,
        optimization=pretraining.Optimization(**kept),
        augmentation=config.augmentation(),
        policy=strategies.precision_policy(config.mixed_precision),
        **{"seed": config.seed, **options},
    )


def check_output(output: str | os.PathLike, overwrite: bool) -> None:
    """Refuses a file that cannot be written, before any work."""
    from rfd_tf.data import pu_weights

    if Path(output).suffix.lower() not in pu_weights.EXTENSIONS:
        raise UserError(f"--output '{output}' must end in .npz or .dat")
    pu_weights.check_output(output, overwrite)


def load(config: PretrainConfig) -> Source:
    """Loads the images that a configuration names, and logs what was found."""
    source = config.training_images()
    _log.info(source.summary())
    if source.skipped:
        _log.info(f"{len(source.skipped)} images cannot be decoded and are skipped")
    return source


def run(
    source: Source,
    how: Estimation,
    output: str | os.PathLike | None,
    overwrite: bool = False,
    progress: bool = False,
) -> Estimate:
    """Trains what is missing, and writes the weights where there is an output."""
    from rfd_tf.training import pu_estimation

    if output is None:
        found = pu_estimation.estimate(source, how, progress=progress, report=_log.info)
        pu_estimation.report_on(found, source, _log.info)
        return found
    return pu_estimation.estimate_to(
        output, source, how, overwrite=overwrite, progress=progress, report=_log.info
    )


def _recorded(network: Any) -> tuple[dict[str, Any], keras.Model | None]:
    """Settings of a run or of a weights file, and the model where one is given."""
    from rfd_tf.applications import read_record

    if network is None:
        return {}, None
    if not isinstance(network, str | os.PathLike):
        import keras

        if not isinstance(network, keras.Model):
            raise UserError(
                f"network of type {type(network).__name__}: give a run, a .weights.h5 file, a "
                "shipped name or a keras.Model"
            )
        return {"image_size": int(network.input_shape[1])}, network
    if os.path.isfile(os.path.join(network, "run.json")):
        config = Run.open(network).config
        kept = [name for name in IMAGE_SETTINGS if name in config.given]
        return {name: getattr(config, name) for name in kept}, None
    record: Mapping[str, Any] | None = read_record(network)
    if record is None:
        raise UserError(f"'{network}' carries no record of its network; give backbone instead")
    found = {name: record[name] for name in ("backbone", "image_size", "mean", "std")
             if record.get(name)}  # fmt: skip
    return {**found, "backbone_option": dict(record["arguments"])}, None
