"""Training beside PyTorch, which another Python brings."""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.benchmarks import measuring
from research.benchmarks.base import Entry, alternate, milliseconds, paired_ratio
from research.benchmarks.peers.process import Peer, PeerError
from research.benchmarks.photographs import write_photographs
from research.benchmarks.steps import BareStep, MethodStep, default_policy
from rfd_tf import recipes
from rfd_tf.data import image_folder

#: Networks, sizes in pixels, and views of a step; all multiples of 4.
CASES = (
    {"backbone": "six_layer", "image_size": 32, "views": 256},
    {"backbone": "network_in_network", "image_size": 32, "views": 64},
    {"backbone": "resnet18", "image_size": 96, "views": 64},
    {"backbone": "mobilenet_v2", "image_size": 128, "views": 64},
)
#: Bars: peer's time / ours for each network, and the geometric mean; views a second; memory.
STEP_BAR, MEAN_BAR, END_TO_END_BAR, MEMORY_BAR = 1.0, 1.3, 2.0, 1.0
ROWS = 50_000
TINY = {"cases": ({"backbone": "six_layer", "image_size": 16, "views": 16},)}

Runs = dict[str, Callable[[], object]]


def peers(
    rounds: int = 5,
    peer_python: str | None = None,
    photos_dir: str | None = None,
    cases: Sequence[dict[str, Any]] = CASES,
) -> Iterator[Entry]:
    """Training steps, a whole training and memory beside PyTorch's, measured in turn.

    Bare steps (forward, backward, update; the mean of the feature as the loss) of the same networks
    on as many views; the RFD step beside one written in PyTorch after the published program; RFD
    end to end, images read and augmented, beside SimCLR of the library lightly; peak memory.
    PyTorch runs in its default and in its channels-last format, compiled too, in float32 and, where
    ours does, in bfloat16; the fastest counts. What the other Python lacks is left out and named.

    Args:
        rounds: how often each is timed.
        peer_python: an interpreter that has torch and torchvision, for end to end lightly too.
        photos_dir: JPEG files for the end-to-end training; synthetic photographs when None.
        cases: networks with their sizes and views.
    """
    if not peer_python:
        return _skip("no --peer_python=PATH to an interpreter with torch and torchvision")
    try:
        with Peer(peer_python) as peer:
            versions = peer.ask("versions")
            yield from _steps(peer, rounds, cases, versions)
            yield from _whole_training(peer, rounds, cases[0], photos_dir)
        yield from _memory(peer_python, cases)
    except PeerError as error:
        return _skip(str(error))


def _skip(reason: str) -> None:
    print(f"  left out: {reason}", file=sys.stderr, flush=True)


def _variants() -> Iterator[tuple[str, dict[str, Any]]]:
    dtypes = ["float32", "bfloat16"] if default_policy() == "mixed_bfloat16" else ["float32"]
    for dtype, (layout, compiled) in itertools.product(
        dtypes, [("nchw", False), ("channels_last", False), ("channels_last", True)]
    ):
        name = f"{layout}{'_compiled' if compiled else ''}_{dtype}"
        yield name, {"layout": layout, "dtype": dtype, "compiled": compiled}


def _built(peer: Peer, kind: str, **arguments: Any) -> Runs:
    """Builds what the peer can of a kind of work, in all its variants."""
    runs: Runs = {}
    for name, variant in _variants():
        try:
            peer.ask("build", key=name, kind=kind, **arguments, **variant)
        except PeerError as error:
            _skip(f"{kind} {name}: {error}")
            continue
        runs[name] = lambda name=name: peer.ask("run", key=name)
    return runs


def _beside(ours: Callable[[], object], theirs: Runs, rounds: int) -> tuple[float, dict[str, Any]]:
    """Returns the fastest peer's time / ours, and all times in milliseconds."""
    seconds = alternate({"ours": ours, **theirs}, rounds)
    best = min(theirs, key=lambda name: statistics.median(seconds[name]))
    times = {f"{name}_ms": milliseconds(taken) for name, taken in seconds.items()}
    return paired_ratio(seconds[best], seconds["ours"]), {"best_peer": best, **times}


def _steps(
    peer: Peer, rounds: int, cases: Sequence[dict[str, Any]], versions: dict[str, Any]
) -> Iterator[Entry]:
    ratios = []
    for case in cases:
        network, size, views = case["backbone"], case["image_size"], case["views"]
        shape = {"name": network, "image_size": size, "views": views}
        step = MethodStep(network, size, views // 4, ROWS)
        for kind, ours in {"step": BareStep.beside(step), "rfd": step}.items():
            theirs = _built(peer, kind, **shape, **({"rows": ROWS} if kind == "rfd" else {}))
            if not theirs:
                continue
            ratio, times = _beside(ours, theirs, rounds)
            peer.ask("drop")
            if kind == "step":
                ratios.append(ratio)
            yield Entry(
                f"peers/{kind}/{network}",
                ratio,
                f"PyTorch's {'bare' if kind == 'step' else 'RFD'} step / ours, {network} at "
                f"{size}, {views} views",
                unit="times",
                at_least=STEP_BAR if kind == "step" else None,
                details={**times, "policy": step.policy, **versions},
            )
    if len(ratios) > 1:
        yield Entry(
            "peers/step/mean",
            float(np.exp(np.mean(np.log(ratios)))),
            f"geometric mean of the bare steps of {len(ratios)} networks",
            unit="times",
            at_least=MEAN_BAR,
        )


def _whole_training(
    peer: Peer, rounds: int, case: dict[str, Any], photos_dir: str | None
) -> Iterator[Entry]:
    network, size, views = case["backbone"], case["image_size"], case["views"]
    with tempfile.TemporaryDirectory(prefix="rfd_tf_peers_") as made:
        if photos_dir is None:
            write_photographs(Path(made), count=views)
        folder = photos_dir or made
        shape = {"name": network, "image_size": size, "views": views, "folder": folder}
        theirs = _built(peer, "simclr", **shape)
        if not theirs:
            return
        ratio, times = _beside(Training(folder, network, size, views), theirs, rounds)
    peer.ask("drop")
    yield Entry(
        "peers/end_to_end",
        ratio,
        f"views a second of RFD's recipe / of lightly's SimCLR, images read from JPEG files, "
        f"{network} at {size}, {views} views a step",
        unit="times",
        at_least=END_TO_END_BAR,
        details=times,
    )


class Training:
    """RFD as the command trains it, by its recipe, on a folder; a call is one step.

    Args:
        folder: JPEG files.
        backbone, image_size: what is trained, pixels.
        views: of a step; a quarter as many images.
    """

    def __init__(self, folder: str, backbone: str, image_size: int, views: int):
        source = image_folder(folder)
        batch = views // 4
        given = {"batch_size": batch, "epochs": 1}
        recipe = recipes.recommended(
            "rfd", image_size=image_size, num_images=len(source), given=given
        )
        names = ("crop", "crops", "color_jitter", "grayscale")
        stream = source.train_dataset(
            image_size=image_size,
            batch_size=min(batch, len(source)),
            crop_area=(recipe["crop_area_min"], 1.0),
            **{name: recipe[name] for name in names},
        )
        self.step = MethodStep(
            backbone,
            image_size,
            batch,
            len(source),
            crops=recipe["crops"],
            **{
                name: recipe[name]
                for name in (
                    "temperature", "projection_hidden", "projection_dimensions",
                    "instance_loss", "lambda_contrast", "lambda_instance",
                )
            },
        )  # fmt: skip
        self.batches = iter(stream.prefetch(2))

    def __call__(self) -> float:
        return float(self.step.function(next(self.batches))["loss"])


def _memory(python: str, cases: Sequence[dict[str, Any]]) -> Iterator[Entry]:
    for case in cases:
        network, size, views = case["backbone"], case["image_size"], case["views"]
        theirs = {}
        for name, variant in _variants():
            if variant["compiled"]:
                continue  # a compiler in the same process is no part of training
            with Peer(python) as peer:
                shape = {"name": network, "image_size": size, "views": views}
                theirs[name] = peer.ask("growth", steps=3, **shape, **variant)
        ours, _ = measuring.peak_growth_and_result(
            "research.benchmarks.peers:train", {"steps": 3, **case}
        )
        yield Entry(
            f"peers/memory/{network}",
            ours / min(theirs.values()),
            f"peak memory of training / PyTorch's least, {network} at {size}, {views} views",
            unit="times",
            at_most=MEMORY_BAR,
            details={
                "ours_mib": ours // 2**20,
                **{f"{name}_mib": bytes_ // 2**20 for name, bytes_ in theirs.items()},
            },
        )


def train(steps: int, backbone: str, image_size: int, views: int) -> None:
    """Runs the bare step of a network on random views, without a method around it."""
    import tensorflow as tf

    from rfd_tf import applications
    from rfd_tf.training.pretraining import dtype_policy

    with dtype_policy(default_policy()):
        model = applications.build(backbone, image_size, pooling="avg")
    step = BareStep(model, tf.random.normal((views, image_size, image_size, 3)))
    for _ in range(steps):
        step()
