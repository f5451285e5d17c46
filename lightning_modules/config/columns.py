"""A cell's choices as flat columns, for result.json, reports and W&B."""

from __future__ import annotations

from typing import Any

from lightning_modules.config.scaling import scale_columns
from lightning_modules.config.schema import CellSpec
from zoo.backbones.families import FAMILIES


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def columns(spec: CellSpec, hardware: str) -> dict[str, str | int | float]:
    """Returns the choices of a run as flat strings and numbers: ``cell`` of result.json, and the columns of W&B.

    Args:
        spec: The cell.
        hardware: The resolved hardware choice: ``cpu``, ``gpu`` or ``ddp``.
    """
    model, data, optim, init = spec.model, spec.data, spec.optim, spec.init
    cell = {
        "task": _unless(spec.task, "train"),
        "model": model.name,
        "variant": None if model.phi is not None else model.variant,
        "phi": model.phi,
        **scale_columns(spec),
        "match": model.match,
        "match_over": _unless(model.match_over, "width"),
        "conv": spec.conv.name,
        "between": _unless(spec.conv.between, "none"),
        "groups": spec.conv.groups,
        "group_size": spec.conv.group_size,
        "act": spec.act.name,
        "hardware": hardware,
        "plan": _unless(spec.hardware.plan, "auto"),
        "micro_batch": spec.hardware.micro_batch,
        "data": data.name,
        "seed": spec.seed,
        "stem": model.stem,
        "pretrained": str(model.pretrained).lower(),
        "init": init.name,
        "init_checkpoint": init.checkpoint,
        "init_rank": init.rank,
        "image_size": data.image_size,
        "batch_size": data.batch_size,
        "epochs": spec.trainer.max_epochs,
        "optim": optim.name,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
    }
    if model.name in FAMILIES and model.phi is None and cell["variant"] is None:
        cell["variant"] = next(iter(FAMILIES[model.name].variants))
    texts = ("variant",)
    return {k: str(v) if k in texts else v for k, v in cell.items() if v is not None}
