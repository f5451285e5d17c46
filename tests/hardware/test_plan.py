"""Execution plans: the same training computed otherwise, and which one a cell gets."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import cache_with_kernels, cell_config, cell_spec
from tiny_cell import TINY

import zoo
from lightning_modules.cell import Cell
from lightning_modules.checkpoint.resume import find_last
from lightning_modules.hardware import plan as plan_choice
from lightning_modules.hardware.plan import PlanRequest, choose_plan
from lightning_modules.run import run_cell
from zoo.errors import ConvzooError
from zoo.speeds import plan
from zoo.speeds.plan import COMPILE_S, PLANS, candidates, compiled, fastest, has_bf16, training_step, training_steps
from zoo.speeds.timing import Spread

CPU = torch.device("cpu")
LONG = PlanRequest((4, 3, 16, 16), 10, 10_000)
EAGER = [plan for plan in PLANS.values() if not plan.compiled]


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.build("mobilenetv3_small_050", num_classes=10, stem="small")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_with_kernels(tmp_path)))
    return tmp_path / "convzoo" / "plans"


@pytest.mark.parametrize("plan", EAGER, ids=lambda plan: plan.name)
def test_a_plan_changes_neither_the_network_nor_what_it_learns(net, plan):
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    losses = []
    for network, how in ((copy.deepcopy(net), None), (copy.deepcopy(net), plan)):
        keys = list(network.state_dict())
        if how:
            how.apply(network, CPU)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
        for _ in range(2):
            with how.autocast(CPU) if how else torch.autocast("cpu", enabled=False):
                loss = torch.nn.functional.cross_entropy(network(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert list(network.state_dict()) == keys
        assert all(p.dtype == torch.float32 for p in network.parameters())
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.03 if plan.bf16 else 1e-3)
    copy.deepcopy(net).load_state_dict(network.state_dict())


def test_the_next_plan_takes_the_place_of_the_last(net):
    network = copy.deepcopy(net)
    kinds = [type(m) for m in network.modules()]
    PLANS["fp32_fast"].apply(network, CPU)
    assert [type(m) for m in network.modules()] != kinds
    PLANS["fp32"].apply(network, CPU)
    assert [type(m) for m in network.modules()] == kinds


@pytest.mark.parametrize(
    ("bf16", "names"),
    [
        (False, {"fp32", "fp32_fast"}),
        (True, {"bf16", "bf16_fast"}),
        (None, {"bf16", "bf16_fast"} if has_bf16(CPU) else {"fp32", "fp32_fast"}),
    ],
)
def test_candidates_on_a_cpu(bf16, names):
    assert {plan.name for plan in candidates(CPU, bf16)} == names


def test_a_long_run_on_a_gpu_is_compiled():
    gpu = torch.device("cuda")
    assert [plan.name for plan in candidates(gpu, False)] == ["fp32"]
    assert [plan.name for plan in candidates(gpu, True)] == ["bf16"]
    assert compiled(PLANS["bf16"], gpu, COMPILE_S).name == "bf16_compiled"
    assert compiled(PLANS["bf16"], gpu, COMPILE_S / 2) is None and compiled(PLANS["fp32"], CPU, 1e9) is None


def test_the_fastest_is_measured_and_nothing_else_changes(net):
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    steps = training_steps(net, [PLANS["fp32"], PLANS["fp32_fast"]], torch.randn(4, 3, 16, 16), 10)
    plan, measured = fastest(steps, CPU, seconds=0.1)
    torch.set_rng_state(state)
    assert measured[plan.name].median == min(s.median for s in measured.values()) > 0
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_measuring_leaves_the_random_numbers_alone(net, cache):
    state = torch.get_rng_state()
    choose_plan("auto", None, net, LONG, CPU)
    assert torch.equal(state, torch.get_rng_state())


def test_a_plan_that_fails_is_left_out(net, monkeypatch):
    def step(net, plan, images, classes):
        if plan.name == "fp32":
            raise RuntimeError("no such backend")
        return training_step(net, plan, images, classes)

    monkeypatch.setattr("zoo.speeds.plan.training_step", step)
    images = torch.randn(4, 3, 16, 16)
    assert list(training_steps(net, [PLANS["fp32"], PLANS["fp32_fast"]], images, 10)) == ["fp32_fast"]
    with pytest.raises(ConvzooError, match="no such backend"):
        training_steps(net, [PLANS["fp32"]], images, 10)


def test_a_choice_is_measured_once_per_cell_and_machine(net, cache, monkeypatch):
    calls = []

    def measured(steps, device, seconds):
        calls.append(list(steps))
        return PLANS["fp32"], {"fp32": Spread(0.001, 0), "fp32_fast": Spread(0.002, 0)}

    monkeypatch.setattr(plan_choice, "fastest", measured)
    first = choose_plan("auto", "32", net, LONG, CPU)
    assert (first.plan.name, first.why) == ("fp32", "fp32 1.0, fp32_fast 2.0 ms a step")
    again = choose_plan("auto", "32", net, LONG, CPU)
    assert again.plan.name == "fp32" and again.why.endswith("measured before")
    assert calls == [["fp32_fast", "fp32"]]
    # Another batch, another precision, another network: other cells.
    choose_plan("auto", "32", net, PlanRequest((8, 3, 16, 16), 10, 10_000), CPU)
    choose_plan("auto", "bf16-mixed", net, LONG, CPU)
    choose_plan("auto", "32", zoo.build("mobilenetv3_small_075", num_classes=10), LONG, CPU)
    assert len(calls) == 4
    for path in cache.iterdir():
        path.write_text(json.dumps({"plan": "of another version"})[:-3])
    choose_plan("auto", "32", net, LONG, CPU)
    assert len(calls) == 5, "a damaged file is measured again"


@pytest.mark.parametrize(
    ("arguments", "options", "plan", "why"),
    [
        (("fp32", None), {}, "fp32", "as asked"),
        (("bf16_fast", "bf16-mixed"), {}, "bf16_fast", "as asked"),
        (("auto", None), {"before": "bf16"}, "bf16", "as before"),
        (("auto", "32-true"), {"unmeasured": "several processes"}, "fp32_fast", "several processes"),
        (("auto", "bf16-mixed"), {"unmeasured": "several processes"}, "bf16_fast", "several processes"),
        (("auto", "64-true"), {}, "given", "trainer.precision=64-true"),
    ],
)
def test_what_is_not_measured(net, cache, arguments, options, plan, why):
    found = choose_plan(*arguments, net, LONG, CPU, **options)
    assert found.plan.name == plan and why in found.why and plan in str(found)


def test_a_short_run_is_not_measured(net, cache):
    assert "short" in choose_plan("auto", None, net, PlanRequest((4, 3, 16, 16), 10, 20), CPU).why
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(("asked", "given"), [("fp32", "bf16-mixed"), ("bf16_fast", 32), ("fp32", "16-mixed")])
def test_plan_and_precision_may_not_contradict(net, asked, given):
    with pytest.raises(ConvzooError, match=r"trainer\.precision"):
        choose_plan(asked, given, net, LONG, CPU)


@pytest.mark.parametrize("plan", ["fp32", "fp32_fast", "bf16_fast"])
def test_a_run_says_its_plan_and_saves_the_plain_network(plan, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})
    config = cell_config(*TINY, f"hardware.plan={plan}")
    result = run_cell(config, tmp_path, "")
    assert (result["environment"]["plan"], result["environment"]["plan_why"]) == (plan, "as asked")
    assert result["environment"]["dtype"] == ("bf16-mixed" if PLANS[plan].bf16 else "32-true")
    assert f"plan {plan}: {PLANS[plan].what} (as asked)" in capsys.readouterr().out
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert all(v.dtype in (torch.float32, torch.int64) for v in saved.values())
    loaded = zoo.load(tmp_path / "best.ckpt")
    assert not [m for m in loaded.modules() if type(m).__module__.startswith("zoo.kernels")]


def test_a_wrong_plan_is_refused():
    from lightning_modules.config.check import check

    with pytest.raises(ConvzooError, match=r"hardware\.plan=turbo is not allowed\. Allowed: auto, fp32, "):
        check(cell_spec("hardware.plan=turbo"))


def test_no_checkpoint_no_plan(tmp_path):
    assert find_last(tmp_path, cell_spec()) is None


def test_a_batch_that_is_too_large_to_measure_is_no_reason_to_end(net, cache, monkeypatch):
    """It may fit in parts (hardware.micro_batch=auto)."""

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(plan, "training_step", full)
    chosen = choose_plan("auto", "32", net, LONG, CPU)
    assert chosen.why == "not measured: out of memory" and chosen.plan.name == "fp32_fast"


def test_cuda_graphs_do_not_accumulate_gradients(net):
    work = PlanRequest((4, 3, 16, 16), 10, 10_000, accumulates=True)
    with pytest.raises(ConvzooError, match=r"cannot accumulate gradients. Type hardware.micro_batch=N"):
        choose_plan("bf16_compiled", None, net, work, torch.device("cuda"))
    assert choose_plan("bf16_compiled", None, net, work, CPU).plan.compiled
