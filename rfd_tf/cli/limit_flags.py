"""The flags that say which images of a folder are too damaged or too large, for finished runs."""

from __future__ import annotations

from typing import Any

from absl import flags

# (A command adopts the flags that it has a use for.)
flags.disclaim_key_flags()

FLAGS = flags.FLAGS


def DEFINE_max_skipped() -> None:
    """Defines --max_skipped, by default that of the run."""
    flags.DEFINE_float(
        "max_skipped",
        None,
        "Largest fraction of undecodable images. Default: the run's, 0.01.",
        0,
        1,
    )


def DEFINE_max_megapixels() -> None:
    """Defines --max_megapixels, by default that of the run."""
    flags.DEFINE_float(
        "max_megapixels",
        None,
        "Larger images are left out, before they are decoded. Default: the run's, 300.",
        0.001,
    )


def given() -> dict[str, Any]:
    """What `rfd_tf.data.run_images.RunImages.replaced` takes of these flags."""
    return {name: FLAGS[name].value for name in ("max_skipped", "max_megapixels") if name in FLAGS}
