"""Rectangular images cost exactly what torch's own counter sees, whatever depends on their height and width."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.backbones.stem import stem_for

HIGH, WIDE = (96, 160), (160, 96)

KINDS = ["standard", "separable", "separable_spatial", "spatial", "grouped", "blueprint", "depthwise_separable"]

SIZED = {
    "tf_efficientnet_b0": (97, 130),  # pads by the size of its input
    "vgg11_bn": (96, 160),  # pools to 7×7
    "mobilevit_xxs": (96, 160),  # resizes to whole patches
    "convnext_atto": (96, 160),
    "regnety_002": (75, 42),
    "ghostnet_050": (96, 160),
}
"""Networks of timm whose work depends on the size of the image in ways of its own, and an image."""

FIXED = {"vit_tiny_patch16_224": (96, 160), "swin_tiny_patch4_window7_224": (112, 224), "mixer_s32_224": (96, 160)}
"""Networks that are built for one size of image."""


def build(name, conv="native", **arguments):
    with zoo.meta_init():
        return zoo.build(name, conv, num_classes=10, **arguments).eval()


def counted(net, size, channels=3):
    """MACs by torch's counter, which sees every operator that runs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, channels, *size, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("conv", ["native", *KINDS])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "efficientnet_b0"])
def test_every_kind_of_convolution(name, conv):
    net = build(name, conv)
    for size in (HIGH, WIDE, (33, 90)):
        cost = zoo.cost(net, size)
        assert cost.macs == counted(net, size) and cost.image_size == size
        assert sum(layer.macs for layer in zoo.layer_costs(net, size)) == cost.macs


@pytest.mark.parametrize("name", SIZED)
def test_networks_that_look_at_the_size(name):
    net, size = build(name), SIZED[name]
    assert zoo.cost(net, size).macs == counted(net, size)


@pytest.mark.parametrize("name", FIXED)
def test_networks_built_for_a_rectangle(name):
    net, size = build(name, img_size=FIXED[name]), FIXED[name]
    assert zoo.cost(net, size).macs == counted(net, size)
    with pytest.raises(zoo.ConvzooError, match=f"image_size={size[1]}x{size[0]}"):
        zoo.cost(net, size[::-1])


def test_height_and_width_are_not_the_same_where_the_network_tells_them_apart():
    """A 3×1 of stride (2,1) is followed by a 1×3: an odd height is rounded up before the width is halved."""
    spatial, standard = (build("resnet18", kind) for kind in ("spatial", "standard"))
    high, wide = (66, 37), (37, 66)
    assert zoo.cost(spatial, high).macs != zoo.cost(spatial, wide).macs
    assert zoo.cost(standard, high).macs == zoo.cost(standard, wide).macs
    assert next(layer.output_shape for layer in zoo.layer_costs(standard, wide)) == (64, 19, 33)


def test_training_is_counted_too():
    net = zoo.build("resnet18", "spatial", num_classes=10)
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(2, 3, 64, 96)).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * zoo.cost(net, (64, 96)).train_macs


def test_the_table_says_the_same():
    cells = zoo.tabulate(["resnet18", "vit_tiny_patch16_224"], ["native", "spatial"], images=zoo.Images((96, 160)))
    for cell in cells[:2]:
        with zoo.meta_init():
            net = zoo.build(cell.model, cell.conv)
        assert cell.cost == zoo.cost(net, (96, 160))
    assert "image_size=96x160" in cells[2].refused and cells[3].refused


@pytest.mark.parametrize("over", ["width", "phi"])
def test_a_budget_is_met_at_the_rectangle(over):
    found = zoo.match("resnet18", "spatial", macs=2e8, over=over, image_size=(64, 128), num_classes=10)
    with zoo.meta_init():
        net = zoo.build("resnet18", "spatial", num_classes=10, **{over: found.value})
    assert found.cost == zoo.cost(net, found.cost.image_size) and abs(found.miss) < 0.05
    assert found.cost.image_size == ((64, 128) if over == "width" else found.cost.image_size)
    assert found.cost.image_size.width == pytest.approx(2 * found.cost.image_size.height, abs=1)


def test_the_shorter_side_chooses_the_stem():
    assert [stem_for("auto", size) for size in (64, (64, 300), (300, 64), (65, 65))] == ["small"] * 3 + ["imagenet"]
