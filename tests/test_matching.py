"""Matched cost: the width at which a conv kind meets a budget."""

import pytest
import torch

import zoo
from zoo.matching import match_text, parse_budget


def on_meta(backbone, **arguments):
    with torch.device("meta"):
        return zoo.build(backbone, **arguments)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv1_100"])
@pytest.mark.parametrize("budget", [{"macs": 300e6}, {"params": 3e6}], ids=str)
def test_no_other_width_is_nearer_to_the_budget(backbone, budget):
    ((what, amount),) = budget.items()
    found = zoo.match(backbone, "separable", **budget, num_classes=10, image_size=160)

    def off(width):
        net = on_meta(backbone, conv="separable", num_classes=10, width=width)
        return abs(getattr(zoo.cost(net, 160), what) - amount)

    assert off(found.width) == abs(getattr(found.cost, what) - amount)
    assert found.miss == pytest.approx((getattr(found.cost, what) - amount) / amount)
    assert all(off(found.width) <= off(round(found.width + step / 1000, 3)) for step in (-25, -3, -1, 1, 3, 25))


def test_the_published_network_meets_its_own_cost():
    macs = zoo.cost(on_meta("mobilenetv2_100"), 224).macs
    found = zoo.match("mobilenetv2_100", macs=macs)
    assert found.width == 1 and found.miss == 0
    assert match_text("native", 96, "mobilenetv2_100", conv="separable", act="relu", in_chans=3).width == 1


def test_matching_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    zoo.match("resnet18", "spatial", params=5e6, image_size=32)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"backbone": "mobilenetv3_small_100", "params": 1e5}, "at width 0.05 it still has .* larger budget"),
        ({"backbone": "resnet18", "macs": 1e15}, "Type a smaller budget"),
        ({"backbone": "resnet18"}, "one budget"),
        ({"backbone": "resnet18", "macs": 1e9, "params": 1e6}, "one budget"),
        ({"backbone": "resnet18", "macs": -5}, "above 0"),
        ({"backbone": "convnext_atto", "macs": 1e9}, "no depth and width"),
    ],
    ids=str,
)
def test_budgets_that_cannot_be_met(arguments, says):
    with pytest.raises(zoo.ConvzooError, match=says):
        zoo.match(**arguments)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs:600M", {"macs": 600_000_000}),
        ("macs:1.8G", {"macs": 1_800_000_000}),
        ("macs:1.8B", {"macs": 1_800_000_000}),
        ("params:500k", {"params": 500_000}),
        ("params:1234567", {"params": 1_234_567}),
        ("native", {}),
    ],
)
def test_budgets_as_people_type_them(text, budget):
    assert parse_budget(text) == budget
