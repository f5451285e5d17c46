"""Benchmark training steps under every execution plan against default PyTorch, per family × conv kind.

    python benchmarks/step.py [--models efficientnet_b0,…] [--convs native,…] [--image-size 32] [--batch-size 128]

A step is forward, loss, backward and AdamW on images in memory. The baseline is eager float32, contiguous, with the
default optimizer, in an unmodified Python process. The plans use a fused optimizer, in a process that keeps its memory
as convzoo's runs do (lightning_modules/hardware/process.py). Uses one thread by default; takes about four minutes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from turns import in_turn, options, show, text, write

import zoo
from lightning_modules.hardware.process import keep_memory
from zoo.speeds.plan import PLAIN, PLANS, Plan, has_bf16

MODELS = "efficientnet_b0,mobilenetv2_100,resnet18"
CONVS = "native,separable,standard,spatial"


class Side:
    """A process that runs steps: unmodified for the baseline, keeping its memory as convzoo's runs do for the plans."""

    def __init__(self, keeps_memory: bool, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, keeps_memory, threads), daemon=True)
        self.process.start()

    def ask(self, *question: Any) -> Any:
        self.pipe.send(question)
        return self.pipe.recv()


def serve(pipe: Any, keeps_memory: bool, threads: int) -> None:
    """Answer `Side.ask`: ``("make", name, model, conv, size, batch)`` → None, ``("step", name)`` → CPU seconds."""
    if keeps_memory:
        keep_memory()
    torch.set_num_threads(threads)
    steps: dict[str, Callable[[], float]] = {}
    while True:
        try:
            what, name, *rest = pipe.recv()
        except EOFError:
            return
        if what == "make":
            steps = {k: v for k, v in steps.items() if k != name}
            steps[name] = make_step(PLANS.get(name, PLAIN), *rest)
        pipe.send(steps[name]() if what == "step" else None)


def build(model: str, conv: str, image_size: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.build(model, conv, num_classes=10, stem="small" if image_size <= 64 else "imagenet")


def make_step(plan: Plan, model: str, conv: str, image_size: int, batch_size: int) -> Callable[[], float]:
    """Build a network and return a function that runs one training step and returns its CPU seconds."""
    images = torch.randn(batch_size, 3, image_size, image_size)
    net = plan.apply(build(model, conv, image_size), images.device).train()
    if plan.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    fused = {} if plan is PLAIN else {"fused": True}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, **fused)
    labels = torch.arange(batch_size) % 10

    def step() -> float:
        start = time.process_time()
        with plan.autocast(images.device):
            loss = F.cross_entropy(net(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - start

    step()  # warm-up
    return step


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--models", default=MODELS, help=MODELS)
    parser.add_argument("--convs", default=CONVS, help=CONVS)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    bf16 = has_bf16(torch.device("cpu"))
    plans = [PLAIN, *(p for p in PLANS.values() if not p.compiled and (bf16 or not p.bf16))]
    theirs, ours = Side(False, given.threads), Side(True, given.threads)
    sides = {plan.name: theirs if plan is PLAIN else ours for plan in plans}
    rows, results, seen = [], [], {}
    for model in given.models.split(","):
        for conv in given.convs.split(","):
            with zoo.meta_init():
                shapes = str([tuple(p.shape) for p in build(model, conv, given.image_size).parameters()])
            if seen.setdefault((model, shapes), conv) != conv:
                continue  # EfficientNet native and separable are one network
            for name, side in sides.items():
                side.ask("make", name, model, conv, given.image_size, given.batch_size)
            steps = {name: partial(side.ask, "step", name) for name, side in sides.items()}
            turns = in_turn(steps, PLAIN.name, given.rounds, f"{model} {conv}")
            ratios = {plan.name: turns.ratios(plan.name) for plan in plans[1:]}
            rows.append([model, conv, f"{1000 * turns.median(PLAIN.name):.0f}", *map(text, ratios.values())])
            results.append({"model": model, "conv": conv, "seconds": turns.samples, "times_faster": ratios})
    names = [plan.name for plan in plans[1:]]
    show(
        f"Training step, {given.image_size}×{given.image_size}, batch {given.batch_size}, {given.threads} thread(s): "
        "times faster than eager float32 (CPU time, median and quartiles)",
        ["model", "conv", "plain ms", *names],
        rows,
    )
    write(given.output, {"image_size": given.image_size, "batch_size": given.batch_size, "cells": results})


if __name__ == "__main__":
    main()
