"""Checks a configuration before anything starts, and reads a cell from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zoo.errors import ConvzooError
from zoo.families import FAMILIES, Network, resolve
from zoo.stem import STEMS

Rule = tuple[Callable[[Any], bool], str]


def _whole(low: int) -> Rule:
    return lambda v: type(v) is int and v >= low, f"a whole number from {low}"


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    text = f"a number {'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < float("inf") else "")
    return lambda v: type(v) in (int, float) and (low < v if above else low <= v) and v <= high and v < 1e30, text


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


LOGGERS = ("wandb", "csv", "none")


def _one_of(values: tuple[str, ...]) -> Rule:
    return lambda v: v in values, ", ".join(values)


SWITCH: Rule = (lambda v: type(v) is bool, "true or false")

TEXT: Rule = (lambda v: type(v) is str and bool(v.strip()), "a text")
ANY_TEXT: Rule = (lambda v: type(v) in (str, int), "a text")
SHARES: Rule = (
    lambda v: type(v) is list and bool(v) and all(type(x) in (int, float) for x in v),
    "a list of numbers, one a channel",
)
RANGE: Rule = (
    lambda v: type(v) is list and len(v) == 2 and all(type(x) in (int, float) for x in v) and 0 < v[0] <= v[1] <= 1,
    "[LOW,HIGH] with 0 < LOW ≤ HIGH ≤ 1",
)
LIMIT: Rule = (
    lambda v: (type(v) is int and v >= 0) or (type(v) is float and 0 <= v <= 1),
    "a whole number of batches, or a share from 0.0 to 1.0",
)
ANYTHING: Rule = (lambda v: True, "")
"""For what Lightning checks itself, and says clearly."""

RULES: dict[str, Rule] = {
    "seed": (lambda v: type(v) is int and 0 <= v < 2**32, "a whole number from 0 to 4294967295"),
    "model.name": TEXT,
    "model.variant": _or_null(ANY_TEXT),
    "model.phi": ANYTHING,  # zoo.families
    "model.stem": _one_of(STEMS),
    "model.pretrained": SWITCH,
    "conv.name": TEXT,
    "conv.between": _one_of(("none", "bn_act")),
    "conv.groups": _or_null(_whole(1)),
    "conv.group_size": _or_null(_whole(1)),
    "act.name": TEXT,
    "data.name": TEXT,
    "data.root": _or_null(TEXT),
    "data.download": SWITCH,
    "data.num_classes": _or_null(_whole(2)),
    "data.in_chans": _whole(1),
    "data.image_size": _or_null(_whole(8)),
    "data.batch_size": _whole(1),
    "data.epochs": _whole(1),
    "data.images": _whole(8),
    "data.workers": _or_null(_whole(0)),
    "data.mean": SHARES,
    "data.std": (lambda v: SHARES[0](v) and all(x > 0 for x in v), "a list of numbers above 0, one a channel"),
    "data.augment.crop_padding": _whole(0),
    "data.augment.hflip": SWITCH,
    "data.augment.rotate": _number(0, 180),
    "data.augment.zoom": _number(0, 0.9),
    "data.augment.shift": _number(0, 1),
    "data.augment.random_resized_crop": RANGE,
    "data.augment.crop_ratio": _number(0.1, 1),
    "hardware.name": TEXT,
    "hardware.devices": ANYTHING,  # lightning_modules.hardware
    "hardware.num_nodes": ANYTHING,
    "hardware.threads": _or_null(_whole(1)),
    "optim.name": TEXT,
    "optim.lr": _number(0, above=True),
    "optim.weight_decay": _number(0),
    "optim.warmup": _number(0, 1),
    "optim.label_smoothing": _number(0, 0.99),
    "logger.name": _one_of(LOGGERS),
    "logger.project": (
        lambda v: type(v) is str and bool(v) and not set(v) & set("/\\#?%:"),
        "a text without / \\ # ? % :",
    ),
    "logger.entity": _or_null(TEXT),
    "logger.group": _or_null(ANY_TEXT),
    "logger.tags": _or_null((lambda v: type(v) is list and all(type(t) is str for t in v), "[TAG,TAG]")),
    "logger.mode": _one_of(("auto", "online", "offline", "disabled")),
    "logger.timeout_s": _number(1),
    "trainer.max_epochs": (
        lambda v: type(v) is int and (v >= 1 or v == -1),
        "a whole number from 1 (-1: max_steps says)",
    ),
    "trainer.min_epochs": _or_null(_whole(1)),
    "trainer.max_steps": (lambda v: type(v) is int and v >= -1 and v != 0, "a whole number from 1 (-1: no limit)"),
    "trainer.min_steps": _or_null(_whole(1)),
    "trainer.max_time": ANYTHING,
    "trainer.accelerator": _or_null(TEXT),
    "trainer.devices": ANYTHING,  # lightning_modules.hardware
    "trainer.num_nodes": ANYTHING,
    "trainer.strategy": _or_null(TEXT),
    "trainer.precision": ANYTHING,
    "trainer.limit_train_batches": _or_null(LIMIT),
    "trainer.limit_val_batches": _or_null(LIMIT),
    "trainer.limit_test_batches": _or_null(LIMIT),
    "trainer.overfit_batches": LIMIT,
    "trainer.fast_dev_run": (
        lambda v: type(v) is bool or (type(v) is int and v >= 0),
        "true, false or a number of batches",
    ),
    "trainer.val_check_interval": ANYTHING,
    "trainer.check_val_every_n_epoch": _whole(1),
    "trainer.num_sanity_val_steps": (lambda v: type(v) is int and v >= -1, "a whole number from 0 (-1: all)"),
    "trainer.log_every_n_steps": _whole(0),
    "trainer.enable_progress_bar": _or_null(SWITCH),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.gradient_clip_val": _or_null(_number(0)),
    "trainer.gradient_clip_algorithm": _or_null(_one_of(("norm", "value"))),
    "trainer.deterministic": _or_null((lambda v: type(v) is bool or v == "warn", "true, false or warn")),
    "trainer.benchmark": _or_null(SWITCH),
    "trainer.inference_mode": SWITCH,
    "trainer.profiler": _or_null(_one_of(("simple", "advanced", "pytorch", "xla"))),
    "trainer.detect_anomaly": SWITCH,
    "trainer.sync_batchnorm": SWITCH,
}
"""What each key of conf/ may be. A test sees to it that none is missing."""


def check(config: dict[str, Any]) -> None:
    """Checks the values that a user can get wrong.

    Raises:
        ConvzooError: The first one that is wrong, and what is allowed.
    """
    for key, value in leaves(config):
        if key not in RULES:
            raise ConvzooError(f"there is no key {key}, or it is not a single value.")
        allowed, text = RULES[key]
        if not allowed(value):
            raise ConvzooError(f"{key}={_shown(value)} is not allowed. Allowed: {text}.")
    channels = config["data"]["in_chans"]
    for key in ("mean", "std"):
        if len(config["data"][key]) != channels:
            raise ConvzooError(f"data.{key} needs {channels} numbers, one a channel (data.in_chans={channels}).")
    find_network(config)


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a configuration as the user types it, with its value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, value)
        if not isinstance(value, (list, dict))
        else str(value)
    )


def find_network(config: dict[str, Any]) -> Network:
    """The network that the model group names."""
    model = config["model"]
    return resolve(model["name"], model["variant"], model["phi"])


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def describe_cell(config: dict[str, Any], hardware: str) -> dict[str, str | int | float]:
    """The choices of a run as flat strings and numbers: result.json's ``cell`` and W&B's columns.

    Args:
        config: The resolved configuration.
        hardware: What the hardware choice turned out to be.
    """
    model, data, optim = config["model"], config["data"], config["optim"]
    cell = {
        "model": model["name"],
        "variant": None if model["phi"] is not None else model["variant"],
        "phi": model["phi"],
        "conv": config["conv"]["name"],
        "between": _unless(config["conv"].get("between"), "none"),
        "groups": config["conv"].get("groups"),
        "group_size": config["conv"].get("group_size"),
        "act": config["act"]["name"],
        "hardware": hardware,
        "data": data["name"],
        "seed": config["seed"],
        "stem": model["stem"],
        "pretrained": str(model["pretrained"]).lower(),
        "image_size": data["image_size"],
        "batch_size": data["batch_size"],
        "epochs": config["trainer"]["max_epochs"],
        "optim": optim["name"],
        "lr": optim["lr"],
        "weight_decay": optim["weight_decay"],
    }
    if model["name"] in FAMILIES and cell["phi"] is None and cell["variant"] is None:
        cell["variant"] = next(iter(FAMILIES[model["name"]].variants))
    texts = ("variant",)
    return {k: str(v) if k in texts else v for k, v in cell.items() if v is not None}
