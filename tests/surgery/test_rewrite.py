"""Conv kinds: closed forms, what they do to whole networks, and what they must leave alone."""

import itertools

import pytest
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import nn

import zoo
from zoo.convs import KINDS, ConvSpec

BACKBONES = ["resnet18", "resnet50", "efficientnet_b0", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100"]
CONVS = ["native", *KINDS]
FREE = [kind for kind in KINDS if kind != "grouped"]
"""The kinds that need no further choice."""


def options(kind: str) -> dict[str, int]:
    return {"groups": 2} if kind == "grouped" else {}


def make(kind: str, spec: ConvSpec) -> nn.Module:
    return KINDS[kind](spec, **options(kind))


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def closed_form(kind: str, c: int, d: int, k: int) -> int:
    """Parameters of one logical conv of d filters over c channels, by the papers' formulas."""
    m = min(c, d)
    return {
        "standard": k * k * c * d,
        "separable": k * k * c + c * d,
        "blueprint": c * d + k * k * d,
        "spatial": k * c * m + k * m * d,
        "separable_spatial": 2 * k * c + c * d,
    }[kind]


@pytest.mark.parametrize(("kind", "c", "d", "k"), list(itertools.product(FREE, (3, 8), (4, 16), (3, 5))))
def test_parameters_follow_the_closed_form(kind, c, d, k):
    assert params(KINDS[kind](ConvSpec(c, d, (k, k)))) == closed_form(kind, c, d, k)
    with_bias = KINDS[kind](ConvSpec(c, d, (k, k), bias=True))
    assert params(with_bias) == closed_form(kind, c, d, k) + d


def test_worked_examples():
    assert params(KINDS["standard"](ConvSpec(3, 4, (3, 3)))) == 108
    assert params(KINDS["separable"](ConvSpec(3, 4, (3, 3)))) == 39
    assert params(KINDS["standard"](ConvSpec(3, 32, (3, 3), bias=True))) == 896
    assert params(KINDS["grouped"](ConvSpec(4, 6, (3, 3)), groups=2)) == 108
    separable = KINDS["separable"](ConvSpec(3, 4, (3, 3)))
    assert (params(separable.depthwise), params(separable.pointwise)) == (27, 12)
    # One 3×3 filter on a 5×5 map without padding: 81 multiplications dense, 45 + 27 as a column and a row.
    assert zoo.cost(KINDS["standard"](ConvSpec(1, 1, (3, 3))), 5, 1).macs == 81
    assert zoo.cost(KINDS["spatial"](ConvSpec(1, 1, (3, 3))), 5, 1).macs == 45 + 27


SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 5, "stride": (2, 1), "padding": (2, 1)},
    {"kernel_size": 3, "dilation": (2, 1), "padding": (2, 0)},
    {"kernel_size": (3, 5), "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 4, "stride": 2, "padding": 1},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_a_rewritten_conv_keeps_its_shape(kind, settings):
    conv = nn.Conv2d(6, 8, **settings)
    image = torch.randn(2, 6, 13, 17)
    assert make(kind, ConvSpec.of(conv))(image).shape == conv(image).shape


def test_tf_same_padding_is_kept():
    conv = timm.layers.Conv2dSame(6, 8, 3, stride=2)
    for kind in KINDS:
        for size in (7, 8):
            image = torch.randn(1, 6, size, size + 1)
            assert make(kind, ConvSpec.of(conv))(image).shape == conv(image).shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_composes_to_a_convolution(kind):
    """Linear and shift-equivariant: what a kind realises is a convolution with some k×k kernel."""
    torch.manual_seed(0)
    spec = ConvSpec(4, 6, (3, 3), padding=(1, 1), bias=True)
    module = make(kind, spec)
    with torch.no_grad():
        delta = torch.zeros(4, 4, 7, 7)
        delta[range(4), range(4), 3, 3] = 1
        bias = module(torch.zeros(1, 4, 7, 7))[0, :, 3, 3]
        kernel = (module(delta) - bias[:, None, None])[:, :, 2:5, 2:5].flip(2, 3).transpose(0, 1)
        image = torch.randn(2, 4, 9, 9)
        expected = torch.nn.functional.conv2d(image, kernel, bias, padding=1)
        torch.testing.assert_close(module(image), expected, rtol=1e-4, atol=1e-5)


def test_initial_weights_have_hes_spread():
    torch.manual_seed(0)
    for groups in (1, 64):
        weight = ConvSpec(64, 128, (3, 3), groups=groups).conv().weight
        assert weight.std().item() == pytest.approx((2 * groups / (9 * 128)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("name", "conv"), list(itertools.product(BACKBONES, CONVS)))
def test_whole_networks(name, conv):
    native = zoo.build(name, num_classes=5)
    net = zoo.build(name, num_classes=5)
    report = zoo.rewrite(net, conv, **options(conv))
    assert zoo.rewrite(net, conv, **options(conv)).rewritten == (), "rewriting twice must change nothing"
    out = net(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, 5)
    out.square().sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None]
    assert not missing
    delta = sum(e.params_after - e.params_before for e in report.entries)
    assert params(net) == params(native) + delta
    clone = zoo.build(name, conv, num_classes=5, conv_options=options(conv))
    clone.load_state_dict(net.state_dict())


@pytest.mark.parametrize("conv", ["separable", "spatial"])
def test_resnet_parameters_are_the_sum_of_closed_forms(conv):
    native = timm.create_model("resnet18")
    expected = params(native)
    for module in native.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            c, d = module.in_channels, module.out_channels
            expected += closed_form(conv, c, d, 3) - closed_form("standard", c, d, 3)
    assert params(zoo.build("resnet18", conv)) == expected


def test_mobilenet_v1_standard_is_the_papers_conv_mobilenet():
    """Howard et al. 2017, Table 4: Conv MobileNet has 29.3 M parameters and 4866 M mult-adds."""
    cost = zoo.cost(zoo.build("mobilenetv1_100", "standard"))
    assert cost.params == pytest.approx(29.3e6, rel=0.002)
    assert cost.macs == pytest.approx(4866e6, rel=0.002)


def test_standard_effnet_is_timms_edge_residual_network():
    """Every MBConv block becomes the block that timm builds from the same string with ``er`` for ``ir`` and ``ds``."""
    strings = [
        ["er_r1_k3_s1_e1_c16_se0.25"],
        ["er_r2_k3_s2_e6_c24_se0.25"],
        ["er_r2_k5_s2_e6_c40_se0.25"],
        ["er_r3_k3_s2_e6_c80_se0.25"],
        ["er_r3_k5_s1_e6_c112_se0.25"],
        ["er_r4_k5_s2_e6_c192_se0.25"],
        ["er_r1_k3_s1_e6_c320_se0.25"],
    ]
    theirs = EfficientNet(
        decode_arch_def(strings), num_features=1280, stem_size=32, round_chs_fn=round_channels, act_layer=nn.SiLU
    ).eval()
    ours = zoo.build("efficientnet_b0", "standard").eval()
    # timm's own EdgeResidual squeezes by the block's input, ours keeps B0's squeeze-excite: those widths differ.
    skip = ".se."
    ours_shapes = {k: v.shape for k, v in ours.state_dict().items() if skip not in k}
    theirs_shapes = {k: v.shape for k, v in theirs.state_dict().items() if skip not in k}
    assert ours_shapes == theirs_shapes


@pytest.mark.parametrize("conv", list(KINDS))
def test_the_stem_is_never_rewritten(conv):
    for name, stem in (("resnet18", "conv1"), ("resnet50d", "conv1"), ("efficientnet_b0", "conv_stem")):
        with zoo.meta_init():
            native, net = timm.create_model(name), zoo.build(name, conv, conv_options=options(conv))
        before = {k: v.shape for k, v in native.state_dict().items() if k.startswith(stem)}
        assert before and before == {k: v.shape for k, v in net.state_dict().items() if k.startswith(stem)}


def test_a_network_that_has_the_form_already_is_fine_and_says_so():
    report = zoo.rewrite(zoo.build("efficientnet_b0"), "separable")
    assert not report.rewritten
    assert sum(e.reason == "separable already" for e in report.kept) == 16
    assert "separable already" in str(report)
    assert not zoo.rewrite(zoo.build("resnet18"), "standard").rewritten


def test_networks_without_a_convolution_to_rewrite_are_refused():
    for name in ("vit_tiny_patch16_224", "mixer_s32_224"):
        with pytest.raises(zoo.ConvzooError, match="no convolution that conv=separable could act on"):
            zoo.build(name, "separable")


def test_weight_standardised_convolutions_are_refused_not_skipped():
    net = timm.create_model("nf_resnet26")
    before = {k: v.shape for k, v in net.state_dict().items()}
    with pytest.raises(zoo.ConvzooError, match="StdConv2d"):
        zoo.rewrite(net, "separable")
    assert before == {k: v.shape for k, v in net.state_dict().items()}


def test_grouped_networks_keep_their_groups_under_spatial_and_say_when_params_rise():
    net = timm.create_model("resnext50_32x4d")
    report = zoo.rewrite(net, "spatial")
    assert net.layer1[0].conv2.vertical.groups == 32
    assert not report.raised
    assert zoo.rewrite(timm.create_model("resnext50_32x4d"), "separable").raised


def test_rewriting_somebody_elses_network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    report = zoo.rewrite(net, "depthwise_separable")
    assert [e.name for e in report.rewritten] == ["2"]
    assert zoo.swap_activations(net, "swish") == 1
    assert net(torch.randn(1, 3, 8, 8)).shape == (1, 2)


def test_groups_by_size_and_the_nearest_that_is_possible():
    net = zoo.build("resnet18", "grouped", conv_options={"group_size": 16})
    assert net.layer1[0].conv1.groups == 4 and net.layer4[0].conv2.groups == 32
    report = zoo.rewrite(zoo.build("mobilenetv2_100"), "grouped", groups=64)
    assert {e.became for e in report.rewritten} > {"grouped g=16", "grouped g=64"}
    for wrong in ({"groups": 2, "group_size": 2}, {"groups": 0}, {"group_size": 1.5}):
        with pytest.raises(zoo.ConvzooError, match="group"):
            zoo.rewrite(zoo.build("resnet18"), "grouped", **wrong)
    with pytest.raises(zoo.ConvzooError, match="conv=grouped"):
        zoo.rewrite(zoo.build("resnet18"), "spatial", groups=2)


@pytest.mark.parametrize("kind", ["separable", "blueprint", "spatial", "separable_spatial"])
def test_between_the_factors(kind):
    """bn_act adds a BatchNorm (2 per channel) and the network's own activation, which the act axis then swaps."""
    plain = zoo.build("resnet18", kind)
    net = zoo.build("resnet18", kind, conv_options={"between": "bn_act"})
    factors = [m for m in net.modules() if type(m).__name__ == type(plain.layer1[0].conv1).__name__]
    channels = [m.between.num_features for m in factors]
    assert len(factors) == 16 and params(net) == params(plain) + 2 * sum(channels)
    assert all(isinstance(m.between.act, nn.ReLU) for m in factors)
    swapped = zoo.build("resnet18", kind, "swish", conv_options={"between": "bn_act"})
    assert not any(isinstance(m, nn.ReLU) for m in swapped.modules())
    with pytest.raises(zoo.ConvzooError, match=r"conv\.between=bn_act"):
        zoo.build("resnet18", "standard", conv_options={"between": "bn_act"})


FACTORED = ["separable", "blueprint", "spatial"]


@pytest.mark.parametrize(
    ("first", "then", "between"), [c for c in itertools.product(FACTORED, KINDS, ("none", "bn_act")) if c[0] != c[1]]
)
def test_a_rewritten_network_can_be_rewritten_again_as_if_it_were_native(first, then, between):
    """What stands there is one logical convolution still, of any rank and with anything between its factors."""
    with zoo.meta_init():
        net = zoo.build("resnet18", first, num_classes=5, conv_options={"between": between})
        report = zoo.rewrite(net, then, **options(then))
        once = zoo.build("resnet18", then, num_classes=5, conv_options=options(then))
    assert len(report.rewritten) == 16
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in once.state_dict().items()}


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(["mobilenetv1_100", "mobilenetv2_100"], FACTORED)))
def test_a_converted_unit_of_higher_rank_is_one_convolution(name, kind):
    narrow = {"num_classes": 5, "width": 0.25}  # the singular values of a wide layer take half a minute
    net = zoo.build(name, "standard", **narrow)
    converted = zoo.convert(net, kind, rank=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    same = zoo.rewrite(net, kind)
    assert not same.rewritten and {e.reason for e in same.kept} == {"stem", f"{kind} already"}
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    again = zoo.rewrite(net, "standard")
    assert [e.name for e in again.rewritten] == [e.name for e in converted.rewritten]
    assert {e.was.split()[0] for e in again.rewritten} == {kind.capitalize()}
    zoo.build(name, "standard", **narrow).load_state_dict(net.state_dict())


def test_a_unit_is_rewritten_where_and_in_what_its_weights_are_now():
    net = zoo.build("resnet18", "blueprint", num_classes=2).to("meta", torch.half)
    zoo.rewrite(net, "spatial", between="bn_act")
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.half)}


@pytest.mark.parametrize("act", ["prelu", "swish_beta"])
def test_between_takes_an_activation_with_a_parameter_of_its_own(act):
    net = zoo.build("resnet18", act=act, num_classes=5)
    zoo.rewrite(net, "spatial", between="bn_act")
    parameters = [next(m.between.act.parameters()) for m in net.modules() if isinstance(m, KINDS["spatial"])]
    assert len({id(p) for p in parameters}) == 16 and {type(m.act) for m in net.modules() if hasattr(m, "act")} == {
        zoo.ACTS[act]
    }
    clone = zoo.build("resnet18", "spatial", act, num_classes=5, conv_options={"between": "bn_act"})
    clone.load_state_dict(net.state_dict())


def test_a_grouped_network_gets_its_groups_back_from_any_kind():
    net = timm.create_model("resnext50_32x4d", num_classes=2)
    zoo.rewrite(net, "separable")
    report = zoo.rewrite(net, "grouped", groups=32)
    assert len(report.rewritten) == 16, "a separable unit of a grouped network is not grouped already"
    timm.create_model("resnext50_32x4d", num_classes=2).load_state_dict(net.state_dict())


def test_one_group_is_a_dense_convolution_in_mbconv_too():
    net = zoo.build("mobilenetv2_050", num_classes=2)
    assert len(zoo.rewrite(net, "grouped", groups=1).rewritten) == 17
    zoo.build("mobilenetv2_050", "standard", num_classes=2).load_state_dict(net.state_dict())


def test_a_stem_of_factors_is_a_stem():
    net = nn.Sequential(
        KINDS["separable"](ConvSpec(3, 8, (3, 3), padding=(1, 1))), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    )
    report = zoo.rewrite(net, "spatial")
    assert [(e.name, e.reason) for e in report.entries] == [("0", "stem"), ("2", None)]
