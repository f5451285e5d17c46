"""Activations: complete by a count of operations, not by the type of modules."""

import collections
import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.acts import ACTS

BACKBONES = ["resnet18", "efficientnet_b0", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100"]
OPS = {"relu": {"relu"}, "swish": {"silu"}, "gelu": {"gelu"}, "hard_swish": {"hardswish"}, "relu6": {"hardtanh"}}
ALL_OPS = {"relu", "silu", "gelu", "hardswish", "hardtanh", "mish", "leaky_relu", "elu"}


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__.rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


def activation_ops(net: nn.Module) -> collections.Counter:
    with Ops() as ops, torch.no_grad():
        net.eval()(torch.zeros(1, 3, 64, 64))
    return collections.Counter({k: v for k, v in ops.count.items() if k in ALL_OPS})


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
