"""Activations: complete by a count of operations, not by the type of modules."""

import itertools
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from op_counts import OPS, Ops, activation_ops
from timm.optim import create_optimizer_v2
from torch import nn

import zoo
from zoo.acts.activations import ACTS, activations

BACKBONES = ["resnet18", "efficientnet_b0", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100"]


@pytest.mark.parametrize(("name", "act"), list(itertools.product(BACKBONES, OPS)))
def test_every_activation_is_swapped(name, act):
    native, net = activation_ops(zoo.build(name)), activation_ops(zoo.build(name, act=act))
    assert set(net) == OPS[act]
    assert sum(net.values()) == sum(native.values())


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_large_100"])
def test_gates_are_left_alone(name):
    gates = (nn.Sigmoid, nn.Hardsigmoid)

    def count(net):
        return sum(isinstance(m, gates) for m in net.modules())

    assert count(zoo.build(name)) == count(zoo.build(name, act="relu")) > 0


@pytest.mark.parametrize("act", ACTS)
def test_every_activation_trains(act):
    net = zoo.build("mobilenetv2_100", act=act, num_classes=3)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_swish_is_x_times_sigmoid():
    x = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(ACTS["swish"]()(x), x * torch.sigmoid(x))


def test_a_shared_activation_stays_shared():
    shared = nn.ReLU()
    net = nn.Sequential(shared, nn.Linear(2, 2), shared)
    assert zoo.swap_activations(net, "swish") == 1
    assert net[0] is net[2] and isinstance(net[0], nn.SiLU)


def test_nothing_to_swap_is_an_error():
    with pytest.raises(zoo.ConvzooError, match="no activation"):
        zoo.swap_activations(nn.Linear(2, 2), "relu")


OWN = {"prelu": ("weight", 0.25), "swish_beta": ("beta", 1.0)}
"""Activation → its parameter, and what that is at first."""


def test_swish_with_beta_is_the_papers():
    x, beta = torch.randn(9, requires_grad=True), 0.7
    swish = ACTS["swish_beta"]()
    torch.testing.assert_close(swish(x), F.silu(x))
    with torch.no_grad():
        swish.beta.fill_(beta)
    swish(x).sum().backward()
    s = torch.sigmoid(beta * x.detach())
    torch.testing.assert_close(swish(x), x * torch.sigmoid(beta * x))
    torch.testing.assert_close(swish.beta.grad, (x.detach().square() * s * (1 - s)).sum()[None])
    # The paper's derivative of f = x·σ(βx): βf + σ(βx)(1 − βf).
    f = x.detach() * s
    torch.testing.assert_close(x.grad, beta * f + s * (1 - beta * f))
    assert swish(x.half()).dtype == torch.half


@pytest.mark.parametrize(("act", "name"), list(itertools.product(OWN, [*BACKBONES, "res2net50_26w_4s"])))
def test_one_parameter_an_activation_module_and_nothing_else(act, name):
    with zoo.meta_init():
        native, net = zoo.build(name), zoo.build(name, act=act)
    modules = {id(m) for m in activations(native).values()}
    before, after = zoo.cost(native), zoo.cost(net)
    assert after.params == before.params + len(modules)
    assert (after.macs, after.activations, after.train_macs) == (before.macs, before.activations, before.train_macs)


@pytest.mark.parametrize(("act", "own"), OWN.items())
def test_parameters_of_activations_start_right_and_do_not_decay(act, own):
    net = zoo.build("mobilenetv2_100", act=act, num_classes=3)
    parameters = [getattr(m, own[0]) for m in net.modules() if isinstance(m, ACTS[act].make)]
    assert len(parameters) == 35 and all(p.tolist() == [own[1]] for p in parameters)
    for group in create_optimizer_v2(net, "adamw", lr=0.1, weight_decay=0.5).param_groups:
        assert not group["weight_decay"] or not {id(p) for p in group["params"]} & {id(p) for p in parameters}


def test_every_activation_can_be_swapped_for_every_other():
    net, keys = zoo.build("mobilenetv3_small_050"), list(zoo.build("mobilenetv3_small_050").state_dict())
    number = len(set(map(id, activations(net).values())))
    for act in [*ACTS, *reversed([*ACTS]), "relu"]:
        assert zoo.swap_activations(net, act) == number
        assert {type(m) for m in activations(net).values()} == {ACTS[act].make}
    assert list(net.state_dict()) == keys


def test_parameters_of_activations_are_where_and_what_the_others_are():
    net = timm.create_model("resnet18", num_classes=2).half()
    zoo.swap_activations(net, "prelu")
    assert {p.dtype for p in net.parameters()} == {torch.half}
    with zoo.meta_init():
        net = timm.create_model("resnet18", num_classes=2)
    zoo.swap_activations(net, "swish_beta")
    assert all(p.is_meta for p in net.parameters())


class Small(nn.Module):
    """A network for images of 28 pixels and one channel."""

    def __init__(self, act=None):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4 * 26 * 26, 3)
        self.other = act

    def forward(self, x):
        return self.fc(self.last(self.act(self.conv(x))).flatten(1))

    def last(self, x):
        return x


def small(last, **attributes) -> nn.Module:
    """A network that ends in ``last(net, x)``."""
    return type("Small", (Small,), {"last": last})(**attributes)


class Shy(nn.ReLU):
    """A subclass may do anything."""


FUNCTIONAL = {
    "relu in the network's own forward": small(lambda net, x: F.relu(x)),
    "relu6 in the network's own": small(lambda net, x: x * F.relu6(x + 3) / 6),
    "silu in the network's own": small(lambda net, x: F.silu(x, inplace=True)),
    "celu in the network's own": small(lambda net, x: F.celu(x)),
    "elu in the network's own": small(lambda net, x: torch.selu(x)),
    r"x·sigmoid\(x\) in the network's own": small(lambda net, x: x.sigmoid() * x),
    "gelu in the network's own": small(lambda net, x: nn.GELU()(x)),
    "leaky_relu in the network's own": small(lambda net, x: net.other[0](x), act=[nn.LeakyReLU()]),
    "prelu in the network's own": small(lambda net, x: F.prelu(x, x.new_ones(1)) if net.training else x),
    "mish in the network's own": small(lambda net, x: x if net.training else F.mish(x)),
    r"relu in other \(Shy\)": small(lambda net, x: net.other(x), act=Shy()),
}


@pytest.mark.parametrize(("where", "net"), FUNCTIONAL.items(), ids=FUNCTIONAL)
def test_activations_that_are_no_modules_are_refused_not_skipped(where, net):
    modes, before = [m.training for m in net.modules()], dict(net.named_modules())
    for size in (None, 28, (28, 28)):
        with pytest.raises(zoo.ConvzooError, match=f"no modules of their own.*{where}"):
            zoo.swap_activations(net, "swish", size)
    assert dict(net.named_modules()) == before and [m.training for m in net.modules()] == modes


def test_gates_may_be_functional():
    net = small(lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)) * F.hardsigmoid(x).tanh())
    assert zoo.swap_activations(net, "swish") == 1


@pytest.mark.parametrize(
    ("name", "where"),
    {
        "mobilevitv2_050": r"relu in stages\.2\.1\.transformer\.0\.attn \(LinearSelfAttention\)",
        "dm_nfnet_f0": r"gelu in stem\.act2 \(GammaAct\)",
        "resnetv2_50d_evos": r"stem\.norm1 \(EvoNorm2dS0\)",
        "resnetv2_50d_frn": "FilterResponseNormTlu2d",
    }.items(),
)
def test_timm_networks_with_activations_that_are_no_modules(name, where):
    with zoo.meta_init(), pytest.raises(zoo.ConvzooError, match=where):
        zoo.build(name, act="relu")
    assert {c.act for c in zoo.tabulate([name], ["native"], ["native", "relu"]) if c.refused} == {"relu"}


def test_star_relu_is_one_activation():
    with zoo.meta_init():
        net = zoo.build("convformer_s18", act="swish")
    assert not {"StarReLU", "ReLU"} & {type(m).__name__ for m in net.modules()}
    with Ops() as ops, torch.no_grad():
        net(torch.zeros(1, 3, 64, 64, device="meta"))
    assert ops.count["silu"] == sum(isinstance(m, nn.SiLU) for m in net.modules()) > 0


def test_the_check_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU()).train()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    zoo.swap_activations(net, "swish")
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in net] == [True, False, True, True]
    assert all(torch.equal(v, before[k]) and v.device.type == "cpu" for k, v in net.state_dict().items())


class TwoInputs(Small):
    def forward(self, x, y):
        return super().forward(x) + y


def test_a_network_whose_input_is_unknown_is_swapped_with_a_warning():
    with pytest.warns(UserWarning, match="inputs="):
        assert zoo.swap_activations(TwoInputs(), "swish") == 1
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 18 * 58, 2))
    with pytest.warns(UserWarning, match="Give image_size"):
        zoo.swap_activations(net, "swish")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert zoo.swap_activations(net, "relu", image_size=(20, 60)) == 1
    with pytest.raises(zoo.ConvzooError, match="takes no images of image_size=20"):
        zoo.swap_activations(net, "swish", image_size=20)
    assert isinstance(net[1], nn.ReLU)
