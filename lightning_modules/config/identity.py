"""Run identity: the hash of a cell, and the recipe it shares with comparable runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_modules.config.schema import FROM_FILES, MODULE, CellSpec
from zoo.cache import digest

USUAL: tuple[tuple[str, Any], ...] = (
    ("task", "train"),
    ("hardware.micro_batch", None),
    ("conv.between", "none"),
    ("conv.rank", 1),
    ("conv.rank", None),
    ("data.train_images", None),
    ("data.val_share", None),
    ("data.test_share", None),
    ("data.classes", None),
    ("augment.name", "none"),
    ("loss.name", "cross_entropy"),
    ("module._target_", MODULE),
    ("callbacks", {}),
)
"""Keys at the value that changes nothing; a key that was added later is left out of the identity at that value."""

WHERE = (
    "plugins",
    "log",  # and logger.
    "sweep.",
    "checkpoint.",
    "hardware.threads",
    "hardware.timeout_s",
    "data.download",
    "data.workers",
    "data.check",
    "data.max_bad_images",
    "optim.bad_step",  # applies only to runs that would otherwise have no result
    "optim.max_skipped",
    "trainer.enable_progress_bar",
    "trainer.max_time",
    "trainer.log_every_n_steps",
    "trainer.profiler",
)
"""Prefixes of keys that say where and how a run executes, without changing its result."""

CHOICES = ("model.", "scale.", "conv.", "act.", "init.", "hardware.", "seed")
"""The axes of the zoo: prefixes of keys in which runs of one recipe may differ."""

MOST_SHOWN = 12
"""Maximum number of differences listed in a message."""

_NOTHING = object()

DEVICES = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.benchmark")


def cell_id(spec: CellSpec) -> str:
    """Returns a short identifier of a cell, equal for two runs that must give the same result.

    It starts with a letter, since digits with a single ``e`` would be parsed as a float.
    """
    return "c" + digest(dict(_result_matters(spec.plain())))[:11]


def recipe(spec: CellSpec) -> dict[str, Any]:
    """Returns, as a flat dict, everything that runs must share to be ranked together: data, optimizer, epochs …"""
    return {
        key: value
        for key, value in _result_matters(spec.plain())
        if not key.startswith((*CHOICES, *DEVICES)) and key != "data.image_size"
    }


def differences(there: Mapping[str, Any], here: CellSpec) -> str:
    """Returns the differences that affect the result, as text: ``optim.lr: 0.003 there, 0.1 here``.

    Args:
        there: Another cell as plain values, read from a file.
        here: This cell.
    """
    old, new = dict(_result_matters(there)), dict(_result_matters(here.plain()))
    return shown_differences(old, new)


def shown_differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Returns the differences between two flat mappings as text; a missing key is shown as ``nothing``."""
    keys = [key for key in {**there, **here} if there.get(key, _NOTHING) != here.get(key, _NOTHING)]
    texts = [f"{key}: {_shown(there.get(key, _NOTHING))} there, {_shown(here.get(key, _NOTHING))} here" for key in keys]
    more = f" and {len(texts) - MOST_SHOWN} more" if len(texts) > MOST_SHOWN else ""
    return "; ".join(texts[:MOST_SHOWN]) + more


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every key of a tree of plain values, as the user types it (dotted), with its value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    return "nothing" if value is _NOTHING else json.dumps(value, ensure_ascii=False, default=str)[:80]


def _result_matters(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in leaves(tree):
        # data.root is only a location, except for a user's own files, where it identifies the data set.
        data = tree["data"]
        own = data["name"] in FROM_FILES or data.get("source", "").partition("/")[0] in ("wds", "folder")
        elsewhere = key == "data.root" and not own
        usual = (key, value) in USUAL
        if not key.startswith(WHERE) and not elsewhere and not usual:
            yield key, value
