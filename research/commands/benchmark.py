"""Measures how fast training and inference are on this machine, as ratios.

    python scripts/benchmark.py --output=benchmark.json
    python scripts/benchmark.py --only=overhead,bank

Each ratio is of two things measured in turn (A, B, A, B, ...) in one process; it is the median of
the quotients of neighbours. Nothing else should run meanwhile. Exit code: 0 when every bar holds,
1 when one does not.
"""

from __future__ import annotations

import json
import math
import sys
import time

from absl import flags

from rfd_tf.cli import common, path_flags

BAR_MISSED = 1

flags.DEFINE_list("only", [], "Benchmarks to run; all when empty. Names stand in the table.")
path_flags.DEFINE_path("output", None, "A JSON file to write: a list of {name, value, bar, holds}.")
flags.DEFINE_bool("markdown", False, "Print the table in Markdown.")
flags.DEFINE_integer("rounds", None, "How often each thing is timed; each benchmark's own if None.")
path_flags.DEFINE_path(
    "photos_dir", None, "A folder of photographs for the pipeline; synthetic ones when None."
)
flags.DEFINE_list(
    "reference_step_ms",
    [],
    "Milliseconds that another program takes for a training step on this machine (AlexNet at 224, "
    "16 images in four views, 4,096 negatives, 1,281,167 rows): in float32, and after a comma in "
    "bfloat16; either may be left empty. Runs the benchmark 'reference'.",
)
path_flags.DEFINE_path(
    "peer_python",
    None,
    "A Python interpreter with torch, torchvision and lightly, for the benchmarks 'peers' and "
    "'time_to_score'; without it peers are left out.",
)
path_flags.DEFINE_path(
    "classes_dir",
    None,
    "A folder with train/ and test/, each with a sub-folder a class, for the benchmark "
    "'time_to_score'; without it that is left out.",
)
flags.DEFINE_bool("tiny", False, "Small sizes, to try the script: the figures mean nothing.")

FLAGS = flags.FLAGS

HEADER = ("benchmark", "value", "bar", "holds", "what it is")


def main() -> None:
    names, options = chosen()
    check_output()
    import tensorflow as tf

    from research.benchmarks import BENCHMARKS, tiny

    # It warns of every function that is compiled anew; here they are many, by design.
    tf.get_logger().setLevel("ERROR")
    entries = []
    for name in names:
        print(f"{name}: {summary(BENCHMARKS[name])}", file=sys.stderr, flush=True)
        arguments = {**(tiny(name) if FLAGS.tiny else {}), **options.get(name, {})}
        if FLAGS.rounds is not None:
            arguments["rounds"] = FLAGS.rounds
        start = time.perf_counter()
        for entry in BENCHMARKS[name](**arguments):
            entries.append(entry)
            print(f"  {entry.name}: {value_text(entry)}", file=sys.stderr, flush=True)
            write(entries)
        print(f"  {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print("\n".join(table(entries)))
    missed = [entry.name for entry in entries if entry.holds is False]
    if missed and not FLAGS.tiny:
        print(f"bars missed: {', '.join(missed)}", file=sys.stderr)
        raise SystemExit(BAR_MISSED)


def chosen() -> tuple[list[str], dict]:
    """The benchmarks to run, and the arguments that flags give them; refuses unknown names."""
    from research.benchmarks import BENCHMARKS
    from rfd_tf.errors import UserError, unknown

    if FLAGS.rounds is not None and FLAGS.rounds < 1:
        raise UserError(f"--rounds={FLAGS.rounds} must be at least 1")
    options: dict[str, dict] = {}
    reference = reference_times()
    if reference:
        options["reference"] = {"reference_ms": reference}
    if FLAGS.photos_dir:
        options["pipeline"] = {"photos_dir": FLAGS.photos_dir}
    options["peers"] = {"peer_python": FLAGS.peer_python, "photos_dir": FLAGS.photos_dir}
    options["time_to_score"] = {
        "peer_python": FLAGS.peer_python,
        "classes_dir": FLAGS.classes_dir,
    }
    names = [name.strip() for name in FLAGS.only if name.strip()]
    for name in names:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, BENCHMARKS)
    if "reference" in names and not reference:
        raise UserError("benchmark 'reference' needs the other program's time: --reference_step_ms")
    if not names:
        names = [name for name in BENCHMARKS if name != "reference" or reference]
    return list(dict.fromkeys(names)), options


def reference_times() -> dict[str, float]:
    """The flag --reference_step_ms as milliseconds by precision."""
    from rfd_tf.errors import UserError

    texts = [text.strip() for text in FLAGS.reference_step_ms]
    times = {}
    for precision, text in zip(("float32", "bfloat16"), texts, strict=False):
        if not text:
            continue
        try:
            times[precision] = float(text)
        except ValueError:
            times[precision] = math.nan
    if len(texts) > 2 or not all(math.isfinite(ms) and ms > 0 for ms in times.values()):
        raise UserError(
            "--reference_step_ms takes milliseconds above 0, float32 first and bfloat16 after a "
            f"comma, such as 1600,840; got {','.join(texts)}"
        )
    return times


def check_output() -> None:
    """Refuses an output file that cannot be written, before the measuring."""
    from rfd_tf.errors import UserError

    if not FLAGS.output:
        return
    try:
        with open(FLAGS.output, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise UserError(f"cannot write --output={FLAGS.output}: {error.strerror}") from None


def write(entries) -> None:
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump([entry.as_json() for entry in entries], file, indent=1)
            file.write("\n")


def summary(benchmark) -> str:
    """The first line of a benchmark's docstring."""
    return benchmark.__doc__.strip().splitlines()[0]


def value_text(entry) -> str:
    """The value with its unit, to three digits."""
    digits = max(0, 2 - math.floor(math.log10(abs(entry.value)))) if entry.value else 0
    return f"{entry.value:.{min(digits, 4)}f} {entry.unit}".strip()


def table(entries) -> list[str]:
    """The lines of the table."""
    rows = []
    for entry in entries:
        bar, holds = "", ""
        if entry.bar is not None:
            bar = f"{'<=' if entry.at_most is not None else '>='} {entry.bar:g}"
            holds = "yes" if entry.holds else "no"
        rows.append((entry.name, value_text(entry), bar, holds, entry.meaning))
    if FLAGS.markdown:
        lines = [HEADER, ("---",) * len(HEADER), *rows]
        return ["| " + " | ".join(line) + " |" for line in lines]
    widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in range(len(HEADER))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [HEADER, *rows]
    ]


if __name__ == "__main__":
    common.run(main)
