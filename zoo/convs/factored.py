"""Defines the base class of the kinds that are made of several convolutions."""

from __future__ import annotations

from torch import nn

from zoo.convs.spec import ConvSpec


class Factored(nn.Module):
    """One logical convolution that is realised by several; surgery treats it as one.

    Args:
        spec: The logical convolution.
    """

    # Surgery reads this property, the forward pass does not; torch.jit.script cannot compile it.
    __jit_unused_properties__ = ("spec",)

    def __init__(self, spec: ConvSpec) -> None:
        super().__init__()
        self._spec = spec
        self.in_channels, self.out_channels = spec.in_channels, spec.out_channels

    @property
    def spec(self) -> ConvSpec:
        """The logical convolution, with the current device and dtype of its weights."""
        weight = next(self.parameters())
        return self._spec.but(device=weight.device, dtype=weight.dtype)
