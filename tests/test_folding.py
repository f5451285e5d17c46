"""BatchNorm folded into the convolutions before it: the same network with fewer operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.folding import BATCHNORMS

ALL = {
    "resnet18": 20,
    "mobilenetv2_100": 52,
    "mobilenetv3_small_100": 34,
    "efficientnet_b0": 49,
    "tf_efficientnet_b0": 49,
    "legacy_xception": 40,
    "regnety_002": 44,
}
"""Networks, and how many BatchNorms they have: all of them follow a convolution."""


def restless(net: nn.Module) -> nn.Module:
    """In double precision, with statistics and weights that do something: as it starts, a BatchNorm does nothing."""
    for module in net.modules():
        if isinstance(module, BATCHNORMS):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)
    return net.double().eval()


def difference(net: nn.Module, size: int = 64) -> tuple[int, float]:
    images = torch.randn(2, 3, size, size, dtype=torch.double)
    with torch.inference_mode():
        before = net(images)
    count = zoo.fold_batchnorm(net, size)
    with torch.inference_mode():
        after = net(images)
    return count, ((after - before).abs().max() / before.abs().max()).item()


@pytest.mark.parametrize(("backbone", "count"), ALL.items())
def test_all_families_compute_the_same(backbone: str, count: int) -> None:
    net = restless(zoo.build(backbone, num_classes=10))
    folded, off = difference(net)
    assert folded == count
    assert off < 1e-12
    assert not any(isinstance(m, BATCHNORMS) for m in net.modules())


@pytest.mark.parametrize("conv", ["separable", "spatial", "blueprint", "standard", "grouped"])
def test_rewritten_networks_compute_the_same(conv: str) -> None:
    net = restless(
        zoo.build("resnet18", conv, num_classes=10, conv_options={"groups": 4} if conv == "grouped" else None)
    )
    folded, off = difference(net)
    assert folded == 20
    assert off < 1e-12


def test_a_batchnorm_that_does_not_stand_alone_behind_a_convolution_stays() -> None:
    """DenseNet and pre-activation ResNets have BatchNorms behind concatenations and sums."""
    for backbone, most in (("densenet121", 121), ("resnetv2_50", 49)):
        net = restless(zoo.build(backbone, num_classes=10))
        folded, off = difference(net)
        assert 0 < folded < most
        assert off < 1e-12


class Two(nn.Module):
    """A convolution whose output is read twice, one that runs twice, and one that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.runs_twice, self.plain = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.read_twice(x)
        x = self.norms[0](y) + y
        x = self.norms[1](self.runs_twice(self.runs_twice(x)))
        return self.norms[2](self.plain(x)).flatten(1)


def test_only_what_is_read_once_and_runs_once_is_folded() -> None:
    net = restless(Two())
    folded, off = difference(net, 8)
    assert folded == 1 and off < 1e-12
    assert [type(norm) is nn.Identity for norm in net.norms] == [False, False, True]


def test_a_network_that_takes_no_images_of_the_size_is_refused() -> None:
    with pytest.raises(zoo.ConvzooError, match="takes no images of image_size=5"):
        zoo.fold_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 9), nn.BatchNorm2d(3)), 5)
