"""A cell's choices as flat columns, for result.json, reports and W&B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_modules.config.identity import USUAL
from lightning_modules.config.objects import TARGET
from lightning_modules.config.scaling import scale_columns
from lightning_modules.config.schema import MODULE, CellSpec
from zoo.backbones.families import FAMILIES

BARE = ("between", "groups", "group_size")
"""Options whose column has no prefix."""


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def _option_columns(axis: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a registered choice that differ from the usual; with their axis unless well known."""
    return {
        key if key in BARE else f"{axis}_{key.strip('_')}": value if isinstance(value, (int, float)) else str(value)
        for key, value in options.items()
        if value is not None and (f"{axis}.{key}", value) not in USUAL
    }


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
        **_option_columns("conv", spec.conv.options),
        "act": spec.act.name,
        **_option_columns("act", spec.act.options),
        "hardware": hardware,
        "plan": _unless(spec.hardware.plan, "auto"),
        "micro_batch": spec.hardware.micro_batch,
        "data": data.name,
        "train_images": data.train_images,
        "val_share": data.val_share,
        "augment": _unless(spec.augment.name, "none"),
        **_option_columns("augment", spec.augment.options),
        "seed": spec.seed,
        "stem": model.stem,
        "pretrained": str(model.pretrained).lower(),
        "init": init.name,
        "init_checkpoint": init.checkpoint,
        "init_rank": init.rank,
        "image_size": data.image_size and data.image_size.column,
        "batch_size": data.batch_size,
        "epochs": spec.trainer.max_epochs,
        "optim": optim.name,
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        **_option_columns("optim", optim.options),
        "loss": _unless(spec.loss.name, "cross_entropy"),
        **_option_columns("loss", spec.loss.options),
        "module": _unless(spec.module[TARGET], MODULE),
        "callbacks": "+".join(spec.callbacks) or None,
    }
    if model.name in FAMILIES and model.phi is None and cell["variant"] is None:
        cell["variant"] = next(iter(FAMILIES[model.name].variants))
    texts = ("variant",)
    return {k: str(v) if k in texts else v for k, v in cell.items() if v is not None}
