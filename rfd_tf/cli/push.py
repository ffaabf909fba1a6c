"""Exports a network with a model card and uploads it to the Hugging Face Hub.

    rfd-tf push --weights=runs/x --to=USER/REPO
    rfd-tf push --weights=runs/x --to=USER/REPO --dry_run --output=exported/x

The first needs a token of the Hub: `hf auth login`, or the variable HF_TOKEN. The second writes the
same files to a folder and uploads nothing.
"""

from __future__ import annotations

from absl import flags

from rfd_tf.cli import common, config_flags, path_flags

path_flags.DEFINE_path(
    "weights", None, "A run folder, a .weights.h5 file, or the name of shipped weights."
)
flags.DEFINE_string("to", None, "The repository, USER/REPO; created if it does not exist.")
path_flags.DEFINE_path("output", None, "The folder to write; a temporary one if not given.")
_ARGUMENTS = config_flags.DEFINE_arguments(
    "export.hub",
    "push",
    ("formats", "dry_run", "private", "message", "license_id", "licence", "overwrite"),
    {"formats": "format"},
)

FLAGS = flags.FLAGS


def main() -> None:
    from rfd_tf.errors import UserError

    for name in ("weights", "to"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing; see rfd-tf push --help")

    if FLAGS.dry_run and not FLAGS.output:
        raise UserError("--dry_run writes the files only: give --output, the folder to write")

    from rfd_tf import export

    card = export.push(
        FLAGS.weights, FLAGS.to, output=FLAGS.output, **config_flags.values(_ARGUMENTS)
    )
    size = sum(entry["bytes"] for entry in card["files"].values())
    print(f"{len(card['files'])} files, {size / 1e6:.2f} MB: {', '.join(card['files'])}")
    place = f"uploaded: {card['hub']}" if card["hub"] else "nothing was uploaded (--dry_run)"
    print(f"written: {FLAGS.output}; {place}" if FLAGS.output else place)


if __name__ == "__main__":
    common.run(main)
