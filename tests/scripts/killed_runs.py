"""Runs scripts/pretrain.py several times, and kills or disturbs each run at a chosen point.

    python killed_runs.py JSON

The JSON is a list of {"arguments": [...], "output": FILE, "at": {POINT: NUMBER}}. Each run is a
forked process, for the imports take longer than the training; it does to itself what POINT says.
Prints the exit statuses as subprocess has them: -9 for SIGKILL.
"""

import json
import os
import resource
import signal
import sys


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after_call(module, name, number, act):
    """Acts after the `number`-th call of a function."""
    function, calls = getattr(module, name), []

    def counted(*arguments, **named):
        result = function(*arguments, **named)
        calls.append(1)
        if len(calls) == number:
            act()
        return result

    setattr(module, name, counted)


def at_step(number, act):
    from rfd_tf.training import callbacks

    function = callbacks.Checkpoint.on_train_batch_end

    def watched(self, batch, logs=None):
        function(self, batch, logs)
        if batch + 1 == number:
            act()

    callbacks.Checkpoint.on_train_batch_end = watched


def before_rename_of(module, number, act):
    """Acts when a checkpoint of step `number` or later has been written and not yet renamed."""
    replace = os.replace

    def watched(old, new):
        name = os.path.basename(new)
        if name.startswith("step-") and int(name[5:14]) >= number:
            act()
        replace(old, new)

    module.os.replace = watched


def arrange(point, number):
    from rfd_tf.training import callbacks, checkpoint

    if point == "killed after step":
        at_step(number, kill)
    elif point == "terminated in step":
        at_step(number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    elif point == "interrupted in step":
        at_step(number, lambda: os.kill(os.getpid(), signal.SIGINT))
    elif point == "killed in entry":
        after_call(checkpoint, "_write_entry", number, kill)
    elif point == "killed before rename":
        before_rename_of(checkpoint, number, kill)
    elif point == "killed after metrics of epoch":
        after_call(callbacks.MetricsFile, "on_epoch_end", number, kill)
    elif point == "no room after step":
        at_step(number, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
    else:
        raise ValueError(point)


def child(job):
    handle = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from rfd_tf.cli import common, pretrain

    for point, number in job["at"].items():
        arrange(point, number)
    sys.argv = ["pretrain.py", *job["arguments"]]
    common.run(pretrain.main)


def main():
    # Imported once for all; TensorFlow starts its threads later, in each child.
    import keras  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import tensorflow  # noqa: F401

    import rfd_tf.data
    import rfd_tf.evaluation
    import rfd_tf.export
    import rfd_tf.methods
    import rfd_tf.training.pretraining  # noqa: F401

    statuses = []
    for job in json.loads(sys.argv[1]):
        process = os.fork()
        if process == 0:
            code = 99
            try:
                child(job)
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status = os.waitpid(process, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        statuses.append(code)
    print("STATUSES" + json.dumps(statuses))


if __name__ == "__main__":
    main()
