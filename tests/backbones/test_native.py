"""A native cell is timm's network, bit for bit, and its counts are the published ones."""

import pytest
import timm
import torch

import zoo
from zoo.backbones.families import FAMILIES

SMALL = ["resnet18", "resnet50", "efficientnet_b0", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100"]


@pytest.mark.parametrize("name", SMALL)
def test_native_cell_has_timms_keys_and_logits(name):
    torch.manual_seed(0)
    ours = zoo.build(name, num_classes=7, in_chans=2).eval()
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7, in_chans=2).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    image = torch.randn(2, 2, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


# Parameters and MACs per image. ResNet: He et al. 2015, Table 1 ("FLOPs" there are MACs, without the shortcuts' 1×1 in
# the original; these are torchvision's and timm's figures). MobileNetV1: Howard et al. 2017, Table 8 (569 M, 4.2 M).
# V2: Sandler et al. 2018, Table 4 (300 M, 3.4 M). V3: Howard et al. 2019, Table 3 (219 M, 5.4 M; 56 M, 2.5 M).
# EfficientNet: Tan & Le 2019, Table 2 (0.39 to 37 B "FLOPS", 5.3 to 66 M).
PUBLISHED = [
    ("resnet", "18", 11.69e6, 1.82e9),
    ("resnet", "34", 21.80e6, 3.67e9),
    ("resnet", "50", 25.56e6, 4.11e9),
    ("resnet", "101", 44.55e6, 7.83e9),
    ("resnet", "152", 60.19e6, 11.56e9),
    ("mobilenet", "v1", 4.2e6, 569e6),
    ("mobilenet", "v2", 3.5e6, 300e6),
    ("mobilenet", "v3_large", 5.4e6, 219e6),
    ("mobilenet", "v3_small", 2.5e6, 56e6),
    ("effnet", "b0", 5.3e6, 0.39e9),
    ("effnet", "b1", 7.8e6, 0.70e9),
    ("effnet", "b2", 9.2e6, 1.0e9),
    ("effnet", "b3", 12e6, 1.8e9),
    ("effnet", "b4", 19e6, 4.2e9),
    ("effnet", "b5", 30e6, 9.9e9),
    ("effnet", "b6", 43e6, 19e9),
    ("effnet", "b7", 66e6, 37e9),
]


@pytest.mark.parametrize(("model", "variant", "params", "macs"), PUBLISHED)
def test_published_costs(model, variant, params, macs):
    network = zoo.resolve(model, variant)
    with torch.device("meta"):
        net = zoo.build(network.backbone)
    cost = zoo.cost(net, network.image_size)
    # The papers round to two digits. EfficientNet's table is up to 5 % off its own networks (B4: 4.39 G, not 4.2).
    assert cost.params == pytest.approx(params, rel=0.03)
    assert cost.macs == pytest.approx(macs, rel=0.055 if model == "effnet" else 0.03)


def test_exact_counts_of_well_known_networks():
    assert zoo.cost(zoo.build("resnet18")).params == 11_689_512
    assert zoo.cost(zoo.build("resnet50")).params == 25_557_032
    assert zoo.cost(zoo.build("efficientnet_b0")).params == 5_288_548
    assert zoo.cost(zoo.build("mobilenetv2_100")).params == 3_504_872
    # Radosavovic et al. 2020, Table 2 of the appendix: ResNet-50 has 11.1 M activations.
    assert zoo.cost(zoo.build("resnet50")).activations == pytest.approx(11.1e6, rel=0.005)


def test_phi_scales_as_the_paper_says():
    base, scaled = (zoo.cost(zoo.build("efficientnet_b0", phi=phi), 224) for phi in (0, 1))
    assert base == zoo.cost(zoo.build("efficientnet_b0"), 224)
    # At one resolution, depth 1.2 and width 1.1 squared: about 1.45 times the MACs (stages round up to whole blocks).
    assert 1.35 < scaled.macs / base.macs < 2.1
    b2 = zoo.cost(zoo.build("efficientnet_b2"), 260)
    assert zoo.cost(zoo.build("efficientnet_b0", phi=1), 260).params == b2.params


@pytest.mark.parametrize("phi", [-11, float("nan"), float("inf"), "x", 11, True])
def test_a_phi_that_makes_no_sense_is_refused(phi):
    with pytest.raises(zoo.ConvzooError, match="phi"):
        zoo.resolve("effnet", phi=phi)
    with pytest.raises(zoo.ConvzooError, match="phi"):
        zoo.build("efficientnet_b0", phi=phi)


def test_every_variant_exists_in_timm():
    for family in FAMILIES.values():
        assert all(timm.is_model(name) for name in family.variants.values())


def test_unknown_names_say_what_to_type_instead():
    with pytest.raises(zoo.ConvzooError, match=r"Did you mean model\.variant=b7"):
        zoo.resolve("effnet", "b9")
    with pytest.raises(zoo.ConvzooError, match="resnet"):
        zoo.build("resnet17")
    with pytest.raises(zoo.ConvzooError, match="Did you mean conv=separable"):
        zoo.build("resnet18", conv="seperable")
    with pytest.raises(zoo.ConvzooError, match="Did you mean act=swish"):
        zoo.build("resnet18", act="swisch")
