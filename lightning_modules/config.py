"""Checks a configuration before anything starts, and reads a cell from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.errors import ConvzooError, choose
from zoo.families import FAMILIES, Network, Scale, resolve
from zoo.matching import parse_budget
from zoo.scaling import check_factor, check_scalable
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
AXES = ("depth", "width", "resolution")
SCALES = ("none", "compound", *AXES, "factors")
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
    _check_scaling(config)


def _check_scaling(config: dict[str, Any]) -> None:
    backbone, scale, model = find_network(config).backbone, find_scale(config), config["model"]
    if config["scale"]["name"] != "none" and model["phi"] is not None:
        raise ConvzooError(
            f"model.phi={model['phi']} and scale={config['scale']['name']} both scale the network. Leave out one "
            "(scale=compound scales the image too)."
        )
    image_sizes(config)
    if (scale.depth, scale.width) != (1, 1):
        check_scalable(backbone)
    if model["match"] is not None:
        parse_budget(model["match"])
        check_scalable(backbone)
        if scale.width != 1:
            raise ConvzooError(
                f"model.match={model['match']} looks for a width, and another one was given. Leave out model.match, or "
                "model.phi and scale (scale=depth and scale=resolution go with it)."
            )


def find_network(config: dict[str, Any]) -> Network:
    """The network that the model group names."""
    model = config["model"]
    return resolve(model["name"], model["variant"], model["phi"])


def find_scale(config: dict[str, Any]) -> Scale:
    """The factors that the scale group names, or ``model.phi``.

    ``model.phi`` is a variant of one's own: as with b0 to b7, its resolution holds where the data set has none.

    Raises:
        ConvzooError: Factors that make no sense.
    """
    group, phi = config["scale"], config["model"]["phi"]
    name = choose("scale", group["name"], SCALES)
    if name == "none":
        of_phi = Scale() if phi is None else Scale.compound(phi, "model.phi")
        return Scale(of_phi.depth, of_phi.width)
    if name == "compound":
        return Scale.compound(group["phi"], "scale.phi")
    factors = {name: group["factor"]} if name != "factors" else group["by"]
    for axis, factor in factors.items():
        choose("scale.by", axis, AXES)
        stages = factor if axis == "depth" and isinstance(factor, (list, tuple)) else [factor]
        for one in stages:
            check_factor("scale.factor" if name != "factors" else f"scale.by.{axis}", one)
    return Scale(**factors)


def image_sizes(config: dict[str, Any]) -> tuple[int, int]:
    """Pixels a side before scaling (the data set's, else the network's), and after it.

    Raises:
        ConvzooError: An image of less than 8 pixels.
    """
    base = config["data"]["image_size"] or find_network(config).image_size or 224
    scaled = find_scale(config).image_size(base)
    if scaled < 8:
        raise ConvzooError(
            f"scale={config['scale']['name']} makes {scaled} pixels a side of {base}. Allowed: 8 and more. "
            "Type a larger factor, or a larger data.image_size."
        )
    return base, scaled


def stem_for(choice: str, image_size: int) -> str:
    """``small`` or ``imagenet``: what ``model.stem`` means for images of this size."""
    return choice if choice != "auto" else "small" if image_size <= SMALL_IMAGE else "imagenet"


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
        **_scale_columns(config),
        "match": model["match"],
        "conv": config["conv"]["name"],
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
    if model["name"] in FAMILIES and model["phi"] is None and cell["variant"] is None:
        cell["variant"] = next(iter(FAMILIES[model["name"]].variants))
    texts = ("variant",)
    return {k: str(v) if k in texts else v for k, v in cell.items() if v is not None}


def _scale_columns(config: dict[str, Any]) -> dict[str, str | float]:
    """How a network was scaled, as flat values: what is as it was, is not there."""
    name = config["scale"]["name"]
    if name == "none":
        return {}
    phi = {"phi": config["scale"]["phi"]} if name == "compound" else {}
    factors = vars(find_scale(config)).items()
    texts = {k: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in factors if v != 1}
    return {"scale": name, **phi, **texts}
