"""BatchNorm folded into the convolutions before it: the same network with fewer operations."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import zoo
from zoo.surgery.fold_batchnorm import BATCHNORMS

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
        if isinstance(module, BATCHNORMS) and module.affine and module.track_running_stats:
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


Pair = namedtuple("Pair", ["tap", "out"])


@dataclass
class Output:
    out: torch.Tensor
    taps: dict[str, list[torch.Tensor]]


class Holder:
    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors


class Tapped(nn.Module):
    """Two convolutions, each with a BatchNorm; ``end`` says what becomes of the first one's output."""

    def __init__(self, end=lambda net, tap, out: out, between=lambda net, x: x, norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.tapped, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), norm(4)
        self.plain, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.end, self.between, self.seen = end, between, []

    def forward(self, x: torch.Tensor):
        tap = self.tapped(x)
        return self.end(self, tap, self.last(self.plain(F.relu(self.norm(self.between(self, tap))))))


def keep(net: Tapped, tap: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    net.kept = tap
    return out


def append(net: Tapped, tap: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    net.seen.append(tap)
    return out


READERS = {
    "tuple": lambda net, tap, out: (out, tap),
    "nested": lambda net, tap, out: {"out": out, "taps": [{"first": (tap,)}]},
    "namedtuple": lambda net, tap, out: Pair(tap, out),
    "dataclass": lambda net, tap, out: Output(out, {"taps": [tap]}),
    "object": lambda net, tap, out: Holder(tap, out),
    "kept": keep,
    "kept in a list": append,
    "a view": lambda net, tap, out: (out, tap[:, :2]),
    "a sum": lambda net, tap, out: out + tap,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_leaves_the_network_or_is_kept_is_read(reader):
    net = restless(Tapped(READERS[reader]))
    images = torch.randn(2, 3, 8, 8, dtype=torch.double)
    conv = copy.deepcopy(net.tapped)
    assert zoo.fold_batchnorm(net, 8) == 1
    assert isinstance(net.norm, nn.BatchNorm2d) and torch.equal(net.tapped(images), conv(images))


CHANGED = {
    "relu": lambda net, x: x.relu_(),
    "add": lambda net, x: x.add_(1),
    "view": lambda net, x: x.view(x.shape),
    "flip": lambda net, x: x.flip(3),
    "twice": lambda net, x: net.norm(x),
}


@pytest.mark.parametrize("between", CHANGED)
def test_what_stands_between_convolution_and_batchnorm_is_seen(between):
    net = restless(Tapped(between=CHANGED[between]))
    folded, off = difference(net, 8)
    assert folded == 1 and off < 1e-12


def test_hooks_are_readers():
    for name in ("tapped", "norm", ""):
        net, seen = restless(Tapped(READERS["tuple"] if name == "" else lambda net, tap, out: out)), []
        net.get_submodule(name).register_forward_hook(lambda module, args, output, seen=seen: seen.append(output))
        assert zoo.fold_batchnorm(net, 8) == 1
    net = restless(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten()))
    net[0].register_forward_hook(lambda module, args, output: None)
    assert zoo.fold_batchnorm(net, 8) == 0


def test_a_feature_extractor_and_the_network_that_it_is_made_of():
    net = restless(zoo.build("resnet10t", num_classes=3))
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    whole = net(images)
    extractor = create_feature_extractor(net, {"layer1.0.conv1": "tap", "fc": "out"}).eval()
    before = extractor(images)
    assert zoo.fold_batchnorm(extractor, 32) > 5
    after = extractor(images)
    assert all(torch.allclose(after[key], before[key], rtol=1e-10, atol=1e-10) for key in before)
    assert torch.equal(net(images), whole), "the network that it was made of shares its modules"


@pytest.mark.parametrize(
    "norm",
    [lambda c: nn.BatchNorm2d(c, affine=False), lambda c: nn.BatchNorm2d(c, track_running_stats=False)],
    ids=["no affine", "no statistics"],
)
def test_batchnorms_without_weights_or_statistics(norm):
    torch.manual_seed(0)
    net = Tapped(norm=norm).double().eval()
    folded, off = difference(net, 8)
    assert folded == (2 if net.tapped.bias is not None else 1) and off < 1e-12


def test_shared_modules_are_folded_once_and_everywhere_or_not_at_all():
    net = restless(Tapped())
    net.other_conv, net.other_norm = net.tapped, net.norm
    folded, off = difference(net, 8)
    assert folded == 2 and off < 1e-12
    assert net.other_conv is net.tapped and net.other_norm is net.norm
    net = restless(Tapped())
    net.last = net.norm
    assert difference(net, 8) == (0, 0)
    net = restless(Tapped())
    net.layers = [net.tapped]
    assert difference(net, 8)[0] == 1


class Secret(Tapped):
    """It reads the convolution's output in a way that no operation shows: off its storage."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out if x.is_meta else out + self.tapped.weight.sum()


def test_a_fold_that_would_change_the_result_is_undone():
    net = restless(Secret()).train()
    net.norm.eval()
    modules, modes = dict(net.named_modules()), [m.training for m in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(zoo.ConvzooError, match="computes something else"):
        zoo.fold_batchnorm(net, 8)
    assert dict(net.named_modules()) == modules and [m.training for m in net.modules()] == modes
    after = net.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half, torch.float, torch.double])
def test_every_precision_is_checked(dtype):
    net = restless(Tapped()).to(dtype)
    assert zoo.fold_batchnorm(net, 8) == 2
    assert {p.dtype for p in net.parameters()} == {dtype}
    with pytest.raises(zoo.ConvzooError, match="computes something else"):
        zoo.fold_batchnorm(restless(Secret()).to(dtype), 8)


def test_a_frozen_network_stays_frozen_and_a_weightless_one_is_folded():
    net = restless(Tapped()).requires_grad_(False)
    zoo.fold_batchnorm(net, 8)
    assert not any(p.requires_grad for p in net.parameters())
    with zoo.meta_init():
        net = Tapped()
    assert zoo.fold_batchnorm(net, 8) == 2


def test_a_network_that_does_not_run_on_a_random_image_is_left_alone():
    class Picky(Tapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.is_meta:
                raise ValueError("bytes only")
            return super().forward(x)

    net = restless(Picky())
    with pytest.raises(zoo.ConvzooError, match="bytes only"):
        zoo.fold_batchnorm(net, 8)
    assert isinstance(net.norm, nn.BatchNorm2d)
