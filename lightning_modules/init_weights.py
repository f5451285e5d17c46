"""Initial weights of a cell: random, or converted from a trained dense network in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import nn

import zoo
from lightning_modules.config.schema import InitOptions
from zoo.deploy.checkpoint import read_checkpoint
from zoo.errors import ConvzooError

DENSE = ("native", "standard")
FREE = ("conv", "conv_options", "act", "act_options", "pretrained", "ranks")
"""Arguments of `zoo.build` that may differ between a cell and the dense network it starts from."""

BATCHES = 100
"""Maximum number of training batches for re-estimating BatchNorm statistics."""


class InitWeights(Callback):
    """Initializes the weights of a cell's network.

    With ``svd``, the constructor converts the trained dense network. As a callback, it re-estimates the BatchNorm
    statistics before fitting, on the augmented training data of rank 0.

    Args:
        init: The init group of the configuration, checked.
        network: The cell's network: arguments of `zoo.build`.

    Attributes:
        network: The same arguments, plus the ranks of the converted network if they differ from the conv kind's own.
            ``pretrained`` is off after a conversion, so that nothing is downloaded twice.
        metrics: ``init/energy_min`` and ``init/energy_mean``: the minimum and mean over the converted layers of the
            fraction of a layer's squared weights that its factors retain. Empty if nothing was converted.

    Raises:
        ConvzooError: The dense network does not match the cell, or cannot be converted.
    """

    def __init__(self, init: InitOptions, network: dict[str, Any]) -> None:
        self.network, self.metrics = network, {}
        self._weights: dict[str, torch.Tensor] | None = None
        self._converts = init.name == "svd"
        if not self._converts:
            return
        if init.checkpoint is None:
            dense = zoo.build(**{**network, "conv": "native", "conv_options": None})
        else:
            dense = _from_checkpoint(init.checkpoint, network)
        report = zoo.convert(dense, network["conv"], init.rank)
        self._weights = dense.state_dict()
        self.network = {**network, "pretrained": False}
        if init.rank is not None and report.ranks:
            self.network["ranks"] = report.ranks
        if report.rewritten:
            self.metrics = {"init/energy_min": report.energy_min, "init/energy_mean": report.energy_mean}

    def fill(self, net: nn.Module) -> None:
        """Loads the converted weights into ``net``, the network that `network` describes; no-op for ``random``.

        Raises:
            ConvzooError: The cell's network and the converted one differ in structure.
        """
        if self._weights is None:
            return
        try:
            net.load_state_dict(self._weights)
        except RuntimeError as error:
            raise ConvzooError(
                "init=svd: the weights of the converted network do not fit this cell, which may have no module between "
                f"the factors and no other activations with weights. {str(error).strip().splitlines()[1].strip()}"
            ) from None
        self._weights = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # A resumed run has its statistics in the checkpoint.
        if self._converts and trainer.ckpt_path is None:
            with trainer.precision_plugin.forward_context():
                zoo.reestimate_batchnorm(pl_module.net, _training_images(trainer, pl_module.device))


def _training_images(trainer: Any, device: torch.device) -> Iterator[torch.Tensor]:
    """Yields the first training batches as a training step sees them: on the device, augmented, in its precision."""
    data = trainer.datamodule
    for batch in islice(data.train_dataloader(), BATCHES):
        on_device = data.transfer_batch_to_device(batch, device, 0)
        yield trainer.precision_plugin.convert_input(data.on_after_batch_transfer(on_device, 0)[0])


def _from_checkpoint(path: str, network: dict[str, Any]) -> nn.Module:
    trained = read_checkpoint(path)
    dense = trained.network
    different = [k for k in sorted({*dense, *network} - {*FREE}) if dense.get(k) != network.get(k)]
    if different:
        what = ", ".join(f"{k}={dense.get(k)} there and {network.get(k)} here" for k in different)
        raise ConvzooError(f"init.checkpoint={path} holds a different network: {what}.")
    if dense["conv"] not in DENSE:
        raise ConvzooError(
            f"init.checkpoint={path} has conv={dense['conv']}. init=svd starts from a dense network: "
            f"conv={' or '.join(DENSE)}."
        )
    return trained.net
