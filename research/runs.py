"""Several runs of one study: what each was asked for, and one after the other in one process."""

from __future__ import annotations

import gc
import inspect
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from rfd_tf.config import PretrainConfig
from rfd_tf.data import given
from rfd_tf.errors import UserError, unknown
from rfd_tf.evaluation import TASKS
from rfd_tf.evaluation.base import Task
from rfd_tf.evaluation.files import write_json
from rfd_tf.paths import absolute
from rfd_tf.text import one_line

log = logging.getLogger("rfd_tf")

# What may be another at each call.
_FREE = ("output_dir", "overwrite", "resume", "tfds_dir", "tfds_download")
_PATHS = {"data_dir": given.absolute, "eval_dir": given.absolute}
_PATHS |= dict.fromkeys(("data_root", "pu_weights"), absolute)
_FILE = "settings.json"


class Ledger:
    """The settings of the runs in a folder, in its `settings.json`.

    Args:
        output: the folder; it need not exist yet.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, output: Path):
        self.output, self.path = output, output / _FILE
        self.entries: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                self.entries = dict(json.loads(self.path.read_bytes()))
            except (OSError, ValueError, TypeError) as error:
                raise UserError(
                    f"'{self.path}' cannot be read ({error}); restore it, or give another "
                    "--output_dir"
                ) from None

    def check(self, name: str, settings: Mapping[str, Any]) -> None:
        """Refuses to continue or reuse a run that was asked for with other settings.

        Args:
            name: of the run's folder.
            settings: of its pretraining, by name.

        Raises:
            UserError: names the settings that differ.
        """
        if settings.get("overwrite") or not (self.output / name / "run.json").exists():
            return
        before, now = self.entries.get(name, {}).get("pretrain"), _recorded(settings)
        if before is None:
            raise UserError(
                f"'{self.output / name}' holds a run whose settings are not in {_FILE}; give "
                "another --output_dir, or --overwrite"
            )
        differ = [
            f"{key} was {before.get(key)!r} and is now {now.get(key)!r}"
            for key in dict.fromkeys((*before, *now))
            if before.get(key) != now.get(key)
        ]
        if differ:
            raise UserError(
                f"'{self.output / name}' holds a run with other settings: {'; '.join(differ)}; "
                "give another --output_dir, or --overwrite"
            )

    def begin(self, name: str, settings: Mapping[str, Any]) -> None:
        """Records the settings of a run that is about to be trained."""
        self._set(name, {"pretrain": _recorded(settings)})

    def finished(self, name: str, file: str, options: Mapping[str, Any]) -> bool:
        """Whether a run was evaluated with these options, and the evaluation's file is there."""
        entry = self.entries.get(name, {})
        return (self.output / name / file).exists() and entry.get("evaluate") == _json(options)

    def finish(self, name: str, options: Mapping[str, Any]) -> None:
        """Records the options that a run was evaluated with."""
        self._set(name, {**self.entries[name], "evaluate": _json(options)})

    def _set(self, name: str, entry: dict[str, Any]) -> None:
        self.entries[name] = entry
        write_json(self.path, self.entries)


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, default=str))


def _recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _FREE}
    return _json({n: _PATHS[n](v) if n in _PATHS and v else v for n, v in kept.items()})


def effective(
    name: str, settings: Mapping[str, Any], configured: Collection[str]
) -> dict[str, Any]:
    """Returns the settings of a run that have an effect; the others are logged.

    Args:
        name: of the run.
        settings: of `rfd_tf.pretrain`, by name.
        configured: names of those, and of options of the method, that the user did not give.

    Raises:
        UserError: the user gave a setting that has no effect beside the others.

    >>> effective("a", {"method": "rotation", "temperature": 0.1}, ["temperature"])
    {'method': 'rotation'}
    """
    config = PretrainConfig.create(settings, configured)
    if config.fidelity:
        config.follow_the_published_program()
    if dropped := config.drop_moot():
        log.info(f"{name}: ignored, no effect here: {'; '.join(dropped)}")
    kept = {setting: value for setting, value in settings.items() if setting in config.given}
    if "method_option" in kept:
        options = kept["method_option"].items()
        kept["method_option"] = {
            option: value for option, value in options if option in config.given
        }
    return kept


def each(jobs: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    """Does jobs one after the other; what one held in memory is free before the next begins.

    A job that fails is logged by name, and the others go on.

    Returns:
        What went wrong with each job that failed.

    >>> each({"good": dict, "bad": lambda: [][0]})
    {'bad': 'list index out of range'}
    """
    failed = {}
    for name, job in jobs.items():
        try:
            job()
        except Exception as error:
            failed[name] = one_line(str(error))
            log.error(f"{name} failed: {failed[name]}", exc_info=not isinstance(error, UserError))
        finally:
            keras.utils.clear_session()
            gc.collect()
    return failed


def report_failed(failed: Mapping[str, str]) -> None:
    """Raises `UserError` that names the jobs that failed, if any did.

    >>> report_failed({})
    """
    if failed:
        listed = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise UserError(
            f"{len(failed)} of the runs failed, and the tables hold the others ({listed}); the "
            "same command tries them again"
        )


def tasks(names: Sequence[str], options: Mapping[str, Any], seed: int) -> tuple[list[Task], dict]:
    """Creates the tasks of an evaluation.

    Args:
        names: in `rfd_tf.evaluation.TASKS`.
        options: `TASK.OPTION` -> value for one task, `OPTION` -> value for all, see
            `rfd_tf.evaluate`.
        seed: of the tasks that draw.

    Returns:
        The tasks, and the options of all.

    Raises:
        UserError: an unknown task or option.

    >>> found, shared = tasks(["knn"], {"knn.k": 3, "batch_size": 8}, 0)
    >>> found[0].k, shared
    (3, {'batch_size': 8})
    """
    known = ("batch_size", "cache_features", "endpoints", "max_train_images")
    shared, own = {}, {name: {} for name in names}
    for name in names:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
        if "seed" in inspect.signature(TASKS[name]).parameters:
            own[name]["seed"] = seed
    for name, value in options.items():
        task, dot, option = name.partition(".")
        if not dot:
            if name not in known:
                raise unknown("option of the evaluation", name, known)
            shared[name] = value
        elif task not in own:
            raise unknown("task", task, names)
        else:
            accepted = inspect.signature(TASKS[task]).parameters
            if option not in accepted:
                raise unknown(f"option of task {task}", option, accepted)
            own[task][option] = value
    return [TASKS[name](**own[name]) for name in names], shared
