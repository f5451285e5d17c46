"""Training MACs, memory, and costs layer by layer."""

import re
import time
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import DeformConv2d

import zoo
from zoo.backbones.families import FAMILIES
from zoo.costs import mac_counter as products

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
    with zoo.meta_init():
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
    with zoo.meta_init():
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
    with zoo.meta_init():
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
    with zoo.meta_init():
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
    with zoo.meta_init():
        net = zoo.build(backbone, "spatial", "swish", num_classes=10, stem="small")
    assert all(p.is_meta for p in net.parameters())
    assert zoo.cost(net, 32) == zoo.cost(zoo.build(backbone, "spatial", "swish", num_classes=10, stem="small"), 32)


def test_efficientnet_b7_takes_about_a_second():
    zoo.cost(zoo.build("mobilenetv3_small_050"), 32)
    start = time.process_time()
    with zoo.meta_init():
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
    with zoo.meta_init():
        cost = zoo.cost(zoo.build(name), image_size)
    assert cost.params / 1e6 == pytest.approx(params, abs=0.0051)
    assert cost.activations / 1e6 == pytest.approx(activations, abs=0.0051)


class Does(nn.Module):
    """Does something with an image of 1×3×4×4 and some modules or parameters."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, x):
        return self.function(self, x)


def deformable(net, x):
    return net.layer(x, torch.zeros(1, 18, 4, 4, device=x.device))


ones = torch.ones
F = nn.functional
COUNTED = {
    "deform_conv2d": (deformable, {"layer": DeformConv2d(3, 8, 3, padding=1)}, 16 * 8 * 27),
    "bilinear": (lambda n, x: n.layer(x.flatten(1), x.flatten(1)), {"layer": nn.Bilinear(48, 48, 5)}, 48 * 48 * 5),
    "mv": (lambda n, x: x.reshape(12, 4) @ n.w, {"w": ones(4)}, 48),
    "addmv": (lambda n, x: torch.addmv(n.b, x.reshape(12, 4), n.w), {"w": ones(4), "b": ones(12)}, 48),
    "addmm_": (lambda n, x: torch.zeros(12, 5, device=x.device).addmm_(x.reshape(12, 4), n.w), {"w": ones(4, 5)}, 240),
    "addbmm": (lambda n, x: torch.addbmm(n.b, x[0], n.w), {"w": ones(3, 4, 5), "b": ones(4, 5)}, 240),
    "baddbmm": (lambda n, x: torch.baddbmm(x[0], x[0], x[0]), {}, 192),
    "dot": (lambda n, x: torch.dot(x.flatten(), n.w), {"w": ones(48)}, 48),
    "addr": (lambda n, x: torch.addr(n.b, x.flatten(), n.w), {"w": ones(4), "b": ones(48, 4)}, 192),
    "einsum": (lambda n, x: torch.einsum("nchw,oc->nohw", x, n.w), {"w": ones(5, 3)}, 240),
    "cdist": (lambda n, x: torch.cdist(x.flatten(2), n.w), {"w": ones(1, 5, 16)}, 240),
    "attention": (lambda n, x: F.scaled_dot_product_attention(x, x, x), {}, 2 * 3 * 64),
    "transposed": (lambda n, x: n.layer(x), {"layer": nn.ConvTranspose2d(3, 6, 3, groups=3)}, 16 * 3 * 2 * 9),
    "lstm": (lambda n, x: n.layer(x.flatten(2))[0], {"layer": nn.LSTM(16, 7)}, 3 * 28 * 23),
    "gru": (lambda n, x: n.layer(x.flatten(2))[0], {"layer": nn.GRU(16, 7)}, 3 * 21 * 23),
    "sparse": (lambda n, x: torch.sparse.mm(n.w.to_sparse(), x.reshape(12, 4)), {"w": ones(5, 12)}, 240),
    "conv_tbc": (lambda n, x: torch.conv_tbc(x.flatten(2), n.w, n.b), {"w": ones(1, 16, 5), "b": ones(5)}, 240),
}


@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("name", COUNTED)
def test_products_of_every_kind(name, real):
    function, parts, macs = COUNTED[name]
    net = Does(lambda n, x: (x.max().item() if real else None, function(n, x))[1], **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost = zoo.cost(net, 4)
    assert (cost.macs, cost.uncounted) == (macs, ())
    assert macs <= cost.train_macs <= 4 * macs


@torch.library.custom_op("convzoo_tests::scan", mutates_args=())
def scan(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * w.sum()


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda n, x: scan(scan(x, n.w), n.w), "convzoo_tests::scan ×2"),
        (lambda n, x: torch.fft.rfft2(x).abs(), "aten::_fft_r2c ×1"),
        (lambda n, x: torch.linalg.matrix_exp(x), "aten::linalg_matrix_exp ×1"),
    ],
    ids=["custom_op", "fft", "matrix_exp"],
)
def test_what_is_not_counted_is_named(function, op, capsys):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Does(function, w=ones(5)))
    with pytest.warns(UserWarning, match=op) as told:
        cost = zoo.cost(net, 4)
    assert len(told) == 1
    assert cost.uncounted == (op,) and cost.macs == 16 * 9
    assert cost.metrics["cost/uncounted"] == int(op[-1])
    layers = zoo.layer_costs(net, 4)
    assert [layer.uncounted for layer in layers] == [(), (op,)]
    zoo.show_layers(layers)
    shown = capsys.readouterr().out
    assert "+ ?" in shown and op.partition(" ")[0] in shown


@pytest.mark.parametrize(
    "op", [scan, "convzoo_tests::scan", torch.ops.convzoo_tests.scan, torch.ops.convzoo_tests.scan.default]
)
def test_an_operators_cost_can_be_registered(op, monkeypatch):
    monkeypatch.setattr(products, "_REGISTERED", {})
    zoo.register_macs(op, lambda x, w, out: out.numel() * len(w))
    cost = zoo.cost(Does(lambda n, x: scan(x, n.w), w=ones(5)), 4)
    assert (cost.macs, cost.train_macs, cost.uncounted) == (240, 480, ())
    assert "cost/uncounted" not in cost.metrics
    zoo.register_macs(op, lambda x: 0)
    with pytest.raises(zoo.ConvzooError, match="convzoo_tests::scan"):
        zoo.cost(Does(lambda n, x: scan(x, n.w), w=ones(5)), 4)


@pytest.mark.parametrize("op", [3, "scan", print])
def test_only_operators_can_be_registered(op):
    with pytest.raises(zoo.ConvzooError, match=re.escape(str(op))):
        zoo.register_macs(op, lambda: 1)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "xcit_nano_12_p8_224", "volo_d1_224"])
def test_no_false_alarm(name):
    with zoo.meta_init():
        assert zoo.cost(zoo.build(name)).uncounted == ()
