"""Networks as people write them, with what makes a rewriting go wrong: what several tests need."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Small(nn.Module):
    """A stem, two 3×3 convolutions and a classifier; ``change`` does something to it, ``body`` runs it in its place."""

    def __init__(self, change: Callable[[Small], object] | None = None, body: Callable | None = None) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), conv(), conv()
        self.act, self.fc = nn.ReLU(), nn.Linear(8, 2)
        self.body = body
        if change:
            change(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.b(self.act(self.a(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        x = self.body(self, x) if self.body else self.features(x)
        return self.fc(x.mean((2, 3)))


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def conv(bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1, bias=bias)


def small(**changes: Callable[[Small], nn.Module]) -> Small:
    """`Small` with some modules replaced: name → function of the network."""
    return Small(lambda net: [setattr(net, name, make(net)) for name, make in changes.items()])


class Adapter(nn.Module):
    """LoRA as people write it: a frozen convolution, and a narrow path beside it."""

    def __init__(self, base: nn.Conv2d, frozen: bool = True) -> None:
        super().__init__()
        self.base = base.requires_grad_(not frozen)
        self.down, self.up = nn.Conv2d(8, 2, 3, padding=1, bias=False), nn.Conv2d(2, 8, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x)) * 0.5


class PeftAdapter(nn.Module):
    """The structure of peft's."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.1)})
        self.lora_A = nn.ModuleDict({"default": nn.Conv2d(8, 2, 3, padding=1, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(2, 8, 1, bias=False)})

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        result = self.base_layer(x, *args, **kwargs)
        for name in self.lora_A:
            result = result + self.lora_B[name](self.lora_A[name](self.lora_dropout[name](x))) * 2.0
        return result


class WeightAdapter(nn.Module):
    """The structure of loralib's: the convolution that it holds never runs."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.conv = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.zeros(6, 24)), nn.Parameter(torch.zeros(24, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight + (self.lora_B @ self.lora_A).view(self.conv.weight.shape)
        return F.conv2d(x, weight, self.conv.bias, padding=1)


def normed(kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 8, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(8))


class RepVgg(nn.Module):
    """RepVGG's block, by none of its names."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.little, self.skip = normed(3), normed(1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.big(x) + self.little(x) + self.skip(x))


class Stacked(RepVgg):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(torch.stack([self.big(x), self.little(x)]).sum(0))


class Listed(nn.Module):
    """MobileOne's: any number of branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(normed(k) for k in (3, 3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = 0
        for branch in self.branches:
            out += branch(x)
        return F.relu(out)


class Asymmetric(nn.Module):
    """ACNet's: a square, a column and a row."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.column, self.row = (
            nn.Sequential(nn.Conv2d(8, 8, k, padding="same", bias=False), nn.BatchNorm2d(8))
            for k in (3, (3, 1), (1, 3))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.square(x).add_(self.column(x)).add_(self.row(x)))


class ConvNorm(nn.Module):
    """YOLO's: its ``fuse`` folds a BatchNorm, and nothing is parallel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))

    def fuse(self) -> None:
        raise AssertionError("nobody asked for it")


class Residual(nn.Module):
    """ResNet's block with a projection: its branches are no linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.project = ConvNorm(), normed(3), normed(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(self.first(x)) + self.project(x))

    def switch_to_deploy(self) -> None:
        raise AssertionError("nobody asked for it")


class Dilated(nn.Module):
    """An attention over several dilations: parallel, in training and in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = conv(), nn.Conv2d(8, 8, 3, padding=2, dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (self.near(x) + self.far(x))


class Vae(Small):
    """Its ``reparameterize`` draws a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.mu, self.logvar, self.fuse = nn.Linear(8, 8), nn.Linear(8, 8), conv()

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return mu + torch.randn_like(mu) * (logvar / 2).exp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.features(self.stem(x)).mean((2, 3))
        return self.fuse(
            self.reparameterize(self.mu(hidden), self.logvar(hidden))[..., None, None].expand(-1, -1, 4, 4)
        )
