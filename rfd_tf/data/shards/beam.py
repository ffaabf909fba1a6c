"""Shards of very large sets by Apache Beam: the workers of any runner write them."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rfd_tf.data.base import Source
from rfd_tf.data.beam_runner import Runner
from rfd_tf.data.shards.write import UniqueNames, has_places, write_shard, write_shards
from rfd_tf.errors import UserError


def shards_by_beam(
    source: Source,
    make_source: Callable[[], Source],
    output: str | os.PathLike,
    runner: str = "DirectRunner",
    beam_options: Iterable[str] = (),
    *,
    format: str = "tar",
    images_per_shard: int = 10_000,
    image_size: int | None = None,
) -> Path:
    """Writes shards as `write_shards` does, each by a worker of an Apache Beam pipeline.

    A worker writes a shard whole or not at all, so that the runner may repeat it. All workers reach
    images and output folder under the same paths.

    Args:
        source: the images.
        make_source: returns them; called once in each worker, and picklable.
        output, format, images_per_shard, image_size: see `write_shards`.
        runner, beam_options: see `rfd_tf.data.beam_runner.Runner`.

    Returns:
        The folder.

    Raises:
        UserError: see `write_shards` and `Runner`; also a source whose images are read in order
            only, such as a TFDS dataset, or a worker that sees other images.
        MissingPackage: Apache Beam is not installed.
    """
    workers = Runner(runner, beam_options)
    if not has_places(source):
        raise UserError(
            f"images of a {type(source).__name__} are read in order; leave out --runner"
        )
    options = {"format": format, "images_per_shard": images_per_shard, "image_size": image_size}

    def make_shards(folder: Path, numbers: list[int]) -> None:
        job = _Job(uuid.uuid4().hex, make_source, source.fingerprint, folder, options)
        workers.run(_write_shard, numbers, job)

    return write_shards(source, output, **options, make_shards=make_shards)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker needs; the key is that of one call of `shards_by_beam`."""

    key: str
    make_source: Callable[[], Source]
    fingerprint: str
    folder: Path
    options: dict[str, Any]


# The images of this worker's job, and their names.
_ready: dict[str, tuple[Source, UniqueNames]] = {}


def _write_shard(number: int, job: _Job) -> None:
    if job.key not in _ready:
        source = job.make_source()
        if source.fingerprint != job.fingerprint:
            raise UserError("a worker finds other images than the first process")
        _ready.clear()
        _ready[job.key] = source, UniqueNames(source.names, job.options["format"])
    write_shard(*_ready[job.key], job.folder, number, **job.options)
