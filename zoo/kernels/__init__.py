"""Kernels of our own for the CPU: what PyTorch's are slow at in separable networks.

Depthwise convolutions (the stock bfloat16 gradients take up to a hundred times as long as the memory asks for),
BatchNorm with its activation, squeeze-and-excitation, 1×1 convolutions on small maps. `speed_up` swaps them into a
network in place; the C++ beside this file is compiled when it is first needed. Where it cannot be, bfloat16 networks
get their depthwise convolutions in float32, which is what PyTorch does best.
"""

from zoo.kernels.library import why_not
from zoo.kernels.modules import restore, speed_up, trim

__all__ = ["restore", "speed_up", "trim", "why_not"]
