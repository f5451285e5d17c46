"""Chooses a cell's execution plan: the requested one, or the fastest on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from lightning_modules.hardware.out_of_memory import MEMORY_ERRORS, is_out_of_memory
from zoo import kernels
from zoo.cache import digest, recall, remember
from zoo.devices import processor
from zoo.errors import ConvzooError
from zoo.speeds.plan import PLANS, Plan, candidates, compiled, fastest, training_steps
from zoo.speeds.timing import limited, timed

AUTO = "auto"
MEASURE_S = 2.0
"""Maximum seconds for measuring all candidates."""

SHARE = 0.02
"""Maximum fraction of the run's time spent on measuring; if that is too short, the first candidate is taken."""

LEAST = 4
"""Minimum number of steps to measure per candidate."""

BF16 = {"32": False, "32-true": False, "bf16": True, "bf16-mixed": True}
"""Lightning's names of the precisions that plans cover → whether that is bfloat16."""


@dataclass(frozen=True)
class PlanChoice:
    """A chosen plan, and why it was chosen.

    Attributes:
        plan: The plan.
        why: The reason, as text.
        precision: ``precision`` of Lightning's Trainer.
    """

    plan: Plan
    why: str
    precision: str

    def __str__(self) -> str:
        return f"plan {self.plan.name}: {self.plan.what} ({self.why})"


@dataclass(frozen=True)
class PlanRequest:
    """The work of one process, for which a plan is chosen.

    Attributes:
        batch: Shape (N, C, H, W) of its batches.
        classes: Number of classes in the network's output.
        steps: Approximate number of training steps: measuring does not pay off for a short run.
        accumulates: Whether gradients of several batches are accumulated.
    """

    batch: tuple[int, int, int, int]
    classes: int
    steps: int
    accumulates: bool = False


def choose_plan(
    asked: str,
    given: str | int | None,
    net: nn.Module,
    work: PlanRequest,
    device: torch.device,
    *,
    before: str | None = None,
    unmeasured: str | None = None,
) -> PlanChoice:
    """Chooses a cell's execution plan.

    Args:
        asked: ``hardware.plan``: a plan's name, or ``auto``.
        given: ``trainer.precision``; None lets the plan decide.
        net: The cell's network; not modified.
        work: The work of this process.
        device: Where it runs.
        before: The plan of the stopped run that is being resumed, which keeps it.
        unmeasured: Reason for not measuring, if any: several processes, or repeated runs, could choose differently.

    Raises:
        ConvzooError: The plan contradicts the precision, or cannot accumulate gradients.
    """
    bf16 = BF16.get(str(given))
    if given is not None and bf16 is None:
        if asked != AUTO:
            raise ConvzooError(f"hardware.plan={asked} sets the precision. Remove trainer.precision={given}.")
        plan = replace(PLANS["fp32"], name="given", what="channels last")
        return PlanChoice(plan, f"trainer.precision={given}", str(given))

    def chosen(plan: Plan, why: str) -> PlanChoice:
        return PlanChoice(plan, why, "bf16-mixed" if plan.bf16 else "32-true")

    if asked != AUTO:
        plan = PLANS[asked]
        if bf16 not in (None, plan.bf16):
            raise ConvzooError(f"hardware.plan={asked} contradicts trainer.precision={given}. Remove one of them.")
        if plan.compiled and device.type == "cuda" and work.accumulates:
            # Each replay of a CUDA graph overwrites the previous gradients.
            raise ConvzooError(
                f"hardware.plan={asked} uses CUDA graphs, which cannot accumulate gradients. Type "
                "hardware.micro_batch=N to split a large batch, or choose another plan."
            )
        return chosen(plan, "as asked")
    if before in PLANS:
        return chosen(PLANS[before], "as before the stop")
    plans = candidates(device, bf16)
    if unmeasured:
        return chosen(plans[0], f"not measured: {unmeasured}")
    if SHARE * work.steps < LEAST * len(plans):
        return chosen(plans[0], "not measured: a short run")
    # Measuring must not change the random numbers that the run draws.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            return chosen(*_remembered(net, plans, work, device))
        except (ConvzooError, *MEMORY_ERRORS) as error:  # ConvzooError: every plan failed, each with its own error
            if not any(map(is_out_of_memory, (error, *getattr(error.__cause__, "exceptions", ())))):
                raise
    # A candidate that runs out of memory must not end a run that fits with another plan.
    return chosen(plans[0], "not measured: out of memory")


def _remembered(net: nn.Module, plans: list[Plan], work: PlanRequest, device: torch.device) -> tuple[Plan, str]:
    """Returns the fastest plan and its timings as text, from the cache if this cell was measured here before."""
    # What the choice depends on: the machine, the network, its batches, and the candidates.
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    machine = [name, torch.get_num_threads(), torch.__version__, kernels.why_not()]
    shapes = [[name, list(value.shape)] for name, value in net.state_dict().items()]
    key = digest([machine, str(net), shapes, work.batch, [plan.name for plan in plans]])[:24]
    known = recall("plans", key)
    # Not on a GPU: there a long run may gain from compilation, and deciding that takes timing a step.
    if device.type != "cuda" and known.get("plan") in PLANS:
        return PLANS[known["plan"]], f"{known['why']}, measured before"
    images = torch.randn(work.batch, device=device)
    steps = training_steps(net, plans, images, work.classes)
    first = next(iter(steps))
    run_s = work.steps * timed(steps[first], device)
    longer = None if work.accumulates else compiled(PLANS[first], device, run_s)
    if longer:
        steps |= training_steps(net, [longer, PLANS[first]], images, work.classes)
    plan, measured = fastest(steps, device, limited(min(MEASURE_S, SHARE * run_s)))
    why = ", ".join(f"{name} {1000 * spread.median:.1f}" for name, spread in measured.items()) + " ms a step"
    if not longer:
        remember("plans", key, {"plan": plan.name, "why": why})
    return plan, why
