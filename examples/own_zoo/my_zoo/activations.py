"""An activation with weights."""

import torch
from torch import nn

import zoo


@zoo.activation("star_relu")
class StarReLU(nn.Module):
    """s·relu(x)² + b with two weights, which start so that a standard normal input keeps mean 0 and variance 1.

    Source: Yu et al. 2022, MetaFormer baselines for vision, section 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8944))
        self.bias = nn.Parameter(torch.tensor(-0.4472))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape; elementwise."""
        return self.scale * torch.relu(x).square() + self.bias
