"""Exports a network to the Hugging Face Hub: for rfd_tf, for plain Keras, with a model card."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rfd_tf import extras
from rfd_tf.applications import hub
from rfd_tf.errors import UserError, shown
from rfd_tf.export import model_card
from rfd_tf.export.backbone import CARD_FILE, README_FILE, check_output, export_backbone
from rfd_tf.paths import expanded

_PIPELINE = "image-feature-extraction"
_TAGS = ("rfd_tf", "self-supervised-learning", "image-feature-extraction")


def push(
    weights: str | os.PathLike,
    to: str,
    formats: Iterable[str] = ("onnx",),
    *,
    output: str | os.PathLike | None = None,
    dry_run: bool = False,
    private: bool = False,
    message: str | None = None,
    license_id: str | None = None,
    licence: str = "",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Exports a network and uploads it to a repository of the Hugging Face Hub.

    The repository is loaded by `hf://USER/REPO` as weights of rfd_tf, and by
    `keras.saving.load_model("hf://USER/REPO")` without rfd_tf. It is created if it does not exist.

    Args:
        weights: a run folder, a `.weights.h5` file, or the name of shipped weights.
        to: the repository, `USER/REPO`.
        formats: further files, see `export_backbone`.
        output: folder to write the files to; a temporary one if None.
        dry_run: write the files, and upload nothing.
        private: create the repository as a private one.
        message: of the commit.
        license_id: the Hub's identifier of the licence, such as `apache-2.0`, or `other`.
        licence: terms of use in the card, see `export_backbone`.
        overwrite: replace an earlier export in `output`.

    Returns:
        The card, see `export_backbone`; `"hub"` is `hf://USER/REPO@COMMIT`, None for a dry run.

    Raises:
        UserError: another form of `to`, no token, or the Hub refuses the upload.
        MissingPackage: `huggingface_hub` is not installed.

    >>> card = push("six_layer.rfd_cifar10", "user/rfd", ["keras"], dry_run=True)
    >>> card["hub"], sorted(card["files"])[0]
    (None, 'backbone.keras')
    """
    try:
        repository, revision = hub.split(hub.SCHEME + to.removeprefix(hub.SCHEME))
    except UserError:
        raise UserError(f"--to '{shown(to)}' must read USER/REPO") from None
    if revision:
        raise UserError(f"--to '{to}' must read USER/REPO; an upload is a new commit")
    api = None if dry_run else _api()
    if output is not None:
        output = expanded(output)
        check_output(output, overwrite)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "export"
        name = repository.partition("/")[2]
        card = export_backbone(weights, folder, tuple(formats), name=name, licence=licence)
        _write_for_keras(folder)
        # (Both list the files of the folder.)
        for file in (README_FILE, CARD_FILE):
            (folder / file).unlink()
        model_card.write(card, folder)
        path = folder / README_FILE
        text = path.read_text(encoding="utf-8")
        text = f"{front_matter(card, license_id)}\n{_with_loading(text, repository)}"
        path.write_text(text, encoding="utf-8")
        if output is not None:
            shutil.copytree(folder, output, dirs_exist_ok=True)
        card["hub"] = None
        if api is not None:
            card["hub"] = _upload(api, folder, repository, private, message)
    return card


def front_matter(card: Mapping[str, Any], license_id: str | None = None) -> str:
    """Returns the metadata of a card in the form that the Hub reads, YAML between `---`.

    Args:
        card: of `export_backbone`.
        license_id: see `push`.

    >>> print(front_matter({"name": "n", "method": "rfd", "backbone": "six_layer"}, "mit"))
    ---
    library_name: "keras"
    pipeline_tag: "image-feature-extraction"
    tags: ["rfd_tf", "self-supervised-learning", "image-feature-extraction", "rfd", "six_layer"]
    license: "mit"
    ---
    """
    tags = [*_TAGS, *(card[name] for name in ("method", "backbone") if card.get(name))]
    values: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": _PIPELINE,
        "tags": list(dict.fromkeys(tags)),
    }
    if license_id:
        values["license"] = license_id
    started = (card.get("started_from") or {}).get("weights")
    if hub.is_place(started):
        values["base_model"] = hub.split(started)[0]
    if results := list(_results(card)):
        values["model-index"] = [{"name": card["name"], "results": results}]
    # (JSON is YAML.)
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _results(card: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the accuracies of an evaluation as the Hub lists them."""
    from rfd_tf.evaluation.base import BEST_EPOCH

    scores = card.get("scores") or {}
    data = scores.get("data") or {}
    dataset = data.get("test") or card.get("dataset") or "unknown"
    if seen := data.get("trained_on"):
        dataset += f"; pretraining has seen {seen:,} of the test images, without labels"
    for row in scores.get("results", ()):
        # (The best epoch is chosen on the test images.)
        best = row["when"] == BEST_EPOCH
        if row["metric"] == "accuracy" and row["value"] is not None and not best:
            named = ", ".join(part for part in (row["task"], row["name"], row["when"]) if part)
            yield {
                "task": {"type": "image-classification", "name": f"{named}, {row['images']}"},
                "dataset": {"type": "images", "name": dataset},
                "metrics": [{"type": "accuracy", "value": row["value"]}],
            }


def _with_loading(readme: str, repository: str) -> str:
    code = (
        "From the Hub, with rfd_tf or with Keras alone (both need `huggingface_hub`):\n\n"
        "```python\n"
        "import keras\n"
        "import rfd_tf\n\n"
        f'backbone, record = rfd_tf.applications.load_backbone("hf://{repository}")\n'
        f'backbone = keras.saving.load_model("hf://{repository}")\n'
        "```\n\n"
    )
    return readme.replace("## Use\n\n", f"## Use\n\n{code}", 1)


def _write_for_keras(folder: Path) -> None:
    """Writes the network as Keras reads it from `hf://`."""
    import keras

    from rfd_tf import applications
    from rfd_tf.export.backbone import in_float32

    with in_float32():
        model, _ = applications.load_backbone(folder / hub.WEIGHTS)
        keras.saving.save_model(applications.portable(model), str(folder), zipped=False)
    with contextlib.suppress(OSError):  # not empty
        (folder / "assets").rmdir()


def _api() -> Any:
    """Returns the Hub's client, signed in."""
    import rfd_tf

    package = extras.load("huggingface_hub", "the Hub")
    if package.get_token() is None:
        raise UserError(
            "the Hub needs a token to write: run `hf auth login`, or set HF_TOKEN; --dry_run "
            "writes the files only"
        )
    return package.HfApi(library_name="rfd_tf", library_version=rfd_tf.__version__)


def _upload(api: Any, folder: Path, repository: str, private: bool, message: str | None) -> str:
    with hub.errors_reported(
        f"'{repository}' cannot be uploaded to the Hub",
        "check the name, the token's right to write and the connection",
    ):
        api.create_repo(repository, exist_ok=True, private=private or None)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message or "Export by rfd_tf",
        )
    return f"{hub.SCHEME}{repository}@{commit.oid}"
