"""Any timm ConvNet: each kind does the whole job on it, or says why not. On the meta device: nothing is computed."""

import collections
import functools
import itertools
from contextlib import AbstractContextManager, nullcontext

import pytest
import timm
import torch
from op_counts import ALL_OPS, OPS, Ops
from torch import nn

import zoo
from zoo.convs import KINDS
from zoo.meta import ShapesOnly
from zoo.surgery.sites import SkippedConv, find_sites

BACKBONES = """
resnet18 resnet50d resnext50_32x4d wide_resnet50_2 seresnet50 ecaresnet26t skresnet18 resnest14d gcresnet33ts
res2net50_26w_4s resnetv2_50 densenet121 rdnet_tiny vgg11 vgg16_bn regnetx_002 regnety_004 regnetz_b16
mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_050 mobilenetv4_conv_small
mobilenetv4_conv_medium efficientnet_b0 tf_efficientnet_b0 efficientnet_lite0 efficientnetv2_rw_t
tf_efficientnetv2_b0 efficientnet_es mnasnet_100 semnasnet_100 fbnetc_100 spnasnet_100 hardcorenas_a tinynet_a
lcnet_050 rexnet_100 ghostnet_100 ghostnetv2_100 convnext_atto convnextv2_atto inception_next_atto
mambaout_femto starnet_s1 edgenext_xx_small legacy_xception xception41 xception41p inception_v3 inception_v4
inception_resnet_v2 nasnetalarge pnasnet5large dpn68 hrnet_w18_small dla34 selecsls42b cspresnet50
cspdarknet53 darknet53 cs3darknet_s gernet_s ese_vovnet19b_dw ese_vovnet39b hgnet_tiny hgnetv2_b0
efficientvit_b0 mobilevit_xxs
""".split()  # noqa: SIM905

REFUSED = {
    "nf_resnet50": "StdConv2d",
    "nfnet_l0": "StdConv2d",
    "resnetv2_50x1_bit": "StdConv2d",
    "tf_efficientnet_cc_b0_4e": "CondConv2d",
    "repvgg_a0": "re-parameterised",
    "mobileone_s0": "re-parameterised",
    "repghostnet_050": "re-parameterised",
    "fastvit_t8": "re-parameterised",
    "repvit_m0_9": "re-parameterised",
    "mixnet_s": "MixedConv2d",
    "vit_tiny_patch16_224": "no convolution",
    "mixer_s32_224": "no convolution",
    "swin_tiny_patch4_window7_224": "no convolution",
}
SIZES = {
    "inception_v4": 139,
    "inception_resnet_v2": 139,
    "nasnetalarge": 139,
    "pnasnet5large": 139,
    "inception_v3": 139,
}


def build(name: str, conv: str = "native", act: str = "native") -> nn.Module:
    with zoo.meta_init():
        return zoo.build(name, conv, act, num_classes=7)


def run(name: str, net: nn.Module, watch: AbstractContextManager = nullcontext()) -> torch.Tensor:  # noqa: B008
    size = SIZES.get(name, 96)
    with ShapesOnly(), watch:
        return net(torch.zeros(2, 3, size, size, device="meta"))


@functools.cache
def op_counts(name: str, act: str) -> collections.Counter:
    net = build(name, act=act).eval()
    with torch.no_grad():
        run(name, net, ops := Ops())
    return collections.Counter({k: v for k, v in ops.count.items() if k in ALL_OPS})


def without_gradient(net: nn.Module, out: torch.Tensor) -> int:
    """How many parameters a backward pass would leave alone: the graph is walked, as nothing is to be computed."""
    nodes, seen, reached = [out.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            if hasattr(node, "variable"):
                reached.add(node.variable)
    return sum(p not in reached for p in net.parameters())


@functools.cache
def natively_without_gradient(name: str) -> int:
    native = build(name).eval()
    return without_gradient(native, run(name, native))


def test_what_a_backward_pass_leaves_alone_is_found():
    net = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    net["used"].weight.requires_grad_(False)
    out = net["used"](torch.ones(1, 2))
    out.sum().backward()
    assert without_gradient(net, out) == sum(p.grad is None for p in net.parameters()) == 3


@pytest.mark.parametrize(("name", "conv"), list(itertools.product(BACKBONES, KINDS)))
def test_the_whole_job(name, conv):
    net = build(name, conv)
    keys = list(net.state_dict())
    # Every site has the form now, and what is left alone is left alone for a reason.
    again = list(find_sites(net))
    left = [s.name for s in again if not isinstance(s, SkippedConv) and conv != "grouped" and conv not in s.forms]
    assert not left
    assert all(s.reason for s in again if isinstance(s, SkippedConv))
    out = run(name, net.eval())
    assert out.shape == (2, 7)
    assert without_gradient(net, out) == natively_without_gradient(name)
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_built_twice_has_the_same_keys(name):
    assert list(build(name, "separable").state_dict()) == list(build(name, "separable").state_dict())


@pytest.mark.parametrize(("name", "act"), list(itertools.product(BACKBONES, ["relu", "swish"])))
def test_every_activation_is_swapped(name, act):
    native, swapped = op_counts(name, "native"), op_counts(name, act)
    assert set(swapped) == OPS[act], f"{name} keeps {dict(swapped)}"
    assert sum(swapped.values()) == sum(native.values())


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_rewritten_is_refused_with_the_reason(name):
    with zoo.meta_init():
        net = timm.create_model(name)
    keys = list(net.state_dict())
    with pytest.raises(zoo.ConvzooError, match=REFUSED[name]):
        zoo.rewrite(net, "separable")
    assert list(net.state_dict()) == keys
