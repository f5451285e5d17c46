"""The statistics of the report, against closed forms and scipy."""

import itertools
import math
import random

import pytest
from scipy import stats
from synthetic_sweep import make_cell, make_result

from zoo.report.effects import find_effects
from zoo.report.groups import compare
from zoo.report.intervals import estimate, paired, t_quantile
from zoo.report.metrics import ACCURACY, METRICS
from zoo.report.pareto import front, front_cells
from zoo.report.runs import Run

MACS = next(metric for metric in METRICS if metric.name == "macs")
LATENCY = next(metric for metric in METRICS if metric.name == "latency")


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 29, 30, 200, 1001])
def test_t_quantile(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_mean_spread_and_interval():
    values = [0.91, 0.93, 0.90, 0.97]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    assert (found.mean, found.sd, found.n) == (pytest.approx(0.9275), pytest.approx(stats.tstd(values)), 4)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert estimate([3]).sd is None and estimate([3]).half_width is None
    assert estimate([11_200_001] * 3).mean == 11_200_001 and estimate([0.1 + 0.2, 0.3]).sd == 0


def test_a_paired_difference_is_the_paired_t_test():
    a, b = {0: 0.91, 1: 0.95, 2: 0.93, 3: 0.5}, {2: 0.90, 1: 0.91, 0: 0.89, 4: 0.1}
    found = paired(a, b)
    expected = stats.ttest_rel([a[s] for s in range(3)], [b[s] for s in range(3)]).confidence_interval(0.95)
    assert found.estimate.n == 3
    assert found.estimate.mean - found.estimate.half_width == pytest.approx(expected.low)
    assert found.estimate.mean + found.estimate.half_width == pytest.approx(expected.high)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({0: 0.91, 1: 0.92, 2: 0.94}, "higher"),
        ({0: 0.71, 1: 0.72, 2: 0.735}, "lower"),
        ({0: 0.81, 1: 0.80, 2: 0.82}, "within noise"),
        ({0: 0.8, 1: 0.81, 2: 0.82}, "within noise"),
        ({0: 0.9, 1: 0.91, 2: 0.92}, "no spread"),
        ({0: 0.9}, "one seed"),
        ({7: 0.9}, "no common seed"),
    ],
)
def test_verdicts(values, verdict):
    assert paired(values, {0: 0.8, 1: 0.81, 2: 0.82}).verdict == verdict


def run_of(cell, accuracy=0.9, **more):
    result = make_result(cell, accuracy) | more
    fields = ("status", "cell", "recipe", "metrics", "environment")
    return Run(f"{cell} {more}", **{key: result[key] for key in fields})


def group_of(accuracies, **cost):
    """A group from accuracies by (model, conv, act, seed)."""
    (group,) = compare([run_of(make_cell(m, c, a, s), y) for (m, c, a, s), y in accuracies.items()])
    return group


def test_repeats_of_a_seed_are_one_value():
    (group,) = compare([run_of(make_cell(seed=s), y, command=str(y)) for s, y in ((0, 0.8), (0, 0.9), (1, 0.95))])
    found = group.cells[0].estimate(ACCURACY)
    assert (found.n, found.mean) == (2, pytest.approx(0.9))


def test_the_mean_ranks_never_the_best_seed():
    group = group_of(
        {("resnet", "standard", "relu", s): y for s, y in enumerate((0.99, 0.80, 0.80))}
        | {("effnet", "standard", "relu", s): y for s, y in enumerate((0.90, 0.91, 0.90))}
    )
    assert [(cell.choices["model"], group.rank(cell)) for cell in group.cells] == [("effnet", 1), ("resnet", 2)]
    assert group.best.choices["model"] == "effnet" and group.against_best(group.cells[1]).verdict == "within noise"


MODELS, CONVS, ACTS = ("effnet", "mobilenet", "resnet"), ("separable", "spatial"), ("relu", "swish")
GRID = list(itertools.product(MODELS, CONVS, ACTS))


def additive(model, conv, act):
    return 0.9 + 0.01 * MODELS.index(model) - 0.02 * CONVS.index(conv) + 0.004 * ACTS.index(act)


def by_factors(group, metric=ACCURACY):
    return {found.factors: found for found in find_effects(group, metric)}


def means(found):
    return {levels: effect.mean for levels, effect in found.effects.items()}


def test_additive_accuracies_have_their_effects_and_no_interaction():
    noise = {0: -0.001, 1: 0.0, 2: 0.002}
    found = by_factors(group_of({(*cell, s): additive(*cell) + noise[s] for cell in GRID for s in noise}))
    assert list(means(found["model",]).values()) == pytest.approx([-0.01, 0, 0.01])
    assert means(found["conv",]) == pytest.approx({("separable",): 0.01, ("spatial",): -0.01})
    assert found["act",].size == pytest.approx(0.002)
    for pair in itertools.combinations(("model", "conv", "act"), 2):
        assert found[pair].size == pytest.approx(0, abs=1e-12)
    assert found["model",].over == "seeds" and found["model",].contexts == found["model",].all_contexts == 4
    # A seed's own level cancels out: the noise of the effects is 0.
    assert found["model",].noise == pytest.approx(0, abs=1e-12)


def test_effects_and_interactions_add_up_to_the_variance():
    """In a full factorial the squares of the sizes are a partition of the cells' variance (what is left: 3 factors)."""
    random_ = random.Random(0)
    accuracies = {cell: random_.random() for cell in GRID}
    found = by_factors(group_of({(*cell, 0): y for cell, y in accuracies.items()}))
    mean = sum(accuracies.values()) / len(GRID)

    def fitted(cell):
        named = dict(zip(("model", "conv", "act"), cell, strict=True))
        named["model"] += " " + {"effnet": "b0", "mobilenet": "v2", "resnet": "18"}[named["model"]]
        return mean + sum(means(f)[tuple(named[k] for k in factors)] for factors, f in found.items())

    rest = sum((accuracies[cell] - fitted(cell)) ** 2 for cell in GRID) / len(GRID)
    variance = sum((y - mean) ** 2 for y in accuracies.values()) / len(GRID)
    assert sum(f.size**2 for f in found.values()) + rest == pytest.approx(variance)


def test_an_effect_over_seeds_has_the_t_interval_of_its_seeds():
    random_ = random.Random(1)
    accuracies = {(*cell, s): random_.random() for cell in GRID for s in range(4)}
    found = by_factors(group_of(accuracies))["act",]
    per_seed = [
        sum(accuracies[m, c, "swish", s] - accuracies[m, c, "relu", s] for m in MODELS for c in CONVS) / 12
        for s in range(4)
    ]
    swish = found.effects["swish",]
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(per_seed), scale=stats.sem(per_seed))
    assert swish.mean == pytest.approx(stats.tmean(per_seed))
    assert swish.half_width == pytest.approx((high - low) / 2)


def test_one_seed_has_intervals_over_contexts():
    found = by_factors(group_of({(*cell, 0): additive(*cell) + 0.01 * (cell[0] == "resnet") for cell in GRID}))
    assert found["act",].over == "contexts" and found["act",].noise is None
    assert found["act",].effects["relu",].n == 6


def test_a_missing_cell_costs_its_contexts_and_biases_nothing():
    accuracies = {
        (*cell, s): additive(*cell) for cell in GRID for s in range(2) if cell != ("resnet", "spatial", "relu")
    }
    found = by_factors(group_of(accuracies))
    assert (found["model",].contexts, found["model",].all_contexts) == (3, 4)
    assert list(means(found["model",]).values()) == pytest.approx([-0.01, 0, 0.01])
    assert means(found["conv",])["separable",] == pytest.approx(0.01)
    # Without the missing pair of levels there is no whole table: a level is left out, and named.
    assert found["model", "conv"].contexts == 1 and not found["model", "conv"].left_out


def test_a_level_without_any_whole_context_is_left_out_and_named():
    accuracies = {(*cell, 0): additive(*cell) for cell in GRID if cell[0] != "resnet"}
    accuracies |= {("resnet", "grouped", "relu", 0): 0.5}
    found = by_factors(group_of(accuracies))
    assert found["model",].left_out == ["resnet 18"]
    assert list(means(found["model",]).values()) == pytest.approx([-0.005, 0.005])


def test_seeds_that_a_few_cells_lack_do_not_spoil_the_interval():
    accuracies = {(*cell, s): additive(*cell) + s / 1000 for cell in GRID for s in range(3)}
    del accuracies["resnet", "spatial", "relu", 1]
    found = by_factors(group_of(accuracies))
    assert found["act",].over == "seeds" and found["act",].contexts == 5
    assert found["act",].effects["relu",].n == 3


def test_costs_are_compared_by_ratio():
    group = group_of({(*cell, 0): 0.9 for cell in GRID})
    macs = {tuple(c.choices[k] for k in ("model", "conv", "act")): c.mean(MACS) for c in group.cells}
    assert by_factors(group, MACS)["act",].size == by_factors(group, MACS)["conv", "act"].size == 0
    found = means(by_factors(group, MACS)["conv",])
    ratio = math.prod(macs[m, "spatial", a] / macs[m, "separable", a] for m in MODELS for a in ACTS) ** (1 / 6)
    assert math.exp(found["spatial",] - found["separable",]) == pytest.approx(ratio)


@pytest.mark.parametrize("lower", [True, False])
def test_the_front_is_what_nothing_dominates(lower):
    random_ = random.Random(2)
    for _ in range(50):
        points = [(random_.randint(1, 6), random_.randint(1, 6)) for _ in range(random_.randint(0, 12))]

        def dominates(a, b):
            cost = a[0] <= b[0] if lower else a[0] >= b[0]
            return cost and a[1] >= b[1] and a != b

        expected = {i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)}
        assert set(front(points, lower)) == expected


def test_the_front_of_a_measured_figure_keeps_to_one_device():
    other = {"device": "another", "threads": 64}
    runs = [run_of(make_cell(act=act), 0.9 + i / 100) for i, act in enumerate(("relu", "swish"))]
    runs.append(run_of(make_cell(act="gelu"), 0.99, environment=other))
    (group,) = compare(runs)
    assert "gelu" in {cell.choices["act"] for cell in front_cells(group, MACS)}
    assert "gelu" not in {cell.choices["act"] for cell in front_cells(group, LATENCY)}
