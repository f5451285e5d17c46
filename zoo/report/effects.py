"""Main effects and interactions of the choices in one group of cells: which choice matters.

A *factor* is a choice with several levels (model, conv, act and anything else that varies); a *context* is one
combination of the other factors. Only contexts in which every level has a completed cell are used, so that all levels
are compared in the same contexts, however unbalanced the whole table is. If no context has every level, the level with
the fewest cells is left out, repeatedly, and reported.

With y(level, context) and means over levels (y.c), the *main effect* of a level is the mean over contexts of
y(l, c) − y.c. The *interaction* of level a of one factor with level b of another is the mean over the contexts of
the remaining factors of y_ab − y_a. − y_.b + y_.. . Accuracies are subtracted directly; all other metrics as
logarithms, and shown as ratios (1.2: 20 % above the geometric mean).

Intervals: if the seeds allow, each effect is computed for each seed, and its interval is the t interval of the mean
over seeds: the noise of training. The seeds are those that at least half of the contexts have for every level, and the
contexts those that have all of these seeds. With fewer than two such seeds, or fewer than half of the contexts, y is
the mean over a cell's own seeds, and the interval is that of the mean over contexts: how much the effect depends on
the other factors. An interaction with only one context then has no interval.

The *size* of a choice is the root mean square of its effects; *noise* is the root mean square of their standard errors
over seeds. A size that is not well above its noise is no evidence of an effect.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.report.cells import Cell, Group, determined, varying
from zoo.report.intervals import ROUNDING, Estimate, estimate
from zoo.report.metrics import Metric

Levels = tuple[str, ...]
Block = dict[Levels, Mapping[Any, float]]
"""One context: a metric by levels and seed."""


@dataclass(frozen=True)
class Effects:
    """The effects of one factor, or of two together.

    Attributes:
        factors: One name, or two.
        effects: One level of each factor → its deviation from the mean over all levels: mean and spread, in logarithms
            unless the metric is an accuracy.
        over: What the intervals are taken over: ``seeds`` or ``contexts``.
        contexts: Number of contexts used.
        all_contexts: Number of contexts with at least one cell.
        left_out: Levels left out because no context has all levels.
    """

    factors: tuple[str, ...]
    effects: dict[Levels, Estimate]
    over: str
    contexts: int
    all_contexts: int
    left_out: list[str]

    @property
    def size(self) -> float:
        return _rms([effect.mean for effect in self.effects.values()])

    @property
    def noise(self) -> float | None:
        """Root mean square of the standard errors; None if the cells do not share several seeds."""
        if self.over != "seeds":
            return None
        return _rms([(effect.sd or 0) / math.sqrt(effect.n) for effect in self.effects.values()])


def find_factors(cells: Sequence[Cell]) -> dict[str, Callable[[Cell], str]]:
    """Returns the choices with several levels → function from a cell to its level. A variant is part of its model."""

    def model(cell: Cell) -> str:
        return " ".join(str(cell.choices[key]) for key in ("model", "variant") if key in cell.choices)

    def choice(key: str) -> Callable[[Cell], str]:
        return lambda cell: str(cell.choices.get(key, "–"))

    first = ["model", "variant", "conv", "act"]
    factors = {"model": model, "conv": choice("conv"), "act": choice("act")}
    for key in varying(cells):
        if key not in first and not determined(cells, first, key):
            first.append(key)
            factors[key] = choice(key)
    return {name: level for name, level in factors.items() if len({level(cell) for cell in cells}) > 1}


def find_effects(group: Group, metric: Metric) -> list[Effects] | str:
    """Returns the main effects of all factors and the interactions of all pairs, or why there are none."""
    cells = [cell for cell in group.cells if cell.completed and cell.mean(metric) is not None]
    if not metric.difference:
        cells = [cell for cell in cells if all(v > 0 for v in cell.values(metric.key).values())]
    if metric.measured and len({cell.conditions for cell in cells}) > 1:
        return "measured under different conditions, so not compared"
    factors = find_factors(cells)
    if not factors:
        return "no choice has two levels with a completed cell"
    table: Block = {}
    for cell in cells:
        values = cell.values(metric.key)
        # Cells with equal levels are the same network shown twice, with the same figures: keep one.
        levels = tuple(level(cell) for level in factors.values())
        table.setdefault(levels, values if metric.difference else {seed: math.log(v) for seed, v in values.items()})
    pairs = [*itertools.combinations(range(len(factors)), 1), *itertools.combinations(range(len(factors)), 2)]
    found = [_effects(table, list(factors), chosen) for chosen in pairs]
    return [effects for effects in found if effects] or "no choice has two levels in the same circumstances"


def _effects(table: Block, names: Sequence[str], chosen: tuple[int, ...]) -> Effects | None:
    """Returns the effects of one factor, or two, by their positions in the keys of the table."""
    contexts: dict[Levels, Block] = defaultdict(dict)
    for levels, values in table.items():
        rest = tuple(level for i, level in enumerate(levels) if i not in chosen)
        contexts[rest][tuple(levels[i] for i in chosen)] = values
    combinations, left_out = _complete(contexts)
    if not combinations:
        return None
    wanted = set(combinations)
    blocks = [{c: block[c] for c in combinations} for block in contexts.values() if block.keys() >= wanted]
    seeds, complete = _common_seeds(blocks)
    if seeds:
        blocks = complete
        samples = []
        for seed in seeds:
            found = [_deviations({levels: values[seed] for levels, values in block.items()}) for block in blocks]
            samples.append({levels: _mean(block[levels] for block in found) for levels in combinations})
    else:
        samples = [_deviations({levels: _mean(values.values()) for levels, values in b.items()}) for b in blocks]
    effects = {levels: estimate([sample[levels] for sample in samples]) for levels in combinations}
    over = "seeds" if seeds else "contexts"
    return Effects(tuple(names[i] for i in chosen), effects, over, len(blocks), len(contexts), left_out)


def _common_seeds(blocks: Sequence[Block]) -> tuple[list[object], list[Block]]:
    """Finds seeds that at least half of the contexts have, and the contexts with all of them; both empty if too few."""
    owned = [set.intersection(*map(set, block.values())) for block in blocks]
    counts = Counter(seed for seeds in owned for seed in seeds)
    seeds = {seed for seed, count in counts.items() if 2 * count >= len(blocks)}
    complete = [block for block, own in zip(blocks, owned, strict=True) if own >= seeds]
    enough = len(seeds) > 1 and 2 * len(complete) >= len(blocks)
    return (sorted(seeds, key=str), complete) if enough else ([], [])


def _complete(contexts: Mapping[Levels, Block]) -> tuple[list[Levels], list[str]]:
    """Finds combinations of levels that are complete in some context, and the levels left out to get there."""
    factors = len(next(iter(next(iter(contexts.values())))))
    present = [{levels[i] for block in contexts.values() for levels in block} for i in range(factors)]
    left_out: list[str] = []
    while all(len(levels) > 1 for levels in present):
        combinations = list(itertools.product(*map(sorted, present)))
        for block in contexts.values():
            if len(block) >= len(combinations) and block.keys() >= set(combinations):
                return combinations, left_out
        counts = Counter((i, level) for block in contexts.values() for pair in block for i, level in enumerate(pair))
        # A factor needs two levels, so one that has only two loses a level last.
        fewest = min(
            ((i, level) for i, levels in enumerate(present) for level in levels),
            key=lambda key: (len(present[key[0]]) == 2, counts[key], key),
        )
        present[fewest[0]].remove(fewest[1])
        left_out.append(fewest[1])
    return [], left_out


def _deviations(block: Mapping[Levels, float]) -> dict[Levels, float]:
    """Computes y_l − y. for one factor, y_ab − y_a. − y_.b + y_.. for two. Rounding errors become exactly 0."""
    mean, least = _mean(block.values()), ROUNDING * max(map(abs, block.values()))

    def exact(deviation: float) -> float:
        return deviation if abs(deviation) > least else 0.0

    if len(next(iter(block))) == 1:
        return {levels: exact(y - mean) for levels, y in block.items()}
    margins: dict[tuple[int, str], list[float]] = {}
    for levels, y in block.items():
        for position, level in enumerate(levels):
            margins.setdefault((position, level), []).append(y)
    means = {margin: _mean(found) for margin, found in margins.items()}
    return {(a, b): exact(y - means[0, a] - means[1, b] + mean) for (a, b), y in block.items()}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(_mean(v * v for v in values))
