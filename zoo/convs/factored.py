"""What the kinds made of several convolutions have in common."""

from __future__ import annotations

from torch import nn

from zoo.convs.spec import ConvSpec


class Factored(nn.Module):
    """One logical convolution, realised by several: whoever rewrites a network takes it for one.

    Args:
        spec: The logical convolution.
    """

    # What rewriting asks for is no part of the forward pass: torch.jit.script could not compile it.
    __jit_unused_properties__ = ("spec",)

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        self._spec = spec
        self.in_channels, self.out_channels = spec.in_channels, spec.out_channels

    @property
    def spec(self) -> ConvSpec:
        """The logical convolution, where and in the precision that its weights are by now."""
        weight = next(self.parameters())
        return self._spec.but(device=weight.device, dtype=weight.dtype)
