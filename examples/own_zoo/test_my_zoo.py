"""Run with: python -m pytest"""

import pytest
import torch
from my_zoo.activations import StarReLU
from my_zoo.convolutions import Ghost, PConv

import zoo


@pytest.mark.parametrize(
    ("kind", "options"), [("ghost", {}), ("ghost", {"ratio": 3, "cheap": 5}), ("pconv", {}), ("pconv", {"part": 2})]
)
def test_a_kind_is_a_convolution_and_costs_what_its_paper_says(kind: str, options: dict) -> None:
    assert zoo.check_kind(kind, **options) >= 4


@pytest.mark.parametrize(
    ("kind", "speedup"),
    [
        (Ghost, 2 * 64 / (64 + 2 - 1)),  # Han et al. 2020, eq. 4, where d = k: s·C / (C + s − 1)
        (PConv, 9 / (9 / 16 + 1)),  # Chen et al. 2023, eq. 2 and 5, where C = C′: k² / (k²/p² + 1)
    ],
)
def test_the_speedup_of_a_paper(kind: type[zoo.Factored], speedup: float) -> None:
    spec = zoo.ConvSpec(64, 64, (3, 3), padding=(1, 1))
    standard, ours = (zoo.cost(conv, image_size=56, in_chans=64).macs for conv in (spec.conv(), kind(spec)))
    assert standard / ours == pytest.approx(speedup)


def test_star_relu_keeps_mean_and_variance() -> None:
    x = StarReLU()(torch.randn(100_000))
    assert abs(x.mean()) < 0.05 and abs(x.var() - 1) < 0.1
