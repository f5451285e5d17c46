"""What many cells have in common is built once and counted once, and costs what it does alone."""

import functools

import pytest
import torch
from torch import nn

import zoo
from zoo.costs.forks import mapped
from zoo.costs.repeats import Repeats
from zoo.costs.reuse import Reuse
from zoo.costs.table import all_convs

SMALLER = {"densenet121": {"block_config": (2, 2, 2, 2)}}
CELLS = [(conv, act) for conv in all_convs() for act in ("native", "prelu")]


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0", "mobilenetv1_100", "xception41", "densenet121"])
def test_a_lent_network_costs_what_it_does_when_it_is_built_alone(backbone):
    reuse, arguments = Reuse(), {"num_classes": 10, **SMALLER.get(backbone, {})}

    @functools.cache
    def alone(conv, act):
        with zoo.meta_init():
            net = zoo.build(backbone, conv, act, **arguments)
        return zoo.cost(net, 64), [name for name, _ in net.named_parameters()]

    for conv, act in [*CELLS, *reversed(CELLS)]:
        with reuse.network(backbone, conv, act, **arguments) as net:
            found = reuse.cost(net, 64), [name for name, _ in net.named_parameters()]
        assert found == alone(conv, act), (conv, act)


def test_what_is_done_to_a_lent_network_is_undone():
    reuse = Reuse()
    with reuse.network("resnet18") as net:
        before = {name: type(module) for name, module in net.named_modules()}
    with pytest.raises(zoo.ConvzooError), reuse.network("resnet18", "no_such_kind"):
        pass
    with reuse.network("resnet18", "separable", "swish") as other:
        other.fc, other.seen, other.conv1.weight.requires_grad = nn.Identity(), 1, other.conv1.weight.requires_grad
    with reuse.network("resnet18") as again:
        assert again is net and not hasattr(again, "seen")
        assert before == {name: type(module) for name, module in again.named_modules()}


def test_building_draws_no_random_number():
    state = torch.get_rng_state()
    with Reuse().network("resnet18", "spatial"):
        pass
    assert torch.equal(state, torch.get_rng_state())


class Twice(nn.Module):
    def __init__(self, change=None):
        super().__init__()
        self.one, self.two = (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(2))
        if change:
            change(self.two)

    def forward(self, x):
        x = self.one(x)
        x += x
        return self.two(x)


def grow(module):
    module.extra = object()


@pytest.mark.parametrize(
    "change",
    [
        None,
        grow,
        lambda m: m[0].weight.requires_grad_(False),
        lambda m: m.register_forward_hook(lambda *_: None),
        lambda m: setattr(m[0], "stride", (2, 2)),
        lambda m: m.append(nn.Conv2d(3, 3, 1)),
    ],
)
def test_modules_that_differ_in_anything_are_counted_apart(change):
    with zoo.meta_init():
        net = Twice(change)
    repeats = Repeats()
    assert [zoo.cost(net, 8, repeats=repeats) for _ in range(2)] == [zoo.cost(net, 8)] * 2


def test_frozen_weights_and_images_keep_their_training_macs():
    """A first convolution costs no gradient of the image; the same one later does."""
    repeats = Repeats()
    with zoo.meta_init():
        net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
    cost = zoo.cost(net, 8, repeats=repeats)
    assert cost == zoo.cost(net, 8) and cost.train_macs == (2 + 3 + 3) * cost.macs // 3


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_processes_keep_the_order_and_the_error(processes):
    with mapped(str, [3, 1, 2], processes) as found:
        assert list(found) == ["3", "1", "2"]
    with pytest.raises(ValueError, match="no"), mapped(int, ["1", "no"], processes) as found:
        list(found)


def test_a_table_of_two_processes_is_that_of_one():
    asked = (["resnet18", "mobilenetv2_100", "vit_tiny_patch16_224"], all_convs(), ["native", "swish_beta"])
    assert zoo.tabulate(*asked, processes=2) == zoo.tabulate(*asked)
