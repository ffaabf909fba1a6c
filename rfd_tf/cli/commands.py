"""The names of the commands, and printing that survives a closed pipe."""

from __future__ import annotations

import os
import sys

#: Command -> the module with its `main`, its flags and, as docstring, its description.
COMMANDS = {
    name: f"rfd_tf.cli.{name.replace('-', '_')}"
    for name in (
        "pretrain",
        "evaluate",
        "embed",
        "duplicates",
        "export",
        "push",
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
    """Prints a text; a reader such as `head` may close the pipe before its end.

    >>> show("text")
    text
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would report the closed pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
