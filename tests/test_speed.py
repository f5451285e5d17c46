"""The measuring routine: warm-up, windows, spread; candidates in turn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, cycle, repeat

import pytest
import torch

from zoo import timing
from zoo.timing import compare

CPU = torch.device("cpu")


class Clock:
    """A clock that only fake steps move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, *seconds: float, then: Callable = cycle) -> Callable[[], None]:
        """A step that takes these seconds, one after the other; ``then`` says how it goes on."""
        times = then(seconds)

        def run() -> None:
            self.calls.append(name)
            self.now += next(times)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


def test_candidates_run_in_turn_within_the_time(clock: Clock) -> None:
    steps = {"a": clock.step("a", 0.010), "b": clock.step("b", 0.015)}
    found = compare(steps, CPU, seconds=2.0)
    assert found["a"].median == pytest.approx(0.010)
    assert found["b"].median == pytest.approx(0.015)
    assert found["a"].iqr == pytest.approx(0, abs=1e-9)
    assert 1.7 < clock.now < 2.3
    turns = [name for i, name in enumerate(clock.calls) if i == 0 or clock.calls[i - 1] != name]
    assert len(turns) >= 2 * timing.ROUNDS
    assert turns == ["a", "b"] * (len(turns) // 2)


def test_drift_of_the_machine_hits_all_candidates_alike(clock: Clock) -> None:
    """The machine becomes three times slower half-way; who is faster does not change."""

    def drifting(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            clock.calls.append(name)
            clock.now += seconds * (1 if clock.now < 1 else 3)

        return run

    found = compare({"slow": drifting("slow", 0.012), "fast": drifting("fast", 0.010)}, CPU, seconds=2.0)
    assert found["slow"].median / found["fast"].median == pytest.approx(1.2, rel=0.01)


def test_a_hopeless_candidate_is_dropped_after_its_first_calls(clock: Clock) -> None:
    steps = {"hopeless": clock.step("hopeless", 0.5), "a": clock.step("a", 0.01), "b": clock.step("b", 0.011)}
    found = compare(steps, CPU, seconds=3.0)
    assert clock.calls.count("hopeless") == 3
    assert list(found) == ["hopeless", "a", "b"]
    assert found["hopeless"].median == pytest.approx(0.5)


def test_a_slow_first_call_is_not_held_against_a_candidate(clock: Clock) -> None:
    late = clock.step("late", 5.0, 0.3, then=lambda s: chain(s, repeat(0.008)))
    found = compare({"late": late, "a": clock.step("a", 0.01)}, CPU, seconds=1.0)
    assert found["late"].median == pytest.approx(0.008)
    assert clock.calls.count("late") > 3


def test_one_that_is_left_alone_has_won(clock: Clock) -> None:
    found = compare({"only": clock.step("only", 0.01)}, CPU, seconds=100.0)
    assert found["only"].median == pytest.approx(0.01)
    assert clock.now < 1
    assert compare({}, CPU) == {}
