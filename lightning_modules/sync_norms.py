"""``trainer.sync_batchnorm=true``: BatchNorm over the batches of all GPUs, and nothing else changed."""

from __future__ import annotations

import timm.layers
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class SyncNorms(TorchSyncBatchNorm):
    """timm's BatchNorm has the activation in it. Lightning asks PyTorch to replace it, which loses that activation."""

    def __init__(self) -> None:
        self._stock: dict[str, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        self._stock = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        return timm.layers.convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """The modules that there were, with what the statistics have become; the weights are the same tensors."""
        for name, stock in self._stock.items():
            synchronized = model.get_submodule(name)
            for statistic in STATISTICS:
                setattr(stock, statistic, getattr(synchronized, statistic))
            stock.train(synchronized.training)
            model.set_submodule(name, stock)
        self._stock = {}
        return model
