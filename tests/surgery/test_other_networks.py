"""Other people's networks: what is shared, tied, computed, frozen or hooked stays so, or is refused with its name."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from other_networks import (
    IMAGES,
    Adapter,
    Asymmetric,
    ConvNorm,
    Dilated,
    Listed,
    PeftAdapter,
    RepVgg,
    Residual,
    Small,
    Stacked,
    Vae,
    WeightAdapter,
    conv,
    small,
)
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import zoo
from lightning_modules.hardware.sync_batchnorm import SyncNorms
from zoo import kernels
from zoo.acts.activations import ACTS
from zoo.convs import KINDS, ConvSpec, bn_act
from zoo.surgery.rewrite import give_ranks

CHANGES = {
    "rewrite": lambda net: zoo.rewrite(net, "spatial"),
    "convert": lambda net: zoo.convert(net, "spatial"),
}


def params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def refused(net: nn.Module, change: str, *words: str) -> None:
    """It is refused with these words, and left as it was."""
    modules = list(net.named_modules(remove_duplicate=False))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(zoo.ConvzooError) as error:
        CHANGES[change](net)
    assert all(word in str(error.value) for word in words), error.value
    assert list(net.named_modules(remove_duplicate=False)) == modules
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def twice(net: Small, x: torch.Tensor) -> torch.Tensor:
    for layer in net.layers:
        x = layer(x)
    return x


SHARED = {
    "alias": lambda: small(b=lambda net: net.a),
    "list": lambda: Small(lambda net: setattr(net, "layers", nn.ModuleList([net.a, net.b])), twice),
    "same list": lambda: Small(lambda net: setattr(net, "layers", nn.Sequential(net.a, net.a)), twice),
    "block": lambda: small(a=lambda net: ConvNorm(), b=lambda net: net.a),
    "dict": lambda: Small(lambda net: setattr(net, "taps", nn.ModuleDict({"x": net.a}))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", SHARED)
def test_a_shared_convolution_changes_in_all_its_places(kind, change):
    net = SHARED[kind]()
    shared = [n for n, m in net.named_modules(remove_duplicate=False) if m is net.get_submodule("a")]
    before = params(net)
    report = CHANGES[change](net)
    assert len({net.get_submodule(name) for name in shared}) == 1 < len(shared)
    assert [m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and min(m.kernel_size) > 1] == [net.stem]
    assert params(net) - before == sum(e.params_after - e.params_before for e in report.entries)
    assert net(IMAGES).shape == (2, 2)
    assert not CHANGES[change](net).rewritten


def test_ranks_are_given_in_all_places():
    net = SHARED["alias"]()
    report = zoo.convert(net, "separable", 2)
    clone = SHARED["alias"]()
    give_ranks(clone, "separable", report.ranks)
    assert clone.a is clone.b
    clone.load_state_dict(net.state_dict())


def tie(net: Small) -> None:
    net.b.weight = net.a.weight


def tie_memory(net: Small) -> None:
    net.b.weight.data = net.a.weight.data


def tie_parameter(net: Small) -> None:
    net.penalty = net.a.weight


def hide_in_list(net: Small) -> None:
    net.layers = [net.a, net.b]


def hide_method(net: Small) -> None:
    net.call = {"first": [net.a.forward]}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (tie, ("a.weight", "b.weight", "tied")),
        (tie_memory, ("a.weight", "b.weight", "tied")),
        (tie_parameter, ("a.weight", "penalty", "tied")),
        (hide_in_list, ("Small.layers", "refers to a")),
        (hide_method, ("Small.call", "refers to a")),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_would_come_apart_is_refused_with_the_names(wrong, words, change):
    refused(Small(wrong), change, *words)


def test_a_part_of_a_block_that_stands_elsewhere_too_is_refused():
    net = timm.create_model("mobilenetv2_050", num_classes=2)
    net.tap = net.blocks[1][0].conv_dw
    with pytest.raises(zoo.ConvzooError, match=r"blocks\.1\.0\.conv_dw and tap"):
        zoo.rewrite(net, "spatial")
    assert net.tap is net.blocks[1][0].conv_dw


def plain_tensor(layer: nn.Conv2d) -> None:
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)


COMPUTED = {
    "WeightNorm": lambda layer: weight_norm(layer),
    "SpectralNorm": lambda layer: spectral_norm(layer),
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "parametrization": lambda layer: parametrizations.weight_norm(layer),
    "Orthogonal": lambda layer: parametrizations.orthogonal(layer),
    "not a parameter": lambda layer: plain_tensor(layer),
    "forward": lambda layer: setattr(layer, "forward", lambda x: nn.Conv2d.forward(layer, x) * 2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_weights_are_refused_with_the_names(how, bias, change):
    net = small(a=lambda _: conv(bias))
    COMPUTED[how](net.a)
    refused(net, change, "a has", how)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("part", ["conv_pw", "conv_dw"])
def test_computed_weights_inside_a_block_are_refused(part):
    net = timm.create_model("mobilenetv2_050", num_classes=2)
    spectral_norm(net.get_submodule(f"blocks.1.0.{part}"))
    with pytest.raises(zoo.ConvzooError, match=rf"blocks\.1\.0\.{part}.*SpectralNorm"):
        zoo.rewrite(net, "spatial")


class LowRank(nn.Conv2d):
    """An adapter by inheritance."""


@pytest.mark.parametrize(
    "spoil", [spectral_norm, lambda layer: LowRank(8, 8, 1), Adapter], ids=["norm", "own", "adapter"]
)
def test_computed_weights_inside_a_unit_of_factors_are_refused(spoil):
    net = small()
    zoo.rewrite(net, "separable")
    net.a.pointwise = spoil(net.a.pointwise)
    with pytest.raises(zoo.ConvzooError, match=r"a\.pointwise (has|is)"):
        zoo.rewrite(net, "standard")


def test_a_stem_may_have_computed_weights():
    net = small()
    parametrizations.weight_norm(net.stem)
    report = zoo.rewrite(net, "spatial")
    assert [(e.name, e.reason) for e in report.entries] == [("stem", "stem"), ("a", None), ("b", None)]
    assert hasattr(net.stem, "parametrizations")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("adapter", [Adapter, PeftAdapter, WeightAdapter])
def test_adapters_are_refused_with_the_name(adapter, change):
    net = small(a=lambda net: adapter(net.a))
    refused(net, change, f"a ({adapter.__name__})")
    assert not any(p.requires_grad for p in next(net.a.children()).parameters() if adapter is Adapter)
    net = timm.create_model("resnet18", num_classes=2)
    net.layer2[0].conv2 = adapter(conv())
    with pytest.raises(zoo.ConvzooError, match=r"layer2\.0\.conv2"):
        zoo.rewrite(net, "separable")


@pytest.mark.parametrize("block", [RepVgg, Stacked, Listed, Asymmetric])
def test_reparameterised_blocks_are_known_by_what_they_are(block):
    refused(small(a=lambda net: block()), "rewrite", f"a ({block.__name__})", "re-parameterised")


@pytest.mark.parametrize("block", [ConvNorm, Residual, Dilated])
def test_other_blocks_are_rewritten_whatever_their_methods_are_called(block):
    report = zoo.rewrite(small(a=lambda net: block()), "spatial")
    assert sum(e.name.startswith("a.") for e in report.rewritten) == (1 if block is ConvNorm else 2)


def test_a_layer_called_fuse_and_a_vae_are_rewritten():
    assert {e.name for e in zoo.rewrite(Vae(), "spatial").rewritten} == {"a", "b", "fuse"}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_frozen_stays_frozen(change):
    net = small().requires_grad_(False)
    net.b.weight.requires_grad_(True)
    CHANGES[change](net)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"b.vertical.weight", "b.horizontal.weight"}


def test_a_frozen_block_stays_frozen():
    net = timm.create_model("mobilenetv2_050", num_classes=2)
    net.blocks.requires_grad_(False)
    zoo.rewrite(net, "spatial", between="bn_act")
    zoo.swap_activations(net, "prelu")
    assert not any(p.requires_grad for p in net.blocks.parameters())
    assert all(p.requires_grad for n, p in net.named_parameters() if not n.startswith("blocks."))


def test_an_activation_hands_on_whether_it_is_trained():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), nn.Conv2d(4, 4, 3), nn.PReLU(), nn.Conv2d(4, 4, 3), nn.PReLU())
    net[1].requires_grad_(False)
    zoo.swap_activations(net, "swish_beta")
    assert [net[i].beta.requires_grad for i in (1, 3, 5)] == [False, True, True]
    net[5].beta = net[3].beta
    with pytest.raises(zoo.ConvzooError, match=r"3\.beta and 5\.beta"):
        zoo.swap_activations(net, "relu")


@pytest.mark.parametrize("change", CHANGES)
def test_mode_layout_and_hooks_stay(change):
    net, seen = small().to(memory_format=torch.channels_last), []
    net.a.eval()
    handle = net.a.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    net.act.register_forward_pre_hook(lambda module, args: seen.append("act"))
    CHANGES[change](net)
    zoo.swap_activations(net, "gelu")
    seen.clear()
    net(IMAGES)
    assert seen == ["act", (2, 8, 16, 16), "act", "act"]
    handle.remove()
    net(IMAGES)
    assert len(seen) == 7
    assert not net.a.training and net.b.training
    assert net.a.vertical.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.a.vertical.weight.is_contiguous()


def test_a_hook_on_what_would_be_gone_is_refused():
    net = timm.create_model("mobilenetv2_050", num_classes=2)
    net.blocks[1][0].conv_dw.register_forward_hook(lambda *_: None)
    with pytest.raises(zoo.ConvzooError, match=r"blocks\.1\.0\.conv_dw has a hook"):
        zoo.rewrite(net, "spatial")


@pytest.mark.parametrize("again", ["elsewhere", "beside"])
def test_a_shared_batchnorm_is_synchronized_as_one(again):
    norm, sync = nn.BatchNorm2d(4), SyncNorms()
    net = nn.Sequential(norm, nn.Sequential(nn.ReLU(), norm) if again == "elsewhere" else norm)
    sync.apply(net)
    norms = {m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert [type(m) for m in norms] == [nn.SyncBatchNorm]
    sync.revert(net)
    assert {m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)} == {norm}


WAYS = {
    "script": torch.jit.script,
    "trace": lambda net: torch.jit.trace(net, torch.ones(1, 6, 9, 9)),
    "export": lambda net: torch.export.export(net, (torch.ones(1, 6, 9, 9),)).module(),
    "fx": torch.fx.symbolic_trace,
    "copy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_scripted_traced_exported_and_copied(kind, way):
    spec, image = ConvSpec(6, 8, (3, 3), padding=(1, 1)), torch.ones(1, 6, 9, 9)
    between = [{}, {"between": bn_act(ACTS["swish_beta"].make)}, {"between": bn_act(nn.PReLU)}]
    for options in between if "between" in KINDS[kind].options else [{}]:
        net = KINDS[kind](spec, **options).eval()
        torch.testing.assert_close(WAYS[way](net)(image), net(image))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("conv", [name for name, kind in KINDS.items() if "between" in kind.options])
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_whole_networks_can_be_scripted(name, conv):
    net = zoo.build(name, conv, "swish_beta", num_classes=2).eval()
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(torch.jit.script(net)(image), net(image))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "efficientnet_b0"])
def test_a_network_with_our_kernels_can_be_scripted(name):
    net = zoo.build(name, num_classes=2).eval()
    image = torch.rand(1, 3, 32, 32)
    expected = net(image)
    assert kernels.speed_up(net)
    torch.testing.assert_close(torch.jit.script(net)(image), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net(image), expected, rtol=1e-3, atol=1e-4)


QUANTIZED = {
    "shared": (SHARED["alias"], 4),
    "tied": (lambda: Small(tie), 4),
    "weight_norm": (lambda: small(a=lambda net: weight_norm(net.a)), 4),
    "adapter": (lambda: small(a=lambda net: PeftAdapter(net.a)), 6),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", QUANTIZED)
def test_they_can_be_quantized(kind):
    """They all use one ReLU three times, as torchvision's networks do."""
    pytest.importorskip("torchao")
    from zoo.compression.int8 import count_layers, quantize

    torch.manual_seed(0)
    make, layers = QUANTIZED[kind]
    net = make().eval()
    expected = net(IMAGES)
    quantized = quantize(net, [IMAGES])
    assert count_layers(quantized) == (layers, layers)
    torch.testing.assert_close(quantized(IMAGES), expected, rtol=0.1, atol=0.02)
