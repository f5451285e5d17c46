"""The points of a W&B sweep file, and the overrides that an agent makes of one."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
SAMPLES = 20
"""Points drawn from a file that has distributions; the ends come on top."""

Point = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def points(path: Path) -> list[Point]:
    """Every point of a grid; else the ends of all distributions, every value of every list, and a sample."""
    parameters = load(path)["parameters"]
    if load(path)["method"] == "grid":
        lists = [p["values"] if "values" in p else [p["value"]] for p in parameters.values()]
        return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*lists)]
    found = [{k: _end(p, i) for k, p in parameters.items()} for i in (0, -1)]
    for key, parameter in parameters.items():
        found += [found[0] | {key: value} for value in parameter.get("values", [])]
    draw = random.Random(0)
    return found + [{k: _sample(p, draw) for k, p in parameters.items()} for _ in range(SAMPLES)]


def overrides(path: Path, point: Point) -> list[str]:
    """What W&B's agent puts in the place of the macro in the file's command."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    (macro,) = [part for part in load(path)["command"] if part.startswith("${args")]
    return create_sweep_command_args({"args": {k: {"value": v} for k, v in point.items()}})[macro[2:-1]]


def _end(parameter: dict[str, Any], which: int) -> Any:
    if "value" in parameter:
        return parameter["value"]
    return (parameter.get("values") or [parameter["min"], parameter["max"]])[which]


def _sample(parameter: dict[str, Any], draw: random.Random) -> Any:
    if "distribution" not in parameter:
        return draw.choice(parameter.get("values") or [parameter["value"]])
    low, high = parameter["min"], parameter["max"]
    match parameter["distribution"]:
        case "log_uniform_values":
            return math.exp(draw.uniform(math.log(low), math.log(high)))
        case "uniform":
            return draw.uniform(low, high)
        case "int_uniform":
            return draw.randint(low, high)
    raise NotImplementedError(parameter["distribution"])
