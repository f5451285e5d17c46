"""Command-line reference: what each command prints with --help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

INTRODUCTION = """# Command line

`python train.py` trains a cell, or a sweep with `-m`; [Configuration](configuration.md) lists its groups and keys.
`python -m zoo` answers questions without training. The texts below are what `--help` prints.
"""


def page() -> str:
    """The page in Markdown."""
    verbs = re.findall(r"^    ([a-z][\w-]*)", output("-m", "zoo", "--help"), re.MULTILINE)
    commands = [("-m", "zoo", verb) for verb in verbs if verb != "train"]
    parts = [INTRODUCTION]
    for command in commands:
        parts += [f"## `python {' '.join(command)}`\n", f"```text\n{output(*command, '--help').strip()}\n```\n"]
    return "\n".join(parts)


def output(*arguments: str) -> str:
    """What a command prints, in a terminal of 100 columns.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    environment = os.environ | {"COLUMNS": "100", "PYTHONUTF8": "1"}
    words = [sys.executable, *arguments]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
