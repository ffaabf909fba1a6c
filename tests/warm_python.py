"""Runs Python as `sys.executable` does, with TensorFlow and Keras imported already.

Importing them takes longer than most calls of a command. One process per test session imports
them once; for each call it forks a child, which takes over the caller's arguments, environment,
working folder and standard streams. `rfd_tf` is not imported before the fork.

    subprocess.run([*warm_python.command(), "-c", "import keras"])

behaves as with `sys.executable` in place of `command()`: exit codes, signals and time limits
too. Only the process id is another one, and modules are not taken apart at the end, which takes
a second. Where the environment differs in more than `_LATE`, a fresh process is started instead.
"""

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys

# Variables that nothing reads while it is imported. Any other difference takes a fresh process.
_LATE = {
    "COLUMNS", "CUDA_VISIBLE_DEVICES", "HOME", "LINES", "PYTEST_CURRENT_TEST", "PYTHONPATH",
    "TF_CONFIG",
}  # fmt: skip
# What commands import, but for onnxruntime and pyarrow: these start threads, which no fork keeps.
_IMPORTS = """
tensorflow keras matplotlib.pyplot sklearn.datasets sklearn.linear_model sklearn.cluster onnx
jinja2 tensorboard.summary tqdm tensorflow_datasets
"""
_ENVIRONMENT = dict(os.environ)
try:
    os.close(os.pidfd_open(os.getpid()))
    FORKS = True
except (AttributeError, OSError):  # not Linux, or an old one
    FORKS = False
_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_FRESH = b"fresh\n"


@functools.cache
def command():
    """Returns how to call the interpreter. The first call starts the warm process."""
    if not FORKS:
        return [sys.executable]
    address = f"warm-python-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + address)
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            # The server ends when its input closes, which is when this process ends. Its output
            # is a pipe as that of most calls is: Python prepares its streams for what they are.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    atexit.register(server.communicate)
    return [sys.executable, "-IS", __file__, address]


def _call(address, *arguments):
    """Stands in for the process that was asked for: waits for the forked one."""

    def run_fresh():
        os.execv(sys.executable, [sys.executable, *arguments])

    if arguments[0].startswith("-") and arguments[0] not in ("-c", "-m"):
        run_fresh()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect("\0" + address)
    except OSError:
        run_fresh()
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(request)
    handlers = {
        number: signal.signal(number, lambda number, _: connection.send(bytes([number])))
        for number in _FORWARDED
    }
    answer = connection.makefile("rb").readline()
    if answer == _FRESH:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        run_fresh()
    code = int(answer or -signal.SIGKILL)
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _serve(listener):
    """Forks a child for each call; returns, in the child, the arguments of the call."""
    import contextlib
    import gc
    import importlib
    import select

    for name in _IMPORTS.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    running, calls = {}, {}  # child by the descriptor that shows its end; and by its caller's
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(listener, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                os._exit(0)
            elif descriptor == listener.fileno():
                connection = listener.accept()[0]
                (arguments, folder, environment), streams = _receive(connection)
                different = {*environment.items()} ^ {*_ENVIRONMENT.items()}
                if not {name for name, _ in different} <= _LATE:
                    connection.sendall(_FRESH)
                    child = None
                else:
                    child = os.fork()
                if child == 0:
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    for opened in (*streams, *running, listener.detach(), connection.detach()):
                        os.close(opened)
                    for other, _ in calls.values():
                        other.close()
                    os.environ.clear()
                    os.environ.update(environment)
                    os.chdir(folder)
                    return arguments
                for stream in streams:
                    os.close(stream)
                if child:
                    ended = os.pidfd_open(child)
                    running[ended] = child, connection
                    calls[connection.fileno()] = connection, child
                    poller.register(ended, select.POLLIN)
                    poller.register(connection, select.POLLIN)
            elif descriptor in running:
                child, connection = running.pop(descriptor)
                poller.unregister(descriptor)
                os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if connection.fileno() in calls:
                    poller.unregister(connection)
                    calls.pop(connection.fileno())
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % code)
                connection.close()
            elif descriptor in calls:
                connection, child = calls[descriptor]
                number = connection.recv(1)
                os.kill(child, number[0] if number else signal.SIGKILL)
                if not number:
                    poller.unregister(descriptor)
                    calls.pop(descriptor)


def _receive(connection):
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as reader:
        return json.loads(reader.read(int.from_bytes(size, "big"))), streams


def _run(arguments):
    """Runs what the interpreter is called with, in the module `__main__`."""
    import runpy
    import types

    import numpy as np

    np.random.seed()  # (Python seeds its own generator anew after a fork.)
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[1:1] = [path for path in map(os.path.abspath, given) if path not in sys.path]
    kind, *rest = arguments
    if kind == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        code = compile(rest[0], "<string>", "exec")
    else:
        main.__file__ = os.path.abspath(kind)
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.realpath(kind))
        with open(kind, "rb") as file:
            code = compile(file.read(), main.__file__, "exec")
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _end(arguments):
    """Runs a call and ends the process as the interpreter does."""
    import threading

    code = 0
    try:
        _run(arguments)
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _call(*sys.argv[1:])
    _end(_serve(socket.socket(fileno=int(sys.argv[1]))))
