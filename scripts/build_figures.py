"""Draws the pictures of the documentation: neighbours before and after pretraining, and views.

    python scripts/pretrain.py --flagfile=configs/quickstart.cfg --output_dir=runs/quickstart
    python scripts/pretrain.py --method=bigan --data=clothing --backbone=six_layer \\
        --image_size=32 --epochs=12 --method_option=generator_width=32 \\
        --method_option=discriminator_width=32 --output_dir=runs/bigan
    python scripts/build_figures.py --run=runs/quickstart --bigan_run=runs/bigan

writes docs/figures/neighbours.webp, which the README shows, and docs/figures/views_METHOD.webp,
which the pages of docs/methods show. Without --bigan_run, that method's picture is left as it is.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from rfd_tf.cli import path_flags
from rfd_tf.cli.common import run

path_flags.DEFINE_path("run", None, "Run folder of the quickstart.")
path_flags.DEFINE_path("bigan_run", None, "Run folder of a BiGAN on dataset=clothing.")
path_flags.DEFINE_path("output_dir", "docs/figures", "Folder of the pictures.")
flags.DEFINE_integer("query", 338, "Test photograph whose neighbours are drawn, 0 to 371.")

FLAGS = flags.FLAGS

INK, GREY, SAME, OTHER = "#1f2933", "#6b7780", "#0b8a5b", "#c9d1d6"
#: Training photographs that the pictures of views show.
SHOWN = (13, 19)
#: Pixels of the photographs.
SIZE = 48
FEATURES = {"f1": "predicts the rotation", "f2": "ignores the rotation", "f": "both halves"}


# -- drawing ------------------------------------------------------------------------------------


def font(size: int, bold: bool = False):
    """Returns Matplotlib's own font."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def enlarged(image, side: int):
    """Returns a picture of uint8 pixels `[n, n, 3]`, `side` pixels wide."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.asarray(image, "uint8")).resize(
        (side, side), Image.Resampling.BICUBIC
    )


def sheet(rows, columns=(), lines=(), side: int = 128):
    """Draws rows of images with titles above the columns and to the left of the rows.

    Args:
        rows: lists of uint8 pixels `[n, n, 3]`; None leaves a place empty.
        columns, lines: titles of the columns and the rows, or none.
        side: of an image, pixels.
    """
    from PIL import Image, ImageDraw

    gap, title = 10, font(19)
    left = max([0, *(round(title.getlength(line)) + 20 for line in lines)])
    top = 34 if columns else 0
    width = left + max(map(len, rows)) * (side + gap) - gap
    picture = Image.new("RGB", (width, top + len(rows) * (side + gap) - gap), "white")
    draw = ImageDraw.Draw(picture)
    for place, text in enumerate(columns):
        middle = left + place * (side + gap) + side // 2
        draw.text((middle, 16), text, INK, title, anchor="mm")
    for number, row in enumerate(rows):
        y = top + number * (side + gap)
        if lines:
            draw.text((0, y + side // 2), lines[number], INK, title, anchor="lm")
        for place, image in enumerate(row):
            if image is not None:
                picture.paste(enlarged(image, side), (left + place * (side + gap), y))
    return picture


def cut_rows(picture, size: int):
    """Cuts a picture, uint8 `[rows * size, columns * size, 3]`, into rows of images."""
    return [
        [picture[y : y + size, x : x + size] for x in range(0, picture.shape[1], size)]
        for y in range(0, picture.shape[0], size)
    ]


# -- neighbours before and after ----------------------------------------------------------------


def embedded(subject, images) -> dict:
    """Returns the features f, f1 and f2 of pixels, rows of length 1."""
    import keras
    import numpy as np

    from rfd_tf import applications

    network = subject.network()
    model = keras.Model(network.input, subject.feature_tensors(network))
    pixels = applications.preprocess_input(
        images.astype("float32"), mean=subject.mean, std=subject.std
    )
    found = model.predict(pixels, batch_size=256, verbose=0)
    return {
        name: found[name] / np.linalg.norm(found[name], axis=1, keepdims=True) for name in FEATURES
    }


def neighbours(run_folder: Path, query: int):
    """Draws a photograph, its rotations, and its neighbours before and after pretraining.

    The neighbours are sought among the training photographs, each rotated by a random multiple of
    90 degrees.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    from rfd_tf.data import clothing
    from rfd_tf.evaluation.subject import Subject

    subject = Subject.pretrained(run_folder)
    train, test = (resized(clothing(split), subject.image_size) for split in ("train", "test"))
    shown, queries = clothing("train"), clothing("test")
    quarters = np.random.default_rng(0).integers(0, 4, len(train))
    pool = np.stack([np.rot90(image, k) for image, k in zip(train, quarters, strict=True)])

    panels = []
    for each in (subject.random_twin(0), subject):
        gallery, asked = embedded(each, pool), embedded(each, test)
        panel = {}
        for name in FEATURES:
            nearest = np.argsort(-asked[name] @ gallery[name].T, axis=1)[:, :10]
            panel[name] = (
                nearest[query],
                100 * np.mean(shown.labels[nearest] == queries.labels[:, None]),
                100 * np.mean(quarters[nearest] == 0),
            )
        panels.append(panel)

    count, side, gap, frame = 6, 88, 8, 4
    left, top, line, between = 290, 84, side + 46, 44
    panel_width = count * (side + gap) - gap
    width, height = left + 2 * panel_width + between, top + len(FEATURES) * line - 6
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)

    draw.text((0, 6), "Query, rotated", INK, font(22, bold=True))
    photograph = queries.images[query]
    for k in range(4):
        x, y = k % 2 * 118, 52 + k // 2 * 136
        picture.paste(enlarged(np.rot90(photograph, k), 110), (x, y))
        draw.text((x + 55, y + 121), f"{90 * k}°", GREY, font(15), anchor="mm")
    name = queries.class_names[queries.labels[query]]
    for y, color, text in ((336, SAME, f"{name}, as the query"), (364, OTHER, "another class")):
        draw.rectangle((0, y, 18, y + 18), outline=color, width=frame)
        draw.text((28, y), text, GREY, font(16))
    searched = "Searched: 3,409 photographs,\neach rotated at random."
    counted = "Percent: of the ten nearest\nto 372 test photographs."
    draw.text((0, 394), f"{searched}\n{counted}", GREY, font(14))

    titles = ("Random initialisation: nearest photographs", "After 5 epochs without labels")
    for number, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        x0 = left + number * (panel_width + between)
        draw.text((x0, 6), title, INK, font(22, bold=True))
        for row, (name, purpose) in enumerate(FEATURES.items()):
            nearest, same, upright = panel[name]
            y = top + row * line
            draw.text((x0, y - 29), f"{name}, {purpose}", INK, font(18, bold=True))
            note = f"same class {same:.0f} %, same rotation {upright:.0f} %"
            draw.text((x0 + panel_width, y - 27), note, GREY, font(15), anchor="ra")
            for place, index in enumerate(nearest[:count]):
                x = x0 + place * (side + gap)
                color = SAME if shown.labels[index] == queries.labels[query] else OTHER
                draw.rectangle((x, y, x + side - 1, y + side - 1), fill=color)
                inner = np.rot90(shown.images[index], quarters[index])
                picture.paste(enlarged(inner, side - 2 * frame), (x + frame, y + frame))
    return picture


def resized(source, size: int):
    """Returns all images of a source as evaluations see them, uint8 `[N, size, size, 3]`."""
    import numpy as np

    return np.concatenate([batch["image"].numpy() for batch in source.eval_dataset(size, 256)])


# -- the views of the methods -------------------------------------------------------------------


def views(run_folder: Path, bigan_folder: Path | None) -> dict:
    """Draws what each method trains on, by the method's name."""
    import numpy as np
    from PIL import Image

    from rfd_tf import applications, methods
    from rfd_tf.data import ArraySource, clothing
    from rfd_tf.data.views import rotate, rotate_degrees, rotate_each

    train = clothing("train")
    pair = ArraySource(train.images[list(SHOWN)], name="shown")
    augmented = {"crop": "resized", "crop_area": (0.5, 1.0), "color_jitter": 0.4, "grayscale": 0.2}

    def crops(count: int, steps: int = 1, **changes):
        """Augmented crops of the two photographs, `[2, count, ...]` or `[2, ...]`, by step."""
        batches = pair.train_dataset(SIZE, 2, seed=3, crops=count, **(changes or augmented)).take(
            steps
        )
        return [np.asarray(batch["image"])[np.argsort(batch["index"].numpy())] for batch in batches]

    def build(name: str, **options):
        return methods.METHODS[name](applications.build("six_layer", SIZE), **options)

    def tiles(jigsaw, images):
        """The shuffled tiles of images, as one picture each."""
        cut = np.asarray(jigsaw(images)).round().clip(0, 255).astype("uint8")
        step = SIZE // jigsaw.grid
        canvas = np.full((len(images), SIZE, SIZE, 3), 255, "uint8")
        for place in range(jigsaw.tiles):
            y, x = (step * k + (step - jigsaw.tile_size) // 2 for k in divmod(place, jigsaw.grid))
            canvas[:, y : y + jigsaw.tile_size, x : x + jigsaw.tile_size] = cut[:, place]
        return canvas

    degrees = ("0°", "90°", "180°", "270°")
    pictures = {}
    (four,) = crops(4)
    rotated = np.asarray(rotate(four))
    pictures["rfd"] = sheet(list(rotated), degrees)

    (single,) = crops(1, crop="pad")
    pictures["rotation"] = sheet(
        list(np.asarray(rotate_degrees(single, (0, 90, 180, 270)))), degrees
    )

    epochs = crops(1, steps=4)
    pictures["instance"] = sheet(
        [[batch[k] for batch in epochs] for k in range(2)], [f"epoch {k}" for k in (1, 2, 3, 4)]
    )

    # (Tiles are changed in colour by themselves.)
    image, other = np.moveaxis(crops(2, crop="resized", crop_area=(0.6, 1.0))[0], 1, 0)
    shuffler = build("pirl", num_images=100).jigsaw
    turned = np.asarray(rotate_each(other, np.array([1, 3])))
    pictures["pirl"] = sheet(
        [
            [image[k], each[0][k], each[1][k], each[2][k]]
            for each in [(tiles(shuffler, other), turned, tiles(shuffler, turned))]
            for k in range(2)
        ],
        ("image", "jigsaw", "rotation", "both"),
    )

    images = train.images[[*SHOWN, 56, 24, 115, 9]]
    rows = cut_rows(build("jigsaw").figures(images)["jigsaw_puzzles"], SIZE)
    pictures["jigsaw"] = sheet(rows, lines=("image", "puzzle"))

    warped = {
        family: cut_rows(
            build("aet", transformation=family).figures(images)["original_transformed_estimated"],
            SIZE,
        )
        for family in ("projective", "affine")
    }
    pictures["aet"] = sheet(
        [warped["projective"][0], warped["projective"][1], warped["affine"][1]],
        lines=("image", "projective", "affine"),
    )

    both = build("rfd_jigsaw", num_images=100)
    pictures["rfd_jigsaw"] = sheet(
        [[*rotated[k], tiles(both.jigsaw, four[:, 0])[k]] for k in range(2)], (*degrees, "tiles")
    )

    pictures["distillation"] = sheet(
        [[four[k, 0], None, *rotated[k]] for k in range(2)],
        ("teacher", "", "student", "90°", "180°", "270°"),
    )

    backbone, _ = applications.load_backbone(run_folder / "backbone.weights.h5")
    size = backbone.input_shape[1]
    cluster = methods.DeepCluster(backbone, num_images=train.num_images, num_clusters=50)

    def read(indices=None):
        return train.eval_dataset(size, 256, indices=indices)

    cluster.begin_epoch(0, read)
    rows = cut_rows(cluster.figures(None)["sample_clusters"], size)[:4]
    pictures["deepcluster"] = sheet(rows, lines=[f"cluster {k}" for k in "ABCD"], side=96)

    if bigan_folder:
        drawn = {}
        for name in ("reconstructions", "samples"):
            picture = np.asarray(Image.open(bigan_folder / "figures" / f"{name}.png"))
            drawn[name] = cut_rows(picture, picture.shape[1] // 8)
        pictures["bigan"] = sheet(
            [*drawn["reconstructions"], drawn["samples"][1]],
            lines=("image x", "G(E(x))", "G(z)"),
            side=96,
        )
    return pictures


def main() -> None:
    from rfd_tf.errors import UserError
    from rfd_tf.evaluation.files import folder

    if not FLAGS.run:
        raise UserError("--run is missing: the run folder of the quickstart")
    target, source = folder(FLAGS.output_dir), Path(FLAGS.run)
    bigan = Path(FLAGS.bigan_run) if FLAGS.bigan_run else None
    pictures = {f"views_{name}": picture for name, picture in views(source, bigan).items()}
    pictures["neighbours"] = neighbours(source, FLAGS.query)
    for name, picture in pictures.items():
        path = target / f"{name}.webp"
        picture.save(path, "WEBP", quality=90, method=6)
        print(f"{path}: {picture.width} x {picture.height} pixels, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    run(main)
