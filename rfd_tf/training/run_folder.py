"""The folder that holds a run: what was asked, how it went, and what came out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rfd_tf.data.base import Source
from rfd_tf.errors import UserError, unknown
from rfd_tf.paths import absolute, replacing
from rfd_tf.training import image_list
from rfd_tf.training.checkpoint import NO_SPACE, CheckpointFolder

RESUME = ("auto", "never")
RUN_FILE = "run.json"
_WHAT_OVERWRITE_DOES = (
    "--overwrite deletes the run there: its checkpoints, weights, metrics, evaluation and exports"
)


def write_json(path: Path, value) -> None:
    """Writes JSON so that an interruption leaves the old file or the new one, never half."""
    with replacing(path) as writing:
        writing.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def full_disk_reported(folder: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of a full disk into a `UserError`; others pass.

    Args:
        folder: of the run, for the message.

    Raises:
        UserError: something could not be written while the body ran: the disk is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # (TensorFlow and HDF5 have errors of their own, which carry the system's words.)
        words = [os.strerror(number) for number in NO_SPACE]
        if getattr(error, "errno", None) not in NO_SPACE and not any(
            each in str(error) for each in words
        ):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        raise UserError(
            f"a file in '{folder}' cannot be written: the disk is full ({free:,.2f} MiB are free): "
            f"{str(error).splitlines()[0]}; the last checkpoint is kept; free some space and "
            "repeat the command to resume from there"
        ) from None


class RunFolder:
    """A training run's folder.

    It holds `run.json` (resolved flags, identity, versions), `metrics.csv`, `skipped_files.txt`,
    `images.json.gz` (the list of the images), `checkpoints/`, `tensorboard/`, `figures/`,
    `backbone.weights.h5`, `heads.npz` (the heads trained with it),
    `backbone.keras`, `start.weights.h5` (the weights that training started from, where it did),
    `architecture.keras` (of a backbone without a name) and, where asked for, `evaluation.json`,
    `evaluation_files/` and `export/`.

    Args:
        directory: the folder; made when missing.
        keep: number of checkpoints kept.

    Raises:
        UserError: the folder cannot be written.

    >>> run = RunFolder(tempfile.mkdtemp())
    >>> run.start({"method": "rfd"})  # nothing to resume
    >>> run.write(identity={"method": "rfd"})
    >>> run.start({"method": "rotation"})
    Traceback (most recent call last):
    ...
    rfd_tf.errors.UserError: '...' holds a run with method 'rfd', and this one has 'rotation'; ...
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        self.directory = absolute(directory)
        self.checkpoints = CheckpointFolder(self.directory / "checkpoints", keep)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory):
                pass
        except OSError as error:
            raise UserError(
                f"output folder '{self.directory}' cannot be written ({error.strerror}); "
                "give --output_dir another one"
            ) from None

    def path(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.directory / name

    def read(self) -> dict | None:
        """The content of run.json, or None where there is no run yet."""
        path = self.path(RUN_FILE)
        if not path.exists():
            return None
        try:
            run = json.loads(path.read_bytes())
            if not isinstance(run, dict) or not isinstance(run.get("identity"), dict):
                raise ValueError("it lacks its entries")
            if not isinstance(run.get("flags", {}), dict):
                raise ValueError("its flags have no names")
            return run
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); restore it from a copy, or give another "
                f"--output_dir ({_WHAT_OVERWRITE_DOES})"
            ) from None

    def start(
        self,
        identity: dict,
        resume: str = "auto",
        overwrite: bool = False,
        source: Source | None = None,
    ) -> Path | None:
        """Decides between a fresh start and resuming.

        Args:
            identity: what a resumed run must have in common with the one it resumes. The name
                "dataset" may differ where the "fingerprint" of the images is the same.
            resume: `auto` resumes where there is a checkpoint; `never` starts afresh.
            overwrite: allows a fresh start to remove an existing run.
            source: the images, to say how they differ from the run's where they do.

        Returns:
            The newest undamaged checkpoint to resume from, or None to start afresh.

        Raises:
            UserError: the folder holds another run, or one that must not be overwritten, or only
                damaged checkpoints.
        """
        if resume not in RESUME:
            raise unknown("resume mode", resume, RESUME)
        if overwrite:
            self._remove_run()
            return None
        run = self.read()
        if run is None:
            return None
        if resume == "never":
            raise UserError(
                f"'{self.directory}' already holds a run; give --resume=auto to continue it, or "
                f"another --output_dir ({_WHAT_OVERWRITE_DOES})"
            )
        known = run["identity"]
        changed = [name for name, value in identity.items() if known.get(name) != value]
        # A folder that was renamed or mounted elsewhere holds the same images.
        if "fingerprint" in identity and "fingerprint" not in changed:
            changed = [name for name in changed if name != "dataset"]
        if changed:
            raise self._not_resumable(known, identity, changed, source)
        return self.checkpoints.latest_whole()

    def _not_resumable(
        self, known: dict, identity: dict, changed: list[str], source: Source | None
    ) -> UserError:
        """The error for a run whose identity `known` differs from `identity`."""
        name = changed[0]
        found = f"{name} {known.get(name)!r}, and this one has {identity[name]!r}"
        if "fingerprint" not in changed and "num_images" not in changed:
            flag = f"give --{name}={known.get(name)} to resume it, or"
            if name == "started_from":
                return self._started_otherwise(known.get(name), identity[name])
            if name == "teacher_sha256":
                return self._other_teacher(known.get(name), identity[name])
            if not isinstance(known.get(name), str | int):
                flag = "give the run's flags to resume it, or"
            return UserError(
                f"'{self.directory}' holds a run with {found}; {flag} another --output_dir to "
                f"start a new run ({_WHAT_OVERWRITE_DOES})"
            )
        way_out = (
            "put them back, or give another --output_dir to start a new run "
            f"({_WHAT_OVERWRITE_DOES})"
        )
        if name == "dataset":
            return UserError(
                f"'{self.directory}' holds a run with {found}, and the images differ"
                f"{self._difference(source)}; {way_out}"
            )
        if source is None or source.names is None:
            return UserError(f"'{self.directory}' holds a run with {found}; {way_out}")
        return UserError(
            f"the images have changed since the run in '{self.directory}' began, which had "
            f"{known.get('num_images')} and now there are {source.num_images}"
            f"{self._difference(source)}; {way_out}"
        )

    def _started_otherwise(self, known: str | None, now: str | None) -> UserError:
        """The error for a run whose backbone started from other weights, by their digests."""
        record = (self.read() or {}).get("record") or {}
        place = (record.get("started_from") or {}).get("weights")
        flag = "leave out --init_weights"
        began = "random weights"
        if known is not None:
            flag = f"give --init_weights={place}"
            began = f"the weights '{place}' (sha256 {known[:12]}...)"
        this = "random ones" if now is None else f"others (sha256 {now[:12]}...)"
        return UserError(
            f"'{self.directory}' holds a run that started from {began}, and this one starts from "
            f"{this}; {flag} to resume it, or another --output_dir to start a new run "
            f"({_WHAT_OVERWRITE_DOES})"
        )

    def _other_teacher(self, known: str | None, now: str) -> UserError:
        """The error for a run whose teacher had other weights, by their digests."""
        teacher = ((self.read() or {}).get("flags") or {}).get("teacher")
        return UserError(
            f"'{self.directory}' holds a run whose teacher '{teacher}' had other weights (sha256 "
            f"{str(known)[:12]}..., of this one {now[:12]}...); give that teacher to resume it, or "
            f"another --output_dir to start a new run ({_WHAT_OVERWRITE_DOES})"
        )

    def _difference(self, source: Source | None) -> str:
        if source is None or source.names is None:
            return ""
        return f": {image_list.difference(self.path(image_list.FILE), source)}"

    def _remove_run(self) -> None:
        # Only what a run writes: the folder may hold other files of the user's.
        for name in ("checkpoints", "tensorboard", "export", "evaluation_files"):
            shutil.rmtree(self.path(name), ignore_errors=True)
        for name in (
            RUN_FILE,
            "metrics.csv",
            "skipped_files.txt",
            image_list.FILE,
            "backbone.weights.h5",
            "start.weights.h5",
            "architecture.keras",
            "heads.npz",
            "backbone.keras",
            "evaluation.json",
        ):
            self.path(name).unlink(missing_ok=True)

    def write(self, **content) -> None:
        """Writes run.json."""
        write_json(self.path(RUN_FILE), content)

    def add(self, **content) -> None:
        """Adds entries to run.json."""
        self.write(**{**(self.read() or {}), **content})
