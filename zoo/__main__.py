"""``python -m zoo``: reports, cost tables, golden costs and exports, all without training."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from zoo import __version__, new
from zoo.costs import table_command
from zoo.errors import ConvzooError, choose, closest, plain_words
from zoo.image_size import ImageSize
from zoo.log import LEVELS, set_level
from zoo.plugins import load_plugins
from zoo.report import command as report_command
from zoo.text import clean, typed, use_utf8

ABOUT = "What each choice of an efficient ConvNet costs, and what it gains. VERB --help says more."

COMMANDS = "convzoo.commands"
"""Entry point group for additional verbs: modules with `HELP`, `add_options` and `run`."""


def main(arguments: list[str] | None = None, further: Mapping[str, Any] | None = None) -> int:
    """Runs a verb; returns the exit code.

    Args:
        arguments: The words after the program's name; None for those of this process.
        further: Verbs besides the zoo's own and the installed ones: modules as in `COMMANDS`.
    """
    words = sys.argv[1:] if arguments is None else arguments
    parser, verbs = make_parser(words, further or {})
    if not words or words == ["help"]:
        parser.print_help()
        return 0
    if words[0] == "train":
        return _refuse("this command trains nothing. Type convzoo train …, or python train.py … in a clone.")
    if not words[0].startswith("-") and words[0] not in verbs:
        return _refuse(wrong_verb(words[0], verbs))
    given = parser.parse_args(words)
    try:
        set_level(choose("CONVZOO_LOG", os.environ.get("CONVZOO_LOG", "info"), LEVELS))
        named = [name for name in given.plugins.split(",") if name]
        load_plugins(named, [os.getcwd()] if named else ())
        code = given.run(given) or 0
        if sys.stdout is not None:  # the parent process may have closed it
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe (`… | head`). Without this, Python reports the error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ConvzooError, OSError) as error:
        return _refuse(plain_words(error))


def make_parser(
    words: Sequence[str], further: Mapping[str, Any]
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Returns the parser of a command line, and that of each verb.

    Args:
        words: The command line. An import takes time, so only the named verb is complete, or all if none is named.
        further: As in `main`.
    """
    installed = Path(sys.argv[0]).name == "convzoo"
    parser = argparse.ArgumentParser(prog="convzoo" if installed else "python -m zoo", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"convzoo {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("train", help="train a cell or, with -m, a sweep; train --help lists the keys")
    report = verbs.add_parser("report", help="compare the runs in or below some folders")
    report_command.add_options(report)
    report.set_defaults(run=report_command.run)
    table = verbs.add_parser("table", help="what cells cost, without training one")
    table_command.add_options(table)
    table.set_defaults(run=table_command.run)
    golden = verbs.add_parser("golden", help="count every cell of the zoo again and say what changed")
    golden.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something changed")
    golden.set_defaults(run=_golden)
    export = verbs.add_parser("export", help="write a run's trained network as ONNX or as a torch.export program")
    export.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="best.ckpt of a run")
    export.add_argument("--format", default="onnx", help="onnx (the default) or torch")
    export.add_argument("--output", metavar="FILE", type=Path, help="default: beside the checkpoint")
    export.add_argument("--image-size", metavar="N|HxW", help="default: the run's own")
    export.set_defaults(run=_export)
    modules = {"new": new, **further}
    entries = {entry.name: entry for entry in entry_points(group=COMMANDS)}
    named = set(words[:1]) & {*verbs.choices, *modules, *entries}
    for name in (*modules, *entries):
        if name in named or not named:
            command = modules[name] if name in modules else entries[name].load()
            other = verbs.add_parser(name, help=command.HELP)
            command.add_options(other)
            other.set_defaults(run=command.run)
    for verb in verbs.choices.values():
        verb.add_argument("--plugins", metavar="A,B,…", default="", help="your modules that register further choices")
    return parser, dict(verbs.choices)


def wrong_verb(word: str, verbs: Iterable[str]) -> str:
    """Returns what to type instead of a word that is no verb."""
    guess = closest(word, [*verbs, "help"])
    hint = f" Did you mean {guess}?" if guess else ""
    return clean(f"there is no verb {word}.{hint} Allowed: {', '.join(verbs)}.")


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _golden(given: argparse.Namespace) -> int:
    from zoo.costs import golden

    return golden.run(check=given.check)


def _export(given: argparse.Namespace) -> None:
    from zoo.deploy import export as exporter

    size = None if given.image_size is None else ImageSize.parse(given.image_size)
    path = exporter.export(given.checkpoint, given.output, size, given.format)
    batches = " and ".join(map(str, exporter.CHECKED_BATCHES))
    print(f"{typed(path)}  ({path.stat().st_size / 1e6:.1f} MB)")
    print(
        f"checked on batches of {batches}: logits within {exporter.TOLERANCES[given.format]:.0e} of the eager "
        "network's largest. Input: (N, C, H, W) float32, any N, normalised as in the run's data group."
    )


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
