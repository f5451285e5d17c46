"""A training step under every execution plan, against PyTorch as it comes: per family × conv kind.

    python benchmarks/step.py [--models efficientnet_b0,…] [--convs native,…] [--image-size 32] [--batch-size 128]

A step is forward, loss, backward and AdamW on images that are in memory: eager float32 contiguous with the usual
optimizer for the baseline, a fused optimizer for the plans. One thread unless asked otherwise; about four minutes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from turns import in_turn, options, show, text, write

import zoo
from zoo.plan import PLAIN, PLANS, Plan, candidates

MODELS = "efficientnet_b0,mobilenetv2_100,resnet18"
CONVS = "native,separable,standard,spatial"


def make_step(net: torch.nn.Module, plan: Plan, images: torch.Tensor) -> Callable[[], float]:
    """One step of a copy of the network; returns its CPU seconds."""
    net = plan.apply(copy.deepcopy(net), images.device).train()
    ours = plan is not PLAIN
    if plan.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, **({"fused": True} if ours else {}))
    labels = torch.arange(len(images)) % 10

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
    torch.set_num_threads(given.threads)
    cpu = torch.device("cpu")
    plans = [PLAIN, *(p for p in PLANS.values() if not p.compiled and (not p.bf16 or candidates(cpu, None)[0].bf16))]
    rows, results, seen = [], [], {}
    for model in given.models.split(","):
        for conv in given.convs.split(","):
            torch.manual_seed(0)
            stem = "small" if given.image_size <= 64 else "imagenet"
            net = zoo.build(model, conv, num_classes=10, stem=stem)
            shapes = str([tuple(p.shape) for p in net.parameters()])
            if seen.setdefault((model, shapes), conv) != conv:
                continue  # EfficientNet native and separable are one network
            images = torch.randn(given.batch_size, 3, given.image_size, given.image_size)
            steps = {plan.name: make_step(net, plan, images) for plan in plans}
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
