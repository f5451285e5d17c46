"""Networks of another depth and width: timm's own scaled ones, what a factor does, what is refused. And Xception."""

import math

import pytest
import timm
import torch

import zoo
from zoo.backbones.scaled_builders import SCALABLE


def on_meta(backbone, **arguments):
    with torch.device("meta"):
        return zoo.build(backbone, **arguments)


def shapes(net):
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def timms(name, **arguments):
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


# Networks that timm has by name: ours, scaled, has the same tensors.
SCALED_BY_TIMM = [
    ("efficientnet_b0", {"depth": 1.1}, "efficientnet_b1"),
    ("efficientnet_b0", {"depth": 1.2, "width": 1.1}, "efficientnet_b2"),
    ("efficientnet_b0", {"phi": 1}, "efficientnet_b2"),
    ("efficientnet_b0", {"depth": 1.4, "width": 1.2}, "efficientnet_b3"),
    ("efficientnet_b0", {"depth": 1.8, "width": 1.4}, "efficientnet_b4"),
    ("efficientnet_b0", {"depth": 3.1, "width": 2.0}, "efficientnet_b7"),
    ("mobilenetv1_100", {"width": 1.25}, "mobilenetv1_125"),
    ("mobilenetv2_100", {"width": 0.5}, "mobilenetv2_050"),
    ("mobilenetv2_100", {"width": 1.4}, "mobilenetv2_140"),
    ("mobilenetv3_small_100", {"width": 0.5}, "mobilenetv3_small_050"),
    ("mobilenetv3_small_100", {"width": 0.75}, "mobilenetv3_small_075"),
    ("mobilenetv3_large_100", {"width": 1.5, "depth": 1.2}, "mobilenetv3_large_150d"),
    ("resnet18", {"depth": [1.5, 2, 3, 1.5]}, "resnet34"),
    ("resnet26", {"depth": [1.5, 2, 11.5, 1.5]}, "resnet101"),
]


@pytest.mark.parametrize(("backbone", "factors", "same_as"), SCALED_BY_TIMM, ids=lambda v: str(v))
def test_scaled_networks_that_timm_has_by_name(backbone, factors, same_as):
    assert shapes(on_meta(backbone, **factors)) == shapes(timms(same_as))


@pytest.mark.parametrize(
    "backbone", [name for name in SCALABLE if not name.startswith("efficientnet_b") or name[-1] in "02"]
)
def test_factors_of_one_are_the_published_network(backbone):
    # A factor for each stage takes the way through the scaling code; a plain 1 does not.
    stages = 4 if backbone.startswith("resnet") else {"mobilenetv1_100": 5, "mobilenetv3_small_100": 6}.get(backbone, 7)
    assert shapes(on_meta(backbone, depth=[1] * stages)) == shapes(timms(backbone))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_100"])
def test_factors_of_one_give_timms_logits(backbone):
    torch.manual_seed(3)
    ours = zoo.build(backbone, num_classes=5, width=1.0, depth=1.0).eval()
    torch.manual_seed(3)
    theirs = timm.create_model(backbone, num_classes=5).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("width", [0.25, 0.6, 1.5])
def test_width_of_a_resnet_acts_on_every_channel(backbone, width):
    scaled, native = shapes(on_meta(backbone, width=width)), shapes(timms(backbone))
    assert list(scaled) == list(native) or backbone == "resnet50"
    for name, shape in native.items():
        if name.endswith("conv1.weight") or name == "bn1.weight":
            assert scaled[name][0] % 8 == 0
            assert abs(scaled[name][0] - width * shape[0]) <= max(4, 0.1 * width * shape[0])


def test_a_scaled_resnet_starts_like_a_resnet():
    """The stem that is put back is initialised as timm does: fan-out, for ReLU."""
    stem = zoo.build("resnet18", width=2.0).conv1
    assert (stem.out_channels, stem.kernel_size, stem.stride) == (128, (7, 7), (2, 2))
    assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 49)), rel=0.03)


@pytest.mark.parametrize("backbone", ["resnet34", "mobilenetv1_100", "mobilenetv2_100", "efficientnet_b0"])
@pytest.mark.parametrize("conv", ["native", *zoo.KINDS])
def test_scaled_networks_take_every_conv_kind(backbone, conv):
    net = zoo.build(backbone, conv, num_classes=3, width=0.3, depth=0.5, stem="small")
    out = net(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, 3)
    out.sum().backward()


def test_cost_grows_as_the_paper_says():
    """Tan & Le 2019, section 3.3: MACs go with depth, with width² and with resolution²."""
    base = zoo.cost(on_meta("resnet50"), 224).macs
    stem = 112 * 112 * 64 * 147  # does not repeat, and its input has 3 channels at any width
    assert zoo.cost(on_meta("resnet50", width=2.0), 224).macs == pytest.approx(4 * (base - stem) + 2 * stem, rel=0.002)
    assert zoo.cost(on_meta("resnet50"), 448).macs == pytest.approx(4 * base, rel=0.001)
    assert 3.5 < zoo.cost(on_meta("resnet50", depth=4.0), 224).macs / base < 4


REFUSED = [
    ("resnet18", {"width": 0}, "above 0"),
    ("resnet18", {"width": -1.0}, "above 0"),
    ("resnet18", {"depth": float("nan")}, "above 0"),
    ("resnet18", {"width": float("inf")}, "above 0"),
    ("resnet18", {"depth": "deep"}, "above 0"),
    ("resnet18", {"depth": [1, 2]}, "4 stages"),
    ("mobilenetv1_100", {"depth": [1, 1, 1, 1]}, "5 stages"),
    ("regnety_004", {"width": 0.5}, "scale=resolution"),
    ("legacy_xception", {"depth": 2.0}, "no depth and width"),
    ("resnet50d", {"width": 0.5}, "Did you mean resnet50"),
    ("efficientnet_b0", {"phi": 1, "width": 2.0}, "leave out phi"),
    ("resnet18", {"width": 0.5, "pretrained": True}, "no pretrained weights"),
]


@pytest.mark.parametrize(("backbone", "arguments", "says"), REFUSED, ids=str)
def test_scaling_that_makes_no_sense_is_refused(backbone, arguments, says):
    with pytest.raises(zoo.ConvzooError, match=says):
        on_meta(backbone, **arguments)


# timm's figures. Chollet 2017, Table 3, has 22.86 M parameters for the original.
XCEPTION = [
    ("original", "legacy_xception", 22_855_952, 8.40e9),
    ("41", "xception41", 26_969_560, 9.28e9),
    ("65", "xception65", 39_916_312, 13.96e9),
    ("71", "xception71", 42_338_736, 18.09e9),
]


@pytest.mark.parametrize(("variant", "name", "params", "macs"), XCEPTION)
def test_xception(variant, name, params, macs):
    network = zoo.resolve("xception", variant)
    assert (network.backbone, network.image_size) == (name, 299)
    net = on_meta(network.backbone)
    assert shapes(net) == shapes(timms(name))
    cost = zoo.cost(net, network.image_size)
    # timm counts about 1 % more: batch norm and pooling are in its figure.
    assert cost.params == params and cost.macs == pytest.approx(macs, rel=0.01)


def test_native_xception_is_timms_bit_for_bit():
    torch.manual_seed(0)
    ours = zoo.build("legacy_xception", num_classes=4, in_chans=1).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("legacy_xception", num_classes=4, in_chans=1).eval()
    image = torch.randn(1, 1, 71, 71)
    with torch.no_grad():
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert torch.equal(ours(image), theirs(image))
