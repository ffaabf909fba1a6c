"""Starts real worker processes on this machine; what they run when called by themselves."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ROOT / "scripts" / "pretrain.py"
TIMEOUT = 280


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_workers(*commands):
    """Runs one command a worker, together; returns `[(exit code, stdout, stderr)]`.

    A worker that hangs is killed and fails the test.
    """
    import warm_python  # (which this file does not find when it is itself what workers run)

    addresses = [f"localhost:{port}" for port in free_ports(len(commands))]
    processes = []
    for index, command in enumerate(commands):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(ROOT),
        }
        processes.append(
            subprocess.Popen(
                [*warm_python.command(), *map(str, command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, *output) for process, output in zip(processes, outputs, strict=True)
    ]


def die_in_step(number):
    """Runs pretrain.py with the remaining arguments; SIGKILLs the process before a step."""
    from rfd_tf.cli import common, pretrain
    from rfd_tf.training import loop

    make, calls = loop.make_step_function, []

    def make_mortal(strategy, step, steps=1):
        function = make(strategy, step, steps)

        def run(iterator):
            calls.append(0)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(iterator)

        return run

    loop.make_step_function = make_mortal
    common.run(pretrain.main)


def report_shards(directory, tfds_dir):
    """Prints as JSON which indices this worker and all workers together train on."""
    import tensorflow as tf

    from rfd_tf import data
    from rfd_tf.data import pipeline
    from rfd_tf.errors import UserError
    from rfd_tf.layers import replicas
    from rfd_tf.training import loop
    from rfd_tf.training import strategy as strategies

    strategy = strategies.build("multiworker")
    report = {"agreed": strategies.agree(strategy, 7 + strategies.worker(strategy)[0])}
    for mine in ("the same", strategies.worker(strategy)[0]):
        try:
            strategies.check_same(strategy, {"number of images": 12, "seed": mine})
            report["differs"] = ""
        except UserError as error:
            report["differs"] = str(error)
    sources = {
        "folder": data.load(data_dir=directory),
        # (Without the cache the records are streamed.)
        "tfds": data.tfds("shard_images", tfds_dir=tfds_dir, cache_bytes=0),
    }
    for name, source in sources.items():
        dataset = pipeline.training_dataset(
            source, image_size=8, batch_size=6, seed=3, shard=strategies.worker(strategy)
        )

        def gather(batch):
            index = tf.cast(batch["index"], tf.int32)
            return index, replicas.gather(index)

        function = loop.make_step_function(strategy, gather)
        iterator = iter(loop.distribute(strategy, dataset))
        steps = [function(iterator) for _ in range(4)]
        report[name] = [[part.numpy().tolist() for part in step] for step in steps]
    print(json.dumps(report))


if __name__ == "__main__":
    task = sys.argv.pop(1)
    if task == "die_in_step":
        die_in_step(int(sys.argv.pop(1)))
    else:
        report_shards(*sys.argv[1:])
