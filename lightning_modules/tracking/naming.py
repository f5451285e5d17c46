"""Names of a run: for people, for grouping over seeds, and for W&B's server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

VALUES = ("model", "variant", "conv", "between", "act", "init", "data", "hardware", "optim")
NUMBERS = {"phi": "phi", "depth": "depth", "width": "width", "resolution": "resolution", "match": "match="}
NUMBERS |= {"groups": "groups", "group_size": "groupsize", "init_rank": "rank", "lr": "lr", "weight_decay": "wd"}


def run_name(cell: dict[str, Any]) -> str:
    """Return a name that lists a cell's choices, the seed last, so that a sweep's jobs have different names."""
    left_out = {"depth", "width", "resolution"} if "phi" in cell else set()
    left_out |= {"init"} if cell.get("init") == "random" else set()
    parts = []
    for key, value in cell.items():
        if (key in VALUES or key in NUMBERS) and key not in left_out:
            parts.append(NUMBERS.get(key, "") + (f"{value:.4g}" if isinstance(value, float) else str(value)))
    return "-".join([*parts, f"seed{cell['seed']}"])


def cell_name(cell: dict[str, Any]) -> str:
    """Return backbone, convolution and activation as one column, for grouping over seeds."""
    return " ".join(str(cell[key]) for key in ("model", "variant", "conv", "act") if key in cell)


def run_id(cell: dict[str, Any], folder: Path) -> str:
    """Return an id that depends only on cell and folder, so that a restarted run continues its W&B run.

    It starts with a letter, since digits with a single ``e`` would be read as a float.
    """
    content = json.dumps([cell, str(folder.resolve())], sort_keys=True)
    return "c" + hashlib.sha256(content.encode()).hexdigest()[:12]
