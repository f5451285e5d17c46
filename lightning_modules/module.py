"""The LightningModule of a cell: convzoo's `Classifier`, or the user's own."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_modules.config.objects import TARGET, call, maker, takes
from lightning_modules.config.schema import CellSpec
from lightning_modules.losses import make_loss
from zoo.errors import ConvzooError


def make_module(spec: CellSpec, network: dict[str, Any], folder: Path) -> LightningModule:
    """Returns the cell's LightningModule.

    Args:
        spec: The cell.
        network: Arguments of `zoo.build`, as plain values.
        folder: The run's folder.

    Raises:
        ConvzooError: It cannot be made, or keeps no network under ``net``.
    """
    smoothing = spec.optim.label_smoothing or 0.0
    offered = {
        "network": network,
        "optim": spec.optim.plain(),
        "micro_batch": spec.hardware.micro_batch,
        "loss": make_loss(spec.loss.name, spec.loss.options, smoothing),
    }
    build = maker("module", spec.module, folder)
    known, further = takes(build)
    more = {key: value for key, value in offered.items() if further or key in known}
    module = call("module", spec.module, build, LightningModule, **more)
    if not isinstance(getattr(module, "net", None), nn.Module):
        raise ConvzooError(
            f"module: {spec.module[TARGET]} keeps no network under net. Write self.net = zoo.build(**network)."
        )
    if type(module).forward is LightningModule.forward:
        raise ConvzooError(f"module: {spec.module[TARGET]} has no forward, which maps images to logits.")
    # zoo.load, export and quantize read these from the checkpoint.
    module.save_hyperparameters({"network": network}, logger=False, frame=inspect.currentframe())
    return module
