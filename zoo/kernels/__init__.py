"""Custom CPU kernels for operations of separable networks that are slow in PyTorch.

Depthwise convolutions (PyTorch's bfloat16 gradients take up to a hundred times as long as their memory traffic needs),
BatchNorm with its activation, squeeze-and-excitation, and 1×1 convolutions on small feature maps. `speed_up` swaps them
into a network in place; the C++ beside this file is compiled on first use. If that fails, bfloat16 networks compute
their depthwise convolutions in float32, which is the fastest that PyTorch offers.
"""

from zoo.kernels.library import why_not
from zoo.kernels.modules import restore, speed_up, trim

__all__ = ["restore", "speed_up", "trim", "why_not"]
