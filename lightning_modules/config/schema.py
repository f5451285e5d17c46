"""What each key of the configuration may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from zoo.backbones.stem import STEMS
from zoo.speeds.plan import PLANS

Rule = tuple[Callable[[Any], bool], str]

MANY = 10**12
"""Of anything that is counted: more is a slip, and too much for what a run computes with."""


def _whole(low: int, high: int = MANY) -> Rule:
    return lambda v: type(v) is int and low <= v <= high, _range("a whole number from", low, high)


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Rule:
    text = _range(f"a number {'above' if above else 'from'}", low, high)
    return lambda v: type(v) in (int, float) and (low < v if above else low <= v) and v <= high and v < 1e30, text


def _range(what: str, low: float, high: float) -> str:
    return f"{what} {low:g}" + (f" to {high:,}" if high < math.inf else "")


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


TASKS = ("train", "time")
LOGGERS = ("wandb", "csv", "none")


def _one_of(values: tuple[str, ...]) -> Rule:
    return lambda v: v in values, ", ".join(values)


def seconds_of(time: str | None) -> float | None:
    """Seconds of ``[[DD:]HH:]MM:SS``; None for null.

    Raises:
        ValueError: It is something else.
    """
    if time is None:
        return None
    if not re.fullmatch(r"\d+(:\d\d){1,3}", time, re.ASCII):
        raise ValueError(time)
    parts = [int(part) for part in reversed(time.split(":"))]
    return float(sum(part * unit for part, unit in zip(parts, (1, 60, 3600, 86400), strict=False)))


def _is_time(value: Any) -> bool:
    try:
        return value is None or seconds_of(value) > 0
    except (ValueError, TypeError):
        return False


SWITCH: Rule = (lambda v: type(v) is bool, "true or false")

TEXT: Rule = (lambda v: type(v) is str and bool(v.strip()), "a text")
ANY_TEXT: Rule = (lambda v: type(v) in (str, int), "a text")
NAME: Rule = (
    lambda v: type(v) in (str, int) and 0 < len(str(v).strip()) <= 128 and str(v).isprintable(),
    "a text of one line and at most 128 characters",
)
TIME: Rule = (
    lambda v: type(v) is str and re.fullmatch(r"\d+:\d{1,2}:\d{1,2}:\d{1,2}", v, re.ASCII) is not None,
    "a time as DAYS:HOURS:MINUTES:SECONDS, 00:12:00:00",
)
SHARES: Rule = (
    lambda v: type(v) is list and bool(v) and all(type(x) in (int, float) and abs(x) < 1e6 for x in v),
    "a list of numbers, one a channel",
)
RANGE: Rule = (
    lambda v: type(v) is list and len(v) == 2 and all(type(x) in (int, float) for x in v) and 0 < v[0] <= v[1] <= 1,
    "[LOW,HIGH] with 0 < LOW ≤ HIGH ≤ 1",
)
LIMIT: Rule = (
    lambda v: (type(v) is int and 0 <= v <= MANY) or (type(v) is float and 0 <= v <= 1),
    "a whole number of batches, or a share from 0.0 to 1.0",
)
ANYTHING: Rule = (lambda v: True, "")
"""For what Lightning checks itself, and says clearly."""

RULES: dict[str, Rule] = {
    "seed": (lambda v: type(v) is int and 0 <= v < 2**32, "a whole number from 0 to 4294967295"),
    "task": _one_of(TASKS),
    "model.name": TEXT,
    "model.variant": _or_null(ANY_TEXT),
    "model.phi": ANYTHING,  # zoo.backbones.families
    "model.stem": _one_of(STEMS),
    "model.pretrained": SWITCH,
    "model.match": _or_null(TEXT),  # zoo.costs.budget
    "model.match_over": _one_of(("width", "phi")),
    "scale.name": TEXT,
    "scale.phi": ANYTHING,  # lightning_modules.config.scaling
    "scale.factor": ANYTHING,
    "scale.by.depth": ANYTHING,
    "scale.by.width": ANYTHING,
    "scale.by.resolution": ANYTHING,
    "conv.name": TEXT,
    "conv.between": _one_of(("none", "bn_act")),
    "conv.groups": _or_null(_whole(1)),
    "conv.group_size": _or_null(_whole(1)),
    "act.name": TEXT,
    "init.name": TEXT,
    "init.checkpoint": _or_null(TEXT),
    "init.rank": ANYTHING,  # zoo.compression.low_rank
    "data.name": TEXT,
    "data.root": _or_null(TEXT),
    "data.download": SWITCH,
    "data.num_classes": _or_null(_whole(2, 10**6)),
    "data.in_chans": _whole(1, 1024),
    "data.image_size": _or_null(_whole(8)),  # lightning_modules.config.limits
    "data.batch_size": _whole(1, 2**20),
    "data.epochs": _whole(1),
    "data.images": _whole(8),  # lightning_modules.config.limits
    "data.workers": _or_null(_whole(0, 1024)),
    "data.check": SWITCH,
    "data.max_bad_images": (
        lambda v: (type(v) is int and v >= 0) or (type(v) is float and 0 <= v <= 1),
        "a whole number of images, or a share from 0.0 to 1.0",
    ),
    "data.mean": SHARES,
    "data.std": (lambda v: SHARES[0](v) and all(x > 0 for x in v), "a list of numbers above 0, one a channel"),
    "data.augment.crop_padding": _whole(0, 4096),
    "data.augment.hflip": SWITCH,
    "data.augment.rotate": _number(0, 180),
    "data.augment.zoom": _number(0, 0.9),
    "data.augment.shift": _number(0, 1),
    "data.augment.cutout": _whole(0, 8192),
    "data.augment.random_erasing": _number(0, 1),
    "data.augment.mixup": _number(0, 1000),
    "data.augment.cutmix": _number(0, 1000),
    "data.augment.random_resized_crop": RANGE,
    "data.augment.crop_ratio": _number(0.1, 1),
    "hardware.name": TEXT,
    "hardware.devices": ANYTHING,  # lightning_modules.hardware.devices
    "hardware.num_nodes": ANYTHING,
    "hardware.threads": _or_null(_whole(1, 4096)),
    "hardware.timeout_s": _number(1, 10**7),
    "hardware.micro_batch": _or_null((lambda v: v == "auto" or (type(v) is int and v >= 2), "auto, 2, 3, 4 …")),
    "hardware.plan": _one_of(("auto", *PLANS)),
    "optim.name": TEXT,
    "optim.lr": _number(0, above=True),
    "optim.weight_decay": _number(0),
    "optim.warmup": _number(0, 1),
    "optim.label_smoothing": _number(0, 0.99),
    "optim.bad_step": _one_of(("stop", "skip")),
    "optim.max_skipped": _whole(0),
    "checkpoint.every_s": _number(0),
    "sweep.name": _or_null(
        (lambda v: type(v) is str and NAME[0](v) and not set(v) & set("/\\") and v[0] != ".", "a folder's name")
    ),
    "sweep.plan": SWITCH,
    "sweep.fail_fast": SWITCH,
    "sweep.max_params": ANYTHING,  # zoo.costs.budget
    "sweep.max_macs": ANYTHING,
    "logger.name": _one_of(LOGGERS),
    "logger.project": _or_null(
        (
            lambda v: type(v) is str and NAME[0](v) and not set(v) & set("/\\#?%:"),
            "a text of one line without / \\ # ? % :",
        )
    ),
    "logger.entity": _or_null(NAME),
    "logger.group": _or_null(NAME),
    "logger.tags": _or_null((lambda v: type(v) is list and all(type(t) is str and NAME[0](t) for t in v), "[TAG,TAG]")),
    "logger.mode": _one_of(("auto", "online", "offline", "disabled")),
    "logger.timeout_s": _number(1, 86400),
    "trainer.max_epochs": (
        lambda v: type(v) is int and (1 <= v <= MANY or v == -1),
        "a whole number from 1 (-1: max_steps says)",
    ),
    "trainer.min_epochs": _or_null(_whole(1)),
    "trainer.max_steps": (
        lambda v: type(v) is int and -1 <= v <= MANY and v != 0,
        "a whole number from 1 (-1: no limit)",
    ),
    "trainer.min_steps": _or_null(_whole(1)),
    "trainer.max_time": (_is_time, "HH:MM:SS, DD:HH:MM:SS or MM:SS, or null"),
    "trainer.accelerator": _or_null(_one_of(("auto", "cpu", "gpu", "cuda", "mps"))),
    "trainer.devices": ANYTHING,  # lightning_modules.hardware.devices
    "trainer.num_nodes": ANYTHING,
    "trainer.strategy": _or_null(TEXT),
    "trainer.precision": ANYTHING,
    "trainer.limit_train_batches": _or_null(LIMIT),
    "trainer.limit_val_batches": _or_null(LIMIT),
    "trainer.limit_test_batches": _or_null(LIMIT),
    "trainer.overfit_batches": LIMIT,
    "trainer.fast_dev_run": (
        lambda v: type(v) is bool or (type(v) is int and 0 <= v <= MANY),
        "true, false or a number of batches",
    ),
    "trainer.val_check_interval": _or_null(
        (
            lambda v: (type(v) is int and 1 <= v <= MANY) or (type(v) is float and 0 < v <= 1) or TIME[0](v),
            f"{LIMIT[1]}, or {TIME[1]}",
        )
    ),
    "trainer.check_val_every_n_epoch": _or_null(_whole(1)),
    "trainer.num_sanity_val_steps": (lambda v: type(v) is int and -1 <= v <= MANY, "a whole number from 0 (-1: all)"),
    "trainer.log_every_n_steps": _whole(0),
    "trainer.enable_progress_bar": _or_null(SWITCH),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.gradient_clip_val": _or_null(_number(0)),
    "trainer.gradient_clip_algorithm": _or_null(_one_of(("norm", "value"))),
    "trainer.deterministic": _or_null((lambda v: type(v) is bool or v == "warn", "true, false or warn")),
    "trainer.benchmark": _or_null(SWITCH),
    "trainer.inference_mode": SWITCH,
    "trainer.profiler": _or_null(_one_of(("simple", "advanced", "pytorch"))),
    "trainer.detect_anomaly": SWITCH,
    "trainer.sync_batchnorm": SWITCH,
}
"""What each key of conf/ may be. A test sees to it that none is missing."""
