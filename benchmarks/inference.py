"""Benchmark inference of the zoo's networks, images/s and latency, against the same networks in plain PyTorch.

The baseline is the most common setting: timm's network, eager, float32, contiguous (for a rewritten convolution, the
rewritten network in that setting). All variants of a cell share their weights and are measured in turn; their logits
are checked against the baseline's. Takes four minutes on an idle core.

    python benchmarks/inference.py --output inference.json
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import timm
import torch
from torch import nn
from turns import block, in_turn, options, show, text, write

import zoo
from zoo.costs.fingerprint import fingerprint
from zoo.speeds.plan import PLANS

MODELS = ("resnet18", "mobilenetv2_100", "efficientnet_b0")
CONVS = ("native", "standard", "separable", "spatial")
BASELINE = "plain"
LOOSE = 0.25
"""Tolerance of bf16 logits with random weights, relative to the largest logit; float32 variants get 1e-4."""

Variant = Callable[[], object]


def networks(model: str, conv: str, classes: int, size: int) -> dict[str, tuple[nn.Module, torch.dtype, bool]]:
    """Return each variant's network, image dtype and whether it runs under bf16 autocast; the first is the baseline."""
    torch.manual_seed(0)
    plain = (
        timm.create_model(model, num_classes=classes)
        if conv == "native"
        else zoo.build(model, conv, num_classes=classes)
    )
    lively(plain.eval())
    if conv == "native":
        net = zoo.build(model, num_classes=classes).eval()
        net.load_state_dict(plain.state_dict())
    else:
        net = copy.deepcopy(plain)
    net = net.to(memory_format=torch.channels_last)
    folded = copy.deepcopy(net)
    zoo.fold_batchnorm(folded, size)
    return {
        BASELINE: (plain, torch.float32, False),
        "channels_last": (net, torch.float32, False),
        "BatchNorm folded": (folded, torch.float32, False),
        "bf16 autocast": (net, torch.float32, True),
        "bf16_fast": (PLANS["bf16_fast"].apply(copy.deepcopy(net), torch.device("cpu")), torch.float32, True),
        "bf16 weights": (copy.deepcopy(net).bfloat16(), torch.bfloat16, False),
        "bf16 folded": (copy.deepcopy(folded).bfloat16(), torch.bfloat16, False),
    }


def lively(net: nn.Module) -> None:
    """Randomize BatchNorm as if trained: initially it is the identity and residual branches are zero."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)


def forward(net: nn.Module, images: torch.Tensor, autocast: bool) -> Variant:
    context = (lambda: torch.autocast("cpu", torch.bfloat16)) if autocast else nullcontext

    def step() -> torch.Tensor:
        with context(), torch.inference_mode():
            return net(images)

    return step


def measure(model: str, conv: str, given: Any) -> list[dict[str, Any]]:
    """Return one row per variant: ratios for a batch and for one image, and the relative error of its logits.

    Raises:
        SystemExit: A variant's logits differ too much from the baseline's.
    """
    nets = networks(model, conv, 1000, given.image_size)
    torch.manual_seed(0)
    images = torch.randn(given.batch_size, 3, given.image_size, given.image_size)
    expected = forward(nets[BASELINE][0], images, False)().float()
    found, off = {}, {}
    for n in (given.batch_size, 1):
        variants = {}
        for name, (net, dtype, autocast) in nets.items():
            x = images[:n].to(dtype)
            x = x if name == BASELINE else x.contiguous(memory_format=torch.channels_last)
            step = forward(net, x, autocast)
            off[name] = ((step().float() - expected[:n]).abs().max() / expected[:n].abs().max()).item()
            limit = LOOSE if "bf16" in name else 1e-4
            if off[name] > limit:
                raise SystemExit(f"{model} {conv}: {name} is another network: its logits are {off[name]:.1e} off.")
            variants[name] = block(step)
        found[n] = in_turn(variants, BASELINE, given.rounds, f"{model} {conv} ×{n}")
    return [
        {
            "model": model,
            "conv": conv,
            "variant": name,
            "images_per_s": given.batch_size / found[given.batch_size].median(name),
            "ratio": found[given.batch_size].ratios(name),
            "latency_ms": 1000 * found[1].median(name),
            "latency_ratio": found[1].ratios(name),
            "off": off[name],
        }
        for name in nets
    ]


def main() -> None:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--image-size", type=int, default=128, metavar="N", help="pixels (128)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images a batch (16)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads (1)")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--convs", nargs="+", default=CONVS, metavar="KIND")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for model in given.models:
        seen = set()
        for conv in given.convs:
            with zoo.meta_init():
                structure = fingerprint(zoo.build(model, conv))
            if structure in seen:
                print(f"{model} · {conv} is the same network as one above.")
                continue
            seen.add(structure)
            rows += measure(model, conv, given)
            show(
                f"{model} · {conv}, {given.image_size} pixels",
                ["variant", f"img/s, batch {given.batch_size}", "times plain", "latency ms", "times plain ", "off"],
                [
                    [
                        row["variant"],
                        f"{row['images_per_s']:,.0f}",
                        text(row["ratio"]),
                        f"{row['latency_ms']:.2f}",
                        text(row["latency_ratio"]),
                        f"{row['off']:.0e}",
                    ]
                    for row in rows
                    if (row["model"], row["conv"]) == (model, conv)
                ],
            )
    write(given.output, {"image_size": given.image_size, "batch_size": given.batch_size, "rows": rows})


if __name__ == "__main__":
    main()
