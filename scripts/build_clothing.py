"""Packs the embedded clothing photographs into one file.

    python scripts/build_clothing.py --photos=PATH/clothing-dataset-small \\
        --output=rfd_tf/data/files/clothing.npz

reads {train,validation,test}/CLASS/*.jpg, crops the central square of each photograph, scales it
to 48 pixels and writes it as a JPEG; the validation photographs are added to the train split. The
printed sha256 belongs into rfd_tf/data/embedded.py. Other versions of Pillow may write other bytes.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from absl import flags

from rfd_tf.cli import path_flags
from rfd_tf.cli.common import run

path_flags.DEFINE_path(
    "photos", None, "Folder with train/CLASS and test/CLASS, and maybe validation/CLASS."
)
path_flags.DEFINE_path("output", "rfd_tf/data/files/clothing.npz", "File to write.")

FLAGS = flags.FLAGS

SIZE = 48
QUALITY = 88


def encode(path: Path) -> bytes:
    """Returns the central square of a photograph, `SIZE` pixels wide, as a JPEG."""
    from PIL import Image, ImageOps

    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    square = ImageOps.fit(upright, (SIZE, SIZE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    # Full chroma resolution: at this size, halved colours are visible.
    square.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def pack(photos: Path) -> dict:
    """Returns the arrays of the file; `rfd_tf.data.embedded` describes them.

    Raises:
        UserError: `photos` has no train or test photographs.
    """
    import numpy as np

    from rfd_tf.errors import UserError

    # File names are random, so this order mixes the classes.
    train, test = (
        sorted(
            (path for split in splits for path in photos.glob(f"{split}/*/*.jpg")),
            key=lambda path: path.name,
        )
        for splits in (("train", "validation"), ("test",))
    )
    if not train or not test:
        raise UserError(f"--photos='{photos}' has no train/CLASS/*.jpg or no test/CLASS/*.jpg")
    files = [*train, *test]
    names = sorted({path.parent.name for path in files})
    encoded = [encode(path) for path in files]
    return {
        "jpegs": np.frombuffer(b"".join(encoded), np.uint8),
        "lengths": np.array([len(data) for data in encoded], np.int32),
        "labels": np.array([names.index(path.parent.name) for path in files], np.uint8),
        "class_names": np.array(names),
        "num_train": np.array(len(train), np.int32),
    }


def main() -> None:
    import numpy as np

    from rfd_tf.errors import UserError

    if not FLAGS.photos:
        raise UserError("--photos is missing: the folder with train/CLASS and test/CLASS")
    arrays = pack(Path(FLAGS.photos))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = buffer.getvalue()
    Path(FLAGS.output).write_bytes(data)
    count = len(arrays["labels"])
    print(f"{count} photographs, {len(data):,} bytes: {FLAGS.output}")
    print(f"sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    run(main)
