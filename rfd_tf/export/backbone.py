"""The whole export: build, run, compare with Keras, describe; all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfd_tf.errors import UserError, chosen
from rfd_tf.export import litert, verify
from rfd_tf.export import onnx as onnx_format
from rfd_tf.export import quantize as smaller_files
from rfd_tf.paths import expanded
from rfd_tf.rules import GIVEN, Including, Rule, moot, refusal
from rfd_tf.training.folder_lock import FolderLock

if TYPE_CHECKING:
    import keras
    import numpy as np

    from rfd_tf.data.sources import Source
    from rfd_tf.export.accuracy_lost import Division

FORMATS = ("saved_model", "onnx", "litert", "keras")
_RULES = (
    # (A .keras file contains the backbone alone.)
    Rule(
        ("endpoints", "outputs"),
        dict.fromkeys(map("the format {}".format, ("saved_model", "onnx", "litert")), GIVEN),
    ),
    Rule(("calibration_images",), {"quantize": Including(("int8",))}),
    Rule(("opset", "onnx_input", "onnx_layout"), {"the format onnx": GIVEN}),
    Rule(("saved_model_version",), {"the format saved_model": GIVEN}),
)
FILES = {
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": litert.FILE,
    "keras": "backbone.keras",
}
_FEW_IMAGES = 32  # for the scales of int8
WEIGHTS_FILE = "backbone.weights.h5"
ARCHITECTURE_FILE = "architecture.keras"  # of a backbone without a name
README_FILE = "README.md"
CARD_FILE = "card.json"
# Below that an embedding is another one. What is lost above it, the card says.
LEAST_COSINE = {"int8": 0.9, "float16": 0.999}
# What an export consists of. The card comes last: a folder with a card is whole.
ARTEFACTS = (
    *FILES.values(),
    *smaller_files.FILES.values(),
    *litert.FILES.values(),
    WEIGHTS_FILE,
    ARCHITECTURE_FILE,
    README_FILE,
    CARD_FILE,
)


def export_backbone(
    weights: str | os.PathLike,
    output_dir: str | os.PathLike,
    formats: Iterable[str] = ("saved_model", "onnx"),
    *,
    feature: str = "f",
    endpoints: Iterable[str] = (),
    outputs: Iterable[str] = (),
    image_size: int | None = None,
    backbone: str | None = None,
    opset: int = onnx_format.DEFAULT_OPSET,
    onnx_input: str = "uint8",
    onnx_layout: str = "nhwc",
    saved_model_version: int = 1,
    quantize: Iterable[str] = (),
    calibration: Source | None = None,
    calibration_images: int = 256,
    tolerance: float = verify.TOLERANCE,
    name: str | None = None,
    licence: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Exports a pretrained backbone to files that other programs run.

    Every file is run and compared with the Keras model on batches of 1, 2 and 7 images before it
    appears in `output_dir`: `saved_model/1/`, `model.onnx`, `model.tflite`, `backbone.keras` (the
    formats asked for), `backbone.weights.h5`, of a backbone without a name `architecture.keras`,
    `README.md` and `card.json`. A failure leaves nothing behind, and an earlier export as it was.

    Args:
        weights: a run folder, a `.weights.h5` file, or the name of shipped weights.
        output_dir: the folder to write.
        formats: some of `"saved_model"`, `"onnx"`, `"litert"`, `"keras"`.
        feature: content of the output `embedding`: `"f"`, the pooled feature, or its half `"f1"` or
            `"f2"`.
        endpoints: names of layers to add as outputs.
        outputs: further outputs, some of `rfd_tf.export.OUTPUTS`: `"f"`, `"f1"`, `"f2"`, and of the
            heads trained with the backbone (`heads.npz` in the run folder): `"rotation_logits"`,
            `"projection"`. A `.keras` file contains the backbone only.
        image_size: height and width in pixels; by default the one recorded with the weights.
        backbone: the network's name, needed (with `image_size`) where the weights carry no record.
        opset: ONNX operator set, 13 to 18.
        onnx_input: dtype of the ONNX pixels, `"uint8"` or `"float32"`.
        onnx_layout: `"nhwc"` or `"nchw"`.
        saved_model_version: the SavedModel is written to `saved_model/<version>/`, the layout of
            TensorFlow Serving, which serves the highest version.
        quantize: smaller files next to `model.onnx` and `model.tflite`: `"int8"` (such as
            `model.int8.onnx`, static quantisation), `"float16"`. The card reports their loss of
            accuracy.
        calibration: images that set the scales of int8, and on which the loss is measured: images
            that were not used for calibration, with kNN where they have labels. Needed for int8.
        calibration_images: largest number of images for the calibration of int8.
        tolerance: largest difference from Keras allowed, as a fraction of the largest value.
        name: name of the model in the card; by default the name of `output_dir`, or of the run
            folder if that is its `export`.
        licence: terms of use in the card.
        overwrite: replace an earlier export in `output_dir`. Other files there stay.

    Returns:
        The card, as written to `card.json`: among others `inputs`, `outputs`, `preprocessing`,
        `files` (bytes, sha256) and `verification` (differences from Keras by format, run and
        output, see `rfd_tf.export.verify.compare`).

    Raises:
        UserError: an option that does not exist (the options are listed), missing or unsuitable
            weights, an output folder that is taken or cannot be written.
        ExportMismatch: an exported file does not give the features of the Keras model, or a
            smaller one gives quite other embeddings (`LEAST_COSINE` of this module).

    >>> import os, tempfile
    >>> from rfd_tf import applications
    >>> network = applications.build("six_layer", 32)
    >>> record = {"format": 1, "backbone": "six_layer", "arguments": {}, "image_size": 32}
    >>> folder = tempfile.mkdtemp()
    >>> path = applications.save_backbone(network, f"{folder}/backbone.weights.h5", record)
    >>> card = export_backbone(path, f"{folder}/exported", ["onnx"], endpoints=["block4"])
    >>> card["verification"]["onnx"]["onnxruntime"]["embedding"]["relative_difference"] < 1e-4
    True
    """
    formats = _checked_formats(formats)
    quantize = smaller_files.checked_kinds(quantize)
    endpoints, outputs = tuple(dict.fromkeys(endpoints)), tuple(outputs)
    _check_in_use(
        formats,
        {
            "opset": opset,
            "onnx_input": onnx_input,
            "onnx_layout": onnx_layout,
            "saved_model_version": saved_model_version,
            "endpoints": endpoints,
            "outputs": outputs,
            "calibration_images": calibration_images,
            "quantize": quantize,
        },
    )
    if "onnx" in formats:
        onnx_format.check_options(opset, onnx_input, onnx_layout)
        onnx_format.check_packages()
    _check_quantization(quantize, formats, calibration, calibration_images)
    if "saved_model" in formats and (
        not isinstance(saved_model_version, int) or saved_model_version < 1
    ):
        raise UserError(
            f"the SavedModel's version is a whole number from 1, not {saved_model_version!r}"
        )
    if not tolerance > 0:
        raise UserError(f"tolerance must be above 0, not {tolerance!r}")
    output_dir = expanded(output_dir)
    check_output(output_dir, overwrite)

    from rfd_tf.applications import pretrained
    from rfd_tf.applications.weights import find_weights
    from rfd_tf.data.run_images import RunImages
    from rfd_tf.export import model_card
    from rfd_tf.export.features import check_outputs

    source = find_weights(weights, backbone)
    shipped = pretrained.find(weights, backbone)
    if shipped and not licence:
        licence = shipped.licence
    with in_float32(), _working_folder(output_dir) as work:
        model, record, assumed = load_recorded(source, backbone, image_size)
        heads = trained_heads(source, outputs)
        outputs = check_outputs(record, outputs, heads)
        chosen = {
            "feature": feature,
            "endpoints": endpoints,
            "outputs": outputs,
            "heads": heads,
        }
        job = _Job.prepare(model, record, chosen, work, tolerance)
        with contextlib.suppress(UserError):  # a run whose record is damaged can be exported
            job.stretch = RunImages.of_run(source).high_bit_depth == "stretch"
        _put_weights(source, work / WEIGHTS_FILE, model, record)
        card = model_card.describe(
            model,
            record,
            name=name or _name(output_dir.resolve()),
            weights=work / WEIGHTS_FILE,
            source=source,
            feature=feature,
            output_shapes={name: value.shape[1:] for name, value in job.expected.items()},
            assumed=assumed,
            formats=formats,
            licence=licence,
        )
        if "saved_model" in formats:
            job.saved_model(card, saved_model_version)
        if "onnx" in formats:
            job.onnx(card, opset, onnx_input, onnx_layout)
        if "litert" in formats:
            job.litert(card)
        if quantize:
            job.quantized(card, quantize, calibration, calibration_images)
        if "keras" in formats:
            job.keras(card)
        model_card.write(card, work)
        _install(work, output_dir)
    return card


def _name(folder: Path) -> str:
    """An export's name: its folder's, or the run's for `runs/photos/export`."""
    return folder.parent.name if folder.name == "export" and folder.parent.name else folder.name


@dataclasses.dataclass
class _Job:
    """One export under way: what is exported, where to, and what it must give."""

    model: keras.Model
    deployed: keras.Model
    record: dict[str, Any]
    chosen: dict[str, Any]  # feature, endpoints, outputs, heads: as `deployable` takes them
    work: Path
    tolerance: float
    images: Any
    expected: dict[str, Any]
    stretch: bool = True  # grey PNGs of 16 bits, in the SavedModel

    @classmethod
    def prepare(
        cls,
        model: keras.Model,
        record: dict[str, Any],
        chosen: dict[str, Any],
        work: Path,
        tolerance: float,
    ) -> _Job:
        from rfd_tf.export.features import deployable

        deployed = deployable(model, record, **chosen)
        images = verify.verification_images(model.input_shape[1])
        job = cls(model, deployed, record, chosen, work, tolerance, images, {})
        job.expected = job.reference(images)
        return job

    def reference(self, images: Any) -> dict[str, Any]:
        return verify.reference_features(self.model, self.record, images, **self.chosen)

    def saved_model(self, card: dict[str, Any], version: int) -> None:
        from rfd_tf.export.saved_model import write_saved_model

        directory = self.work / FILES["saved_model"] / str(version)
        card["saved_model"] = {
            "version": version,
            "folder": directory.relative_to(self.work).as_posix(),
        }
        write_saved_model(self.deployed, directory, stretch=self.stretch)
        files, pixels = verify.verification_files(self.model.input_shape[1])
        card["verification"]["saved_model"] = verify.verify_saved_model(
            directory,
            self.images,
            self.expected,
            files=files,
            expected_files=self.reference(pixels),
            tolerance=self.tolerance,
        )

    def onnx(self, card: dict[str, Any], opset: int, input_dtype: str, layout: str) -> None:
        path = self.work / FILES["onnx"]
        size = self.model.input_shape[1]
        shape = ["batch", 3, size, size] if layout == "nchw" else ["batch", size, size, 3]
        card["inputs"]["onnx"] = {"pixels": {"dtype": input_dtype, "shape": shape}}
        card["onnx"] = {"opset": opset, "layout": layout}
        onnx_format.write_onnx(
            self.deployed, path, opset=opset, input_dtype=input_dtype, layout=layout,
            metadata=_metadata(card),
        )  # fmt: skip
        card["verification"]["onnx"] = verify.verify_onnx(
            path, self.images, self.expected, tolerance=self.tolerance
        )

    def litert(self, card: dict[str, Any]) -> None:
        path, size = self.work / FILES["litert"], self.model.input_shape[1]
        shape = ["batch", size, size, 3]
        card["inputs"]["litert"] = {"pixels": {"dtype": "uint8", "shape": shape}}
        litert.write_litert(self.deployed, path, metadata=_metadata(card))
        card["verification"]["litert"] = verify.verify_litert(
            path, self.images, self.expected, tolerance=self.tolerance
        )

    def quantized(
        self,
        card: dict[str, Any],
        kinds: tuple[str, ...],
        calibration: Source | None,
        calibration_images: int,
    ) -> None:
        from rfd_tf.data.pipeline import load_images
        from rfd_tf.export.accuracy_lost import divide

        division = images = None
        if calibration is not None:
            division = divide(calibration, calibration_images)
        if "int8" in kinds:
            images = load_images(calibration, self.model.input_shape[1], division.calibration)
            if len(images) < _FEW_IMAGES:
                warnings.warn(
                    f"int8 is calibrated with {len(images)} images only, so that other images may "
                    f"exceed its scales; give {_FEW_IMAGES} or more as --data",
                    stacklevel=3,
                )
        for form in ("onnx", "litert"):
            if form in card["formats"]:
                self._smaller(card, form, kinds, calibration, division, images)

    def _smaller(
        self,
        card: dict[str, Any],
        form: str,
        kinds: tuple[str, ...],
        calibration: Source | None,
        division: Division | None,
        images: np.ndarray | None,
    ) -> None:
        """Writes the smaller files of one format, and reports what they lose."""
        import numpy as np

        from rfd_tf.export.accuracy_lost import accuracy_lost, on_pixels
        from rfd_tf.export.onnx_model import OnnxModel
        from rfd_tf.export.runtime import description

        original = self.work / FILES[form]
        prefix, files, opened, measured_with = {
            "onnx": ("", smaller_files.FILES, OnnxModel, description),
            "litert": ("litert_", litert.FILES, litert.LiteRTModel, litert.description),
        }[form]
        names = {kind: prefix + kind for kind in kinds}
        paths = {kind: self.work / files[kind] for kind in kinds}
        if form == "litert":
            for kind, path in paths.items():
                metadata = {**_metadata(card), "precision": kind}
                litert.write_litert(
                    self.deployed, path, precision=kind, images=images, metadata=metadata
                )
        else:
            if "float16" in kinds:
                smaller_files.convert_float16(original, paths["float16"])
            if "int8" in kinds:
                smaller_files.quantize_int8(original, paths["int8"], images)
        models = {names[kind]: opened(path) for kind, path in paths.items()}
        whole = opened(original)
        # Inputs of the extremes, on which a file in float16 would overflow first.
        made_up = on_pixels(whole, models, self.images)
        found = made_up
        if division is not None:
            found = accuracy_lost(whole, models, calibration, division)
        for kind, name in names.items():
            # (Made-up images are none that int8 was calibrated for.)
            for agreement in (found[name],) if kind == "int8" else (made_up[name], found[name]):
                _check_agreement(FILES[form], kind, agreement["outputs"])
            card["quantization"][name] = {
                "file": paths[kind].name,
                "measured_on": calibration.name if calibration else "made-up images",
                "measured_with": measured_with(),
                **found[name],
            }
            if kind == "int8":
                card["quantization"][name]["calibration"] = {
                    "images": len(division.calibration),
                    "of": calibration.name,
                }
                if count := int(np.isin(division.evaluated, division.calibration).sum()):
                    card["quantization"][name]["calibration"]["evaluated"] = count

    def keras(self, card: dict[str, Any]) -> None:
        from rfd_tf.applications import portable

        path = self.work / FILES["keras"]
        portable(self.model).save(path)
        card["verification"]["keras"] = verify.verify_keras(
            path,
            self.record,
            self.images,
            self.expected,
            tolerance=self.tolerance,
            **self.chosen,
        )


def _check_quantization(
    kinds: tuple[str, ...],
    formats: tuple[str, ...],
    calibration: Source | None,
    calibration_images: int,
) -> None:
    if kinds and not {"onnx", "litert"} & set(formats):
        raise UserError(
            f"{' and '.join(kinds)} are forms of the ONNX and the LiteRT file: ask for format onnx "
            "or litert"
        )
    if "int8" in kinds and calibration is None:
        raise UserError(
            "int8 needs images like those the model will see, which set its scales: give a folder "
            "of them as --data"
        )
    if "int8" in kinds and calibration_images < 1:
        raise UserError(f"calibration needs 1 image or more, not {calibration_images}")


def _metadata(card: dict[str, Any]) -> dict[str, Any]:
    """Returns a file's metadata."""
    kept = (
        "name", "method", "dataset", "epoch", "backbone", "feature", "preprocessing", "outputs",
        "weights_sha256", "licence",
    )  # fmt: skip
    metadata = {key: card[key] for key in kept if card[key] is not None}
    return {**metadata, "rfd_tf_version": card["versions"]["rfd_tf"]}


def _check_agreement(file: str, kind: str, outputs: dict[str, dict[str, float]]) -> None:
    from rfd_tf.export.features import EMBEDDING

    for name, agreement in outputs.items():
        # Written so that what is not a number fails.
        if not agreement["largest_difference"] < float("inf"):
            raise verify.ExportMismatch(
                f"{file} in {kind}: '{name}' has values that are not finite; leave "
                f"{kind} out of --quantize"
            )
    cosine = outputs[EMBEDDING]["cosine"]
    if not cosine >= LEAST_COSINE[kind]:
        raise verify.ExportMismatch(
            f"{file} in {kind} gives other embeddings: mean cosine to float32 "
            f"{cosine:.4f}, at least {LEAST_COSINE[kind]} is asked for; leave {kind} out of "
            "--quantize" + (", or calibrate with more images" if kind == "int8" else "")
        )


def _check_in_use(formats: Iterable[str], options: Mapping[str, Any]) -> None:
    """Raises `UserError` for an option, other than its default, of a format that is not written."""
    written = {f"the format {name}": name if name in formats else None for name in FORMATS}
    values = {**options, **written}
    defaults = inspect.signature(export_backbone).parameters
    for name, rule in moot(_RULES, values):
        if values[name] != defaults[name].default:
            raise refusal(name, rule, values)


def _checked_formats(formats: Iterable[str]) -> tuple[str, ...]:
    wanted = chosen("export format", formats, FORMATS)
    if not wanted:
        raise UserError(f"no export format asked for; options: {', '.join(FORMATS)}")
    return wanted


def load_recorded(
    source: Path, backbone: str | None, image_size: int | None
) -> tuple[keras.Model, dict[str, Any], list[str]]:
    """Returns backbone, complete record, and which entries of it are assumptions."""
    from rfd_tf import applications

    record = applications.read_record(source)
    if record is None:
        if backbone is None or image_size is None:
            raise UserError(
                f"'{source}' carries no record of its backbone: give --backbone and --image_size "
                f"(backbones: {', '.join(applications.BACKBONES)})"
            )
        model = applications.build(backbone, image_size, weights=str(source))
        record = {"format": 1, "backbone": backbone, "arguments": {}, "image_size": image_size}
    else:
        if backbone not in (None, record["backbone"]):
            raise UserError(
                f"'{source}' holds backbone {record['backbone']}, not {backbone}: "
                "leave --backbone out"
            )
        model, record = applications.load_backbone(source, image_size)
    last = applications.endpoints(model)[-1]
    defaults = {
        "mean": list(applications.IMAGENET_MEAN),
        "std": list(applications.IMAGENET_STD),
        "feature": {"endpoint": last, "pooling": "avg"},
    }
    assumed = [key for key in defaults if not record.get(key)]
    return model, {**record, **{key: defaults[key] for key in assumed}}, assumed


def trained_heads(source: Path, outputs: Iterable[str]) -> dict[str, Any]:
    """Returns the heads trained with the weights, where outputs of theirs are asked for."""
    from rfd_tf.evaluation.heads import FILE, load_heads
    from rfd_tf.export.features import HEAD_OUTPUTS

    asked = any(output in HEAD_OUTPUTS for output in outputs)
    # (Another weights file in a run folder was not trained with its heads.)
    beside = source.name == WEIGHTS_FILE and (source.parent / FILE).exists()
    return load_heads(source.parent) if asked and beside else {}


def _put_weights(source: Path, target: Path, model: keras.Model, record: dict[str, Any]) -> None:
    """Puts the weights beside the export: the file itself, or with the record it lacked."""
    from rfd_tf import applications
    from rfd_tf.applications.registry import copy_architecture

    if applications.read_record(source) is None:
        applications.save_backbone(model, target, record)
    else:
        shutil.copyfile(source, target)
        copy_architecture(record, source, target.parent)


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Builds and runs models in full float32, whatever the process trains in."""
    import keras
    import tensorflow as tf

    precision = tf.config.experimental
    policy = keras.config.dtype_policy()
    shortened = precision.tensor_float_32_execution_enabled()
    keras.config.set_dtype_policy("float32")
    # On recent GPUs float32 products keep 10 bits by default: more than the difference allowed.
    precision.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        precision.enable_tensor_float_32_execution(shortened)


def check_output(output_dir: Path, overwrite: bool) -> None:
    """Raises `UserError` for a folder that is taken or cannot be written."""
    try:
        if not output_dir.exists():
            return
        if not output_dir.is_dir():
            raise UserError(f"output folder '{output_dir}' is a file; give another --output_dir")
        taken = sorted(entry.name for entry in output_dir.iterdir())
        taken = [name for name in taken if name != _lock_name(output_dir)]
    except OSError as error:
        raise _not_writable(output_dir, error) from error
    if taken and not overwrite:
        raise UserError(
            f"output folder '{output_dir}' is not empty ({taken[0]}, ...); "
            "give another --output_dir, or --overwrite to replace an earlier export (its files are "
            "deleted, others stay)"
        )
    ours = [entry for entry in taken if entry in ARTEFACTS]
    if ours and CARD_FILE not in ours:
        # A project's README.md, or the weights of a run: not ours to replace.
        raise UserError(
            f"output folder '{output_dir}' holds {ours[0]} but is no earlier export (it has no "
            f"{CARD_FILE}); give another --output_dir"
        )


def _not_writable(output_dir: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to output folder '{output_dir}': {error.strerror or error}")


@contextlib.contextmanager
def _working_folder(output_dir: Path) -> Iterator[Path]:
    """Makes a hidden folder to build in, on the output's disk, and removes it in the end.

    Beside the output folder, which can then appear whole by one renaming; inside it where it
    exists already, since the folder above may belong to another user.
    """
    label = f".{output_dir.resolve().name}.partial-{os.getpid()}"
    work = (output_dir if output_dir.exists() else output_dir.parent) / label
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise _not_writable(output_dir, error) from error
    try:
        with FolderLock(work.parent, _lock_name(output_dir), "exports to", output_dir):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _lock_name(output_dir: Path) -> str:
    return f".{output_dir.resolve().name}.lock"


def _install(work: Path, output_dir: Path) -> None:
    try:
        if not output_dir.exists():
            os.replace(work, output_dir)
            return
        for name in reversed(ARTEFACTS):
            _remove(output_dir / name)
        for name in ARTEFACTS:
            if (work / name).exists():
                os.replace(work / name, output_dir / name)
    except OSError as error:
        raise _not_writable(output_dir, error) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
