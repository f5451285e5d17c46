"""``trainer.sync_batchnorm=true``: synchronizes BatchNorm over all GPUs and changes nothing else."""

from __future__ import annotations

import timm.layers
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_modules.hardware.running_stats import NAMES
from zoo.places import places_of


class SyncNorms(TorchSyncBatchNorm):
    """Lightning's SyncBatchNorm plugin with timm's conversion in place of PyTorch's.

    timm's BatchNorm contains the activation, which PyTorch's conversion would lose.
    """

    def __init__(self) -> None:
        self._stock: dict[str, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        places = places_of(model)
        stock = [module for module in places if isinstance(module, _BatchNorm)]
        model = timm.layers.convert_sync_batchnorm(model)
        # timm converts a shared norm separately in each place, or in the first place only: share one result again.
        for module in stock:
            synchronized = model.get_submodule(places[module][0])
            for name in filter(None, places[module]):
                model.set_submodule(name, synchronized)
                self._stock[name] = module
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restores the original modules with the updated statistics; the weights are the same tensors."""
        for name, stock in self._stock.items():
            synchronized = model.get_submodule(name)
            for statistic in NAMES:
                setattr(stock, statistic, getattr(synchronized, statistic))
            stock.train(synchronized.training)
            model.set_submodule(name, stock)
        self._stock = {}
        return model
