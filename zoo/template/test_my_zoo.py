"""Run with: python -m pytest"""

import my_zoo  # noqa: F401 (it registers)
import pytest

import zoo


@pytest.mark.parametrize("ratio", [2, 4])
def test_ghost_is_a_convolution_and_costs_what_the_paper_says(ratio: int) -> None:
    assert zoo.check_kind("ghost", ratio=ratio)


def test_ghost_is_cheaper_than_the_standard_convolution() -> None:
    costs = {conv: zoo.cost(zoo.build("resnet18", conv=conv), 224) for conv in ("standard", "ghost")}
    assert costs["ghost"].macs < costs["standard"].macs
