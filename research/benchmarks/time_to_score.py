"""How long training takes to a given accuracy, beside SimCLR of a public library."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from research.benchmarks.base import Entry
from research.benchmarks.peers.process import Peer, PeerError
from rfd_tf.errors import UserError
from rfd_tf.evaluation.linear import Probe

#: Accuracy to reach, and the bar of our minutes / the peer's.
SCORE, BAR = 0.55, 1 / 3
#: Trainings that are tried, shortest first: epochs of four views an image, the peer's have two.
EPOCHS = (4, 6, 8, 10, 15, 20, 30, 45, 60)
TINY = {"score": 0.0, "epochs": (1,)}


def time_to_score(
    rounds: int = 1,
    classes_dir: str | None = None,
    peer_python: str | None = None,
    score: float = SCORE,
    epochs: Sequence[int] = EPOCHS,
    backbone: str = "six_layer",
    image_size: int = 32,
) -> Iterator[Entry]:
    """Minutes until a linear probe of f reaches 55 %: the default command, and lightly's SimCLR.

    Longer and longer trainings, each with its whole schedule, until one reaches the score; its
    minutes count. Both are shown as many views, see the same images and are evaluated by the same
    probe on `test/`. A training that does not reach it in any length counts with its longest.

    Args:
        rounds: seeds; the median counts.
        classes_dir: a folder with `train/` and `test/`, each with a folder a class.
        peer_python: an interpreter with torch, torchvision and lightly; without it only ours.
        score: accuracy to reach, 0 to 1.
        epochs: of four views an image, increasing.
        backbone, image_size: what is trained, pixels.

    Raises:
        UserError: the folder has no `train/` or `test/`.
    """
    if not classes_dir:
        print(
            "  left out: no --classes_dir=PATH with train/ and test/", file=sys.stderr, flush=True
        )
        return
    for part in ("train", "test"):
        if not (Path(classes_dir) / part).is_dir():
            raise UserError(f"--classes_dir={classes_dir} has no folder '{part}'")
    ours, tried = _median(
        lambda count, seed: _train(classes_dir, backbone, image_size, count, seed),
        rounds, epochs, score,
    )  # fmt: skip
    details = {"score": score, "backbone": backbone, "image_size": image_size, "ours": tried}
    yield Entry(
        "time_to_score/ours", ours, f"minutes to {score:.0%} linear f, RFD by default", "min",
        details=details,
    )  # fmt: skip
    if not peer_python:
        return
    try:
        with Peer(peer_python) as peer:
            theirs, tried = _median(
                lambda count, seed: _train_peer(
                    peer, classes_dir, backbone, image_size, 2 * count, seed
                ),
                rounds, epochs, score,
            )  # fmt: skip
    except PeerError as error:
        print(f"  left out: {error}", file=sys.stderr, flush=True)
        return
    details = {**details, "theirs": tried, "their_minutes": theirs}
    yield Entry(
        "time_to_score/ratio", ours / theirs, "our minutes / those of lightly's SimCLR", "times",
        at_most=BAR, details=details,
    )  # fmt: skip


def _median(
    train: Callable[[int, int], tuple[float, float]],
    rounds: int,
    epochs: Sequence[int],
    score: float,
) -> tuple[float, list[list[float]]]:
    """Returns the median minutes, and `[epochs, minutes, accuracy]` of each training."""
    minutes, tried = [], []
    for seed in range(rounds):
        for count in epochs:
            taken, accuracy = train(count, seed)
            tried.append([count, round(taken, 2), round(accuracy, 4)])
            print(
                f"    {count} epochs, {taken:.1f} min: {accuracy:.1%}", file=sys.stderr, flush=True
            )
            if accuracy >= score:
                break
        minutes.append(taken)
    return float(np.median(minutes)), tried


def _train(
    folder: str, backbone: str, image_size: int, epochs: int, seed: int
) -> tuple[float, float]:
    """Runs the command as a user does; returns its minutes and the accuracy of f."""
    with tempfile.TemporaryDirectory(prefix="rfd_tf_score_") as run:
        start = time.perf_counter()
        command = [sys.executable, "-m", "rfd_tf"]
        subprocess.run(
            [
                *command, "pretrain", f"--data={folder}/train", f"--backbone={backbone}",
                f"--image_size={image_size}", f"--epochs={epochs}", f"--seed={seed}",
                f"--output_dir={run}", "--monitor_every=0", "--tensorboard=false",
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        minutes = (time.perf_counter() - start) / 60
        subprocess.run(
            [
                *command, "evaluate", f"--weights={run}", "--task=linear",
                f"--data={folder}/train", f"--val_data={folder}/test",
                f"--output={run}/score.json",
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        rows = json.loads(Path(run, "score.json").read_text("utf-8"))["results"]
    wanted = {"name": "f", "images": "upright", "when": "last epoch"}
    return minutes, next(row["value"] for row in rows if wanted.items() <= row.items())


def _train_peer(
    peer: Peer, folder: str, backbone: str, image_size: int, epochs: int, seed: int
) -> tuple[float, float]:
    """Trains SimCLR; returns its minutes and the accuracy of the averaged last map."""
    with tempfile.TemporaryDirectory(prefix="rfd_tf_score_") as made:
        path = f"{made}/features.npz"
        seconds = peer.ask(
            "simclr", name=backbone, image_size=image_size, folder=folder, epochs=epochs,
            seed=seed, output=path,
        )  # fmt: skip
        with np.load(path) as part:
            probe = Probe().fit(part["train"], part["train_labels"], int(part["classes"]))
            right = probe.predict(part["test"]) == part["test_labels"]
    return seconds / 60, float(right.mean())
