"""Counts the activations that a network executes, by operation."""

import collections

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

OPS = {
    "relu": {"relu"},
    "swish": {"silu"},
    "gelu": {"gelu"},
    "hard_swish": {"hardswish"},
    "relu6": {"hardtanh"},
    "prelu": {"_prelu_kernel"},
}


ALL_OPS = {"relu", "silu", "gelu", "hardswish", "hardtanh", "mish", "leaky_relu", "elu", "_prelu_kernel"}


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
