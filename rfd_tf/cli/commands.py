"""The names of the commands, and how a text is shown."""

from __future__ import annotations

import os
import sys

#: Command -> the module that has its `main`, its flags and, in its docstring, what it does.
COMMANDS = {
    name: f"rfd_tf.cli.{name.replace('-', '_')}"
    for name in (
        "pretrain",
        "evaluate",
        "embed",
        "export",
        "report",
        "explore",
        "estimate-pu",
        "saliency",
        "import-torch",
        "import-caffe",
        "shard",
        "info",
    )
}


def show(text: str) -> None:
    """Prints a text that a reader such as `head` may not want to the end.

    >>> show("text")
    text
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would report the same again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
