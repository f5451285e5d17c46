"""Rejects command lines that contain secrets, since they are stored in files, logs and W&B."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from zoo.errors import ConvzooError

NAMED = re.compile(
    r"(?<![a-z])(api_?key|access_?key|secret|secret_?key|private_?key|token|password|passwd|pwd|credentials?)[\"']?"
    r"\s*[:=]\s*[\"']?(?!null\b)[^\s\"',}]",
    re.IGNORECASE,
)
"""Assignments to a name that denotes a secret."""

FORMS = re.compile(
    r"(?<![0-9A-Za-z/])("
    r"[0-9a-f]{40}"  # W&B's old format; between slashes it is a folder named after a commit
    r"|wandb_v\d_\w+"
    r"|hf_[0-9A-Za-z]{30,}"  # Hugging Face
    r"|gh[pousr]_[0-9A-Za-z]{30,}|github_pat_\w{30,}"
    r"|sk-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}"  # Amazon
    r")(?![0-9A-Za-z/])"
    r"|\w://[^/\s:@]*:[^/\s@]+@"  # a password in an address
)
"""Secrets recognizable by their format."""


SHORTEST = 16
"""Minimum length of ``WANDB_API_KEY`` to search for; a shorter value, as in a test, may match ordinary words."""


def check_secrets(arguments: Sequence[str]) -> None:
    """Rejects a command line that contains a key, a token or a password, before any of it is written.

    Args:
        arguments: The words of the command line.

    Raises:
        ConvzooError: One of them looks like a secret; the text does not repeat it.
    """
    key_here = os.environ.get("WANDB_API_KEY", "")
    for number, argument in enumerate(arguments, 1):
        if NAMED.search(argument) or FORMS.search(argument) or (len(key_here) >= SHORTEST and key_here in argument):
            raise ConvzooError(
                f"argument {number} looks like it has a key, a token or a password in it. It would be written into the "
                "run's files and sent to W&B, so nothing was started. Leave it out here: type wandb login once, or set "
                "an environment variable (WANDB_API_KEY for W&B). Your shell's history may have it now."
            )
