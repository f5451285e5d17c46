"""The measuring routine: warm-up, windows, spread; candidates in turn; phases, memory, data and roof."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, cycle, repeat
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.speeds import loop as loops
from zoo.speeds import memory as memories
from zoo.speeds import network as speeds
from zoo.speeds import roofline, timing
from zoo.speeds.loop import loop_speed
from zoo.speeds.memory import peak_memory
from zoo.speeds.roofline import Peaks, bound, measure_peaks
from zoo.speeds.timing import Spread, compare, measure

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
    for module in (timing, speeds, loops):
        monkeypatch.setattr(module, "perf_counter", clock)
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


def test_warm_up_is_left_out_and_lasts_until_calls_are_equally_fast(clock: Clock) -> None:
    samples = measure(clock.step("step", 9.0, 0.04, 0.03, 0.02, 0.01, then=lambda s: chain(s, repeat(0.01))), CPU, 10.0)
    assert samples == pytest.approx([0.01] * timing.BLOCKS)
    assert clock.now == pytest.approx(9.1 + 10, rel=0.1)


def test_a_slow_first_call_does_not_shorten_the_blocks(clock: Clock) -> None:
    measure(clock.step("step", 5.0, then=lambda s: chain(s, repeat(0.001))), CPU, 1.0)
    assert clock.calls.count("step") > 900


def test_long_calls_get_fewer_blocks(clock: Clock) -> None:
    assert len(measure(clock.step("step", 3.0), CPU, 1.0)) == timing.FEWEST


def test_noise_is_a_wide_middle_half_and_is_stored_beside_the_figure() -> None:
    calm, restless = Spread.of([100.0, 101, 102, 103, 104]), Spread.of([100.0, 140, 60, 120, 80])
    assert (calm.noisy, restless.noisy) == (False, True)
    assert restless.metrics("speed/x") == {"speed/x": 100, "speed/x_iqr": 40, "speed/x_noisy": 1}
    # An outlier is no noise.
    assert not Spread.of([100.0] * 8 + [900.0]).noisy


class Tiny(nn.Module):
    """BatchNorm, dropout and a head: what a training step leaves traces in."""

    def __init__(self, pool: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.pool, self.head = nn.AvgPool2d(pool), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.body(x)).flatten(1))


def test_a_network_is_as_before_after_it_was_measured() -> None:
    net = Tiny()
    net.body[1].eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    random = torch.get_rng_state()
    trained = zoo.training_speed(net, torch.zeros(3, 4, 4), batch_size=4, seconds=0.01)
    inferred = zoo.speed(net, torch.zeros(3, 4, 4), batch_size=4, seconds=0.01)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert tuple(trained.phases_ms) == speeds.PHASES
    assert all(s.median > 0 for s in (*trained.phases_ms.values(), trained.images_per_s, inferred.latency_ms))
    assert (trained.batch_size, trained.dtype, inferred.device) == (4, "float32", "cpu")


def test_a_network_that_cannot_train_on_one_image_has_no_such_figure() -> None:
    class Squeezed(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x.mean((2, 3), keepdim=True)).flatten(1))

    assert zoo.training_speed(Squeezed(), torch.zeros(3, 4, 4), 4, 0.01).step_ms is None
    assert zoo.training_speed(Tiny(), torch.zeros(3, 4, 4), 4, 0.01).step_ms.median > 0


def test_each_phase_is_timed_by_itself(clock: Clock) -> None:
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            clock.now += 3.0
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            clock.now += 5.0
            return gradient

    class Net(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Slow.apply(super().forward(x))

    class Optimizer(torch.optim.SGD):
        def step(self, closure=None):
            clock.now += 7.0
            return super().step(closure)

    found = zoo.training_speed(Net(), torch.zeros(3, 4, 4), 4, 0.0, optimizer=lambda p: Optimizer(p, lr=1.0))
    assert {name: spread.median for name, spread in found.phases_ms.items()} == pytest.approx(
        {"forward": 3000, "loss": 0, "backward": 5000, "optimizer": 7000}
    )
    assert found.images_per_s.median == pytest.approx(4 / 15)


def test_the_context_is_entered_for_every_pass_and_covers_no_backward() -> None:
    seen = []

    class Watched(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    def autocast() -> torch.autocast:
        seen.append("entered")
        return torch.autocast("cpu", torch.bfloat16)

    zoo.speed(Watched(), torch.zeros(3, 4, 4), 2, 0.0, autocast=autocast)
    assert seen[:2] == ["entered", True]
    assert seen.count("entered") == seen.count(True) > 5


@pytest.mark.parametrize("resettable", [True, False])
def test_peak_memory_of_a_part_not_of_what_was_before(resettable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not resettable:
        monkeypatch.setattr(memories, "CLEAR", Path("/nowhere/clear_refs"))
    mebibytes = 200
    if resettable:
        earlier = torch.ones(2 * mebibytes * 2**18)
        del earlier
    with peak_memory(CPU) as memory:
        torch.ones(mebibytes * 2**18)
    if not resettable and memory.rise_mb == 0:
        # The process was larger before: all that can be said.
        assert not memory.exact
        return
    if memory.exact:
        assert 0.8 * mebibytes < memory.rise_mb < 1.6 * mebibytes
    assert memory.peak_mb > memory.rise_mb


def test_a_loop_that_waits_for_data_says_so(clock: Clock) -> None:
    def batches():
        while True:
            clock.now += 0.03
            yield torch.zeros(8), torch.zeros(8)

    def prepare(batch):
        clock.now += 0.01
        return batch

    found = loop_speed(lambda x, y: clock.step("train", 0.06)(), batches(), prepare, CPU, 1.0)
    assert found.images_per_s.median == pytest.approx(80)
    assert found.data_wait == pytest.approx(0.3)
    assert found.data_ms.median == pytest.approx(40)


COST = zoo.Cost(1000, 1000, 2_000_000, 6_000_000, 5000, (32, 32))


def test_the_roof_is_the_slower_of_products_and_memory() -> None:
    quick_memory, slow_memory = Peaks(1e9, 1e12, "fp32"), Peaks(1e9, 1e6, "fp32")
    compute, memory = bound(COST, quick_memory, 10, training=True), bound(COST, slow_memory, 10, training=False)
    assert (compute.limit, memory.limit) == ("compute", "memory")
    assert compute.images_per_s == pytest.approx(1e9 / 6e6)
    assert compute.share_of_peak(50) == pytest.approx(0.3) == pytest.approx(compute.share_of_bound(50))
    moved = 5000 * 4 * 2 + 4000 / 10
    assert memory.bytes == pytest.approx(moved)
    assert memory.images_per_s == pytest.approx(1e6 / moved)
    assert memory.intensity == pytest.approx(2e6 / moved)
    # Half as many bytes an activation in bf16; weights stay in float32.
    assert bound(COST, Peaks(1e9, 1e6, "bf16"), 10, False).bytes == pytest.approx(5000 * 2 * 2 + 400)


@pytest.fixture
def quick_peaks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Peaks that are not measured; the list says what comes next."""
    values = [3.0, 5.0, 4.0, 9.0]
    monkeypatch.setattr(roofline, "_products", lambda *_: [values.pop(0)])
    monkeypatch.setattr(roofline, "_copies", lambda *_: [1.0])
    return values


def test_the_best_of_the_first_measurements_is_the_peak_and_is_kept(quick_peaks, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [measure_peaks(CPU).macs_per_s for _ in range(5)] == [3, 5, 5, 5, 5]
    assert quick_peaks == [9.0]
    # Another dtype is another peak.
    assert measure_peaks(CPU, "bf16").macs_per_s == 9
    with pytest.raises(zoo.ConvzooError, match="dtype=fp31 does not exist"):
        measure_peaks(CPU, "fp31")


@pytest.mark.parametrize("obstacle", ["no home", "a file in the way", "nonsense"])
def test_without_a_cache_it_is_measured_each_time(obstacle, quick_peaks, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if obstacle == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    elif obstacle == "a file in the way":
        (tmp_path / "cache").write_text("")
    else:
        (tmp_path / "cache" / "convzoo" / "peaks").mkdir(parents=True)
        (tmp_path / "cache" / "convzoo" / "peaks" / "peaks.json").write_text("[1, 2")
    assert measure_peaks(CPU).macs_per_s == 3
    assert measure_peaks(CPU).macs_per_s == 5


def test_peaks_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)
    peaks = measure_peaks(CPU, "fp32", seconds=0.05)
    # Any machine that runs torch multiplies more than a hundred million times a second, and none a quadrillion.
    assert 1e8 < peaks.macs_per_s < 1e15 and 1e8 < peaks.bytes_per_s < 1e14
    assert math.isfinite(bound(COST, peaks, 1, True).images_per_s)
