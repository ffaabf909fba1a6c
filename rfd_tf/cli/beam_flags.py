"""--runner and --beam_option: work that an Apache Beam runner does."""

from __future__ import annotations

from absl import flags

FLAGS = flags.FLAGS

# (A flag belongs to the command that defines it by these functions.)
flags.disclaim_key_flags()


def DEFINE_runner() -> None:
    """Defines the flags of `rfd_tf.data.beam_runner.Runner`."""
    flags.DEFINE_string(
        "runner",
        None,
        "Do the work by an Apache Beam pipeline on this runner, such as DirectRunner. Its workers "
        "reach the images and the output folder under the same paths.",
    )
    flags.DEFINE_multi_string(
        "beam_option", [], "Option of --runner, as name=value, such as direct_num_workers=4."
    )


def check_runner() -> None:
    """Raises `UserError` for options without a runner."""
    from rfd_tf.errors import UserError

    if FLAGS.beam_option and not FLAGS.runner:
        raise UserError("--beam_option goes with --runner")
