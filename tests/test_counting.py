"""Training MACs, memory, and costs layer by layer."""

import time

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.families import FAMILIES

aten = torch.ops.aten


def dense_depthwise_grouped_linear() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 12, (3, 1), stride=2, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(12 * 1 * 3, 5),
    )


# On a 6×8 image: 6×8 positions, then 4×6, then 1×3.
FORWARD = [6 * 8 * 8 * 27, 4 * 6 * 8 * 9, 1 * 3 * 12 * 3 * 2, 12 * 3 * 5]


def test_training_macs_by_hand():
    cost = zoo.cost(dense_depthwise_grouped_linear(), (6, 8))
    assert cost.macs == sum(FORWARD)
    # Forward, gradient of the weights, gradient of the input; the image needs none.
    assert cost.train_macs == 2 * FORWARD[0] + 3 * sum(FORWARD[1:])


def test_frozen_weights_need_no_gradient():
    net = dense_depthwise_grouped_linear()
    net[:4].requires_grad_(False)
    # Nothing before the classifier needs a gradient, and its input needs none either.
    assert zoo.cost(net, (6, 8)).train_macs == sum(FORWARD[:3]) + 2 * FORWARD[3]
    net[1].requires_grad_(True)
    # Now the gradient has to get as far as the depthwise convolution, through the frozen grouped one.
    expected = FORWARD[0] + 2 * FORWARD[1] + 2 * FORWARD[2] + 3 * FORWARD[3]
    assert zoo.cost(net, (6, 8)).train_macs == expected


class BackwardCounter(TorchDispatchMode):
    """Counts what autograd really runs, from the shapes of the operations of the backward pass itself."""

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op in (aten.convolution, aten.convolution_backward):
            backward = op is aten.convolution_backward
            weight, transposed = args[2 if backward else 1], args[7 if backward else 6]
            image, grid = (args[1], args[0]) if backward else (args[0], out)
            products = sum(args[10][:2]) if backward else 1
            self.macs += products * (image if transposed else grid).numel() * weight[0].numel()
        elif op in (aten.mm, aten.bmm):
            self.macs += out.numel() * args[0].shape[-1]
        elif op is aten.addmm:
            self.macs += out.numel() * args[1].shape[-1]
        return out


@pytest.mark.parametrize(
    ("name", "conv"),
    [
        ("resnet18", "separable"),
        ("mobilenetv2_100", "native"),
        ("efficientnet_b0", "spatial"),
        ("resnext50_32x4d", "native"),
        ("convnext_atto", "native"),
        ("vit_tiny_patch16_224", "native"),
    ],
)
def test_training_macs_are_those_that_autograd_runs(name, conv):
    with zoo.weightless():
        net = zoo.build(name, conv).eval()
    with BackwardCounter() as counter:
        net(torch.empty(1, 3, 224, 224, device="meta")).sum().backward()
    assert zoo.cost(net).train_macs == counter.macs


def test_training_macs_of_a_transposed_convolution_are_those_that_autograd_runs():
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(6, 8, 2)).to("meta")
    with BackwardCounter() as counter:
        net(torch.empty(1, 4, 5, 7, device="meta")).sum().backward()
    assert zoo.cost(net, (5, 7), 4).train_macs == counter.macs


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv2_100", "efficientnet_b0", "resnet50"])
def test_training_costs_about_three_times_the_forward_pass(name):
    with zoo.weightless():
        cost = zoo.cost(zoo.build(name))
    assert 2.9 < cost.train_macs / cost.macs < 3


def test_counting_does_not_depend_on_the_callers_autograd_mode():
    net = zoo.build("mobilenetv3_small_100")
    plain = zoo.cost(net, 64)
    with torch.no_grad():
        assert zoo.cost(net, 64) == plain
    with torch.inference_mode():
        assert zoo.cost(net, 64) == plain


def test_weight_memory():
    with zoo.weightless():
        cost = zoo.cost(zoo.build("resnet18"), 32)
    assert cost.weight_bytes() == 4 * 11_689_512
    assert cost.weight_bytes("bf16") == cost.weight_bytes("fp16") == 2 * 11_689_512
    assert cost.weight_bytes("int8") == 11_689_512
    with pytest.raises(zoo.ConvzooError, match="dtype=fp31 does not exist"):
        cost.weight_bytes("fp31")


class Odd(nn.Module):
    """A module used twice, a parameter shared, a parameter and a product of the network's own, one module unused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.twin = nn.Conv2d(4, 4, 1, bias=False)
        self.twin.weight = self.conv.weight
        self.unused = nn.Linear(7, 7)
        self.scale = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return (self.twin(self.conv(self.conv(x))).flatten(2).mT @ self.scale).unsqueeze(0)


def test_layers_of_an_odd_network():
    layers = {layer.name: layer for layer in zoo.layer_costs(Odd(), 3, 4)}
    assert layers["conv"].params == 16 and layers["conv"].macs == 2 * 9 * 16
    assert layers["twin"].params == 0 and layers["twin"].macs == 9 * 16
    assert layers[""].params == 16 and layers[""].macs == 9 * 16
    assert layers["unused"].params == 56 and layers["unused"].macs == 0 and layers["unused"].output_shape is None
    assert zoo.cost(Odd(), 3, 4).params == 16 + 16 + 56


def test_layers_by_hand():
    layers = zoo.layer_costs(dense_depthwise_grouped_linear(), (6, 8))
    assert [layer.kind for layer in layers] == ["Conv2d 3×3", "Conv2d 3×3 g=8", "Conv2d 3×1 g=4 s=2", "Linear"]
    assert [layer.output_shape for layer in layers] == [(8, 6, 8), (8, 4, 6), (12, 1, 3), (5,)]
    assert [layer.macs for layer in layers] == FORWARD
    assert [layer.activations for layer in layers] == [8 * 48, 8 * 24, 12 * 3, 5]
    assert [layer.params for layer in layers] == [27 * 8 + 8, 72, 12 * 3 * 2, 36 * 5 + 5]


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224", "regnety_002"])
def test_layers_add_up_to_the_network(name):
    with zoo.weightless():
        net = zoo.build(name)
    next(net.children()).requires_grad_(False)
    layers, cost = zoo.layer_costs(net), zoo.cost(net)
    for key in ("params", "params_trainable", "macs", "train_macs", "activations"):
        assert sum(getattr(layer, key) for layer in layers) == getattr(cost, key)
    assert cost.params == sum(p.numel() for p in net.parameters())
    assert {layer.name for layer in layers} <= {name for name, _ in net.named_modules()}


def test_the_table_of_layers(capsys):
    zoo.show_layers(zoo.layer_costs(dense_depthwise_grouped_linear(), (6, 8)))
    shown = capsys.readouterr().out
    assert "Conv2d 3×1 g=4 s=2" in shown and "8×4×6" in shown
    assert f"{sum(FORWARD):,} MACs" in shown


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_without_weights_costs_the_same(family):
    backbone = zoo.resolve(family).backbone
    with zoo.weightless():
        net = zoo.build(backbone, "spatial", "swish", num_classes=10, stem="small")
    assert all(p.is_meta for p in net.parameters())
    assert zoo.cost(net, 32) == zoo.cost(zoo.build(backbone, "spatial", "swish", num_classes=10, stem="small"), 32)


def test_efficientnet_b7_takes_about_a_second():
    zoo.cost(zoo.build("mobilenetv3_small_050"), 32)
    start = time.process_time()
    with zoo.weightless():
        net = zoo.build("efficientnet_b7")
    assert zoo.cost(net, 600).params == 66_347_960
    assert time.process_time() - start < 2


# timm's published benchmark tables (results/benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv): param_count and macts,
# both in millions, to two decimals.
TIMM = [
    ("resnet18", 224, 11.69, 2.48),
    ("resnet26", 224, 16.0, 7.35),
    ("resnet34", 288, 21.8, 6.18),
    ("resnet50", 160, 25.56, 5.67),
    ("resnet101", 160, 44.55, 8.28),
    ("mobilenetv1_100", 256, 4.23, 6.59),
    ("mobilenetv2_100", 224, 3.5, 6.68),
    ("mobilenetv3_small_100", 224, 2.54, 1.42),
    ("mobilenetv3_large_100", 256, 5.48, 5.75),
    ("efficientnet_b0", 256, 5.29, 8.81),
    ("efficientnet_b1", 224, 7.79, 9.36),
    ("convnext_atto", 288, 3.7, 6.3),
    ("regnetx_002", 224, 2.68, 2.16),
    ("ghostnet_100", 224, 5.18, 3.55),
]


@pytest.mark.parametrize(("name", "image_size", "params", "activations"), TIMM)
def test_params_and_activations_of_timms_tables(name, image_size, params, activations):
    with zoo.weightless():
        cost = zoo.cost(zoo.build(name), image_size)
    assert cost.params / 1e6 == pytest.approx(params, abs=0.0051)
    assert cost.activations / 1e6 == pytest.approx(activations, abs=0.0051)
