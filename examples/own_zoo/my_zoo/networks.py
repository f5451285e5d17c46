"""A small residual network, registered in both ways: as ``model=pocketnet``, and with timm alone."""

import timm
import torch
from torch import nn

import zoo


class Block(nn.Module):
    """x + BN(conv(ReLU(BN(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same."""
        return x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))


@zoo.backbone("pocketnet", image_size=32)
def pocketnet(num_classes: int = 1000, in_chans: int = 3, width: float = 1.0, depth: float = 1.0) -> nn.Module:
    """Two stages of residual blocks. ``width`` and ``depth`` are what lets it be scaled and matched to a budget."""
    layers: list[nn.Module] = []
    for channels in (max(8, round(16 * width)), max(8, round(32 * width))):
        layers += [nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels)]
        layers += [Block(channels) for _ in range(max(1, round(depth)))]
        in_chans = channels
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))


@timm.models.register_model
def pocketnet_wide(pretrained: bool = False, num_classes: int = 1000, in_chans: int = 3, **timms: object) -> nn.Module:
    """Twice as wide: ``model=timm model.name=pocketnet_wide``. convzoo needs to know nothing of it."""
    return pocketnet(num_classes, in_chans, width=2.0)
