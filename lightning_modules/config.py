"""Checks a configuration before anything starts, and reads a cell from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_modules.start import check_init
from zoo.errors import ConvzooError, choose
from zoo.families import FAMILIES, Network, resolve
from zoo.stem import SMALL_IMAGE, STEMS

Rule = tuple[Callable[[Any], bool], str]


def _whole(low: int) -> Rule:
    return lambda v: type(v) is int and v >= low, f"a whole number from {low}"


def _number(low: float, high: float = float("inf"), *, above: bool = False) -> Rule:
    text = f"a number {'above' if above else 'from'} {low:g}" + (f" to {high:g}" if high < float("inf") else "")
    return lambda v: type(v) in (int, float) and (low < v if above else low <= v) and v <= high and v < 1e30, text


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


LOGGERS = ("wandb", "csv", "none")
SWITCH: Rule = (lambda v: type(v) is bool, "true or false")

RULES: dict[str, Rule] = {
    "seed": (lambda v: type(v) is int and 0 <= v < 2**32, "a whole number from 0 to 4294967295"),
    "model.pretrained": SWITCH,
    "data.batch_size": _whole(1),
    "data.num_classes": _or_null(_whole(1)),
    "data.in_chans": _whole(1),
    "data.image_size": _or_null(_whole(8)),
    "data.download": SWITCH,
    "optim.lr": _number(0, above=True),
    "optim.weight_decay": _number(0),
    "optim.warmup": _number(0, 1),
    "optim.label_smoothing": _number(0, 0.99),
    "hardware.threads": _or_null(_whole(1)),
    "trainer.max_epochs": (lambda v: type(v) is int and (v >= 1 or v == -1), "a whole number from 1 (or -1: no limit)"),
}


def check(config: dict[str, Any]) -> None:
    """Checks the values that a user can get wrong.

    Raises:
        ConvzooError: The first one that is wrong, and what is allowed.
    """
    for key, (allowed, text) in RULES.items():
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if not allowed(value):
            raise ConvzooError(f"{key}={value} is not allowed. Allowed: {text}.")
    choose("model.stem", config["model"]["stem"], STEMS)
    choose("logger", config["logger"]["name"], LOGGERS)
    find_network(config)
    check_init(config)


def find_network(config: dict[str, Any]) -> Network:
    """The network that the model group names."""
    model = config["model"]
    return resolve(model["name"], model["variant"], model["phi"])


def stem_for(choice: str, image_size: int) -> str:
    """``small`` or ``imagenet``: what ``model.stem`` means for images of this size."""
    return choice if choice != "auto" else "small" if image_size <= SMALL_IMAGE else "imagenet"


def describe_cell(config: dict[str, Any], hardware: str) -> dict[str, str | int | float]:
    """The choices of a run as flat strings and numbers: result.json's ``cell`` and W&B's columns.

    Args:
        config: The resolved configuration.
        hardware: What the hardware choice turned out to be.
    """
    model, data, optim, init = config["model"], config["data"], config["optim"], config["init"]
    cell = {
        "model": model["name"],
        "variant": None if model["phi"] is not None else model["variant"],
        "phi": model["phi"],
        "conv": config["conv"]["name"],
        "act": config["act"]["name"],
        "hardware": hardware,
        "data": data["name"],
        "seed": config["seed"],
        "stem": model["stem"],
        "pretrained": str(model["pretrained"]).lower(),
        "init": init["name"],
        "init_checkpoint": init["checkpoint"],
        "init_rank": init["rank"],
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
