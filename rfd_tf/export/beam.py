"""Embeddings of very large sets by Apache Beam: the workers of any runner make the parts."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rfd_tf.data.base import Source
from rfd_tf.data.beam_runner import Runner
from rfd_tf.errors import UserError
from rfd_tf.export.embedders import Embedder
from rfd_tf.export.embeddings import PART_IMAGES, Parts, embed_folder, embed_parts


def embed_by_beam(
    make_embedder: Callable[[], Embedder],
    make_source: Callable[[], Source],
    output_dir: str | os.PathLike,
    runner: str = "DirectRunner",
    beam_options: Iterable[str] = (),
    *,
    batch_size: int = 64,
    part_images: int = PART_IMAGES,
    **options: Any,
) -> dict[str, Any]:
    """Writes the embeddings of images as `embed_folder` does, its parts by an Apache Beam pipeline.

    A worker writes a part to `parts/` in the output folder, whole or not at all, so that the runner
    may repeat it; this process then writes the files from the parts. All workers reach images and
    output folder under the same paths. Images that cannot be decoded are rows of
    `skipped_files.txt`.

    Args:
        make_embedder: returns the network; called once in each worker, and picklable, such as
            `functools.partial(keras_embedder, weights)`.
        make_source: returns the images, likewise; the same ones in each worker.
        output_dir: where to write.
        runner, beam_options: see `rfd_tf.data.beam_runner.Runner`.
        batch_size, part_images, **options: see `embed_folder`.

    Returns:
        The report of `embed_folder`.

    Raises:
        UserError: see `embed_folder` and `Runner`; also a worker that sees other images or another
            network.
        MissingPackage: Apache Beam is not installed.
    """
    workers = Runner(runner, beam_options)

    def make_parts(parts: Parts, missing: list[int]) -> int:
        job = _Job(
            uuid.uuid4().hex, make_embedder, make_source, parts.folder, parts.identity, batch_size
        )
        workers.run(_embed_part, missing, job)
        found = map(parts.read, missing)
        return sum(len(part[0]) for part in found if part is not None)

    return embed_folder(
        make_embedder(),
        make_source(),
        output_dir,
        batch_size=batch_size,
        part_images=part_images,
        make_parts=make_parts,
        **options,
    )


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker needs; the key is that of one call of `embed_by_beam`."""

    key: str
    make_embedder: Callable[[], Embedder]
    make_source: Callable[[], Source]
    folder: Path
    identity: dict[str, Any]
    batch_size: int


# The network and the images of this worker's job.
_ready: dict[str, tuple[Embedder, Source]] = {}


def _embed_part(part: int, job: _Job) -> None:
    if job.key not in _ready:
        _ready.clear()
        _ready[job.key] = job.make_embedder(), job.make_source()
    embedder, source = _ready[job.key]
    here = {**embedder.identity, "images_fingerprint": source.fingerprint}
    if different := [name for name, value in here.items() if job.identity[name] != value]:
        raise UserError(f"a worker has another {', '.join(different)} than the first process")
    parts = Parts(job.folder, job.identity, source.num_images, job.identity["part_images"])
    embed_parts(embedder, source, parts, [part], job.batch_size)
