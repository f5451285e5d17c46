"""A user's own callback, module, loss and augmentation, as a plugin would define them."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule

import lightning_modules
import zoo
from zoo.rules import number


class CountSteps(Callback):
    """Counts optimizer steps over all starts of a run."""

    def __init__(self, path: str, every: int = 1) -> None:
        self.path, self.every, self.steps = path, every, 0

    def on_train_batch_end(self, *_: object) -> None:
        self.steps += 1

    def on_train_end(self, *_: object) -> None:
        with open(self.path, "w") as file:
            file.write(str(self.steps))

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.steps = state_dict["steps"]


class Distilled(LightningModule):
    """A module that shares nothing with convzoo's: plain SGD, and a temperature."""

    def __init__(self, network: dict, temperature: float = 1.0) -> None:
        super().__init__()
        self.net, self.temperature = zoo.build(**network), temperature

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return F.cross_entropy(self.net(batch[0]) / self.temperature, batch[1])

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        self.log("val/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        self.log("test/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)


class NoNet(LightningModule):
    """Keeps its network where nobody looks."""

    def __init__(self, network: dict) -> None:
        super().__init__()
        self.body = zoo.build(**network)


class NoForward(Distilled):
    """Has a network, but maps no images to logits."""

    forward = LightningModule.forward


@lightning_modules.loss("focal")
def focal(logits: torch.Tensor, labels: torch.Tensor, gamma: Annotated[float, number(0)] = 2.0) -> torch.Tensor:
    """Focal loss (Lin et al. 2017)."""
    each = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-each)) ** gamma * each).mean()


@lightning_modules.augmentation("noise")
def noise(images: torch.Tensor, sigma: Annotated[float, number(0)] = 0.1) -> torch.Tensor:
    """Gaussian noise."""
    return images + sigma * torch.randn_like(images)
