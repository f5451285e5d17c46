"""Finds the finished result of an earlier run in a folder, which is never overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.config.columns import columns
from lightning_modules.config.identity import cell_id, recipe, shown_differences
from lightning_modules.config.schema import CellSpec
from lightning_modules.results.result import FILE, read_result
from zoo.errors import ConvzooError
from zoo.log import log
from zoo.ranks import global_rank
from zoo.text import typed

ALSO_IN_RECIPE = ("data", "epochs", "batch_size", "optim", "lr", "weight_decay", "image_size")


def finished_before(spec: CellSpec, folder: Path, hardware: str) -> dict[str, Any] | None:
    """Returns the result of this run if it has already completed in this folder, else None.

    Args:
        spec: The run's cell.
        folder: The run's folder.
        hardware: The resolved hardware choice: ``cpu``, ``gpu`` or ``ddp``.

    Raises:
        ConvzooError: The folder has the finished result of a run with another configuration; the text lists the
            differences.
    """
    result = _read(folder)
    if result.get("status") == "completed":
        if result.get("id") == cell_id(spec):
            log.info(f"{typed(folder)} already holds the result of this run. To train again: rm {typed(folder / FILE)}")
            return result
        different = _differences(result, spec, hardware) or f"id: {result.get('id')} there, {cell_id(spec)} here"
        raise ConvzooError(
            f"{typed(folder)} holds the result of a run with another configuration ({different}). Choose another "
            f"hydra.run.dir, or delete that result: rm {typed(folder / FILE)}"
        )
    return None


def _read(folder: Path) -> dict[str, Any]:
    """Reads a result; empty if there is none. Renames an unusable one, reports it, and returns an empty result."""
    try:
        return read_result(folder)
    except ValueError as problem:
        path, kept = folder / FILE, folder / f"{FILE}.unreadable"
        if global_rank() == 0:
            path.replace(kept)
            log.warning(f"{typed(path)} cannot be used ({problem}); renamed to {kept.name}.")
        return {}


def _differences(result: dict[str, Any], spec: CellSpec, hardware: str) -> str:
    there, here = result["cell"], columns(spec, hardware)
    choices = [key for key in here if key not in ALSO_IN_RECIPE]
    shared = result.get("recipe") if isinstance(result.get("recipe"), dict) else {}
    return shown_differences(
        {**{key: there[key] for key in choices if key in there}, **shared},
        {**{key: here[key] for key in choices}, **recipe(spec)},
    )
