"""Checks a configuration before anything starts, and reads a cell from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.config.identity import leaves
from lightning_modules.config.limits import check_images
from lightning_modules.config.scaling import check_scaling, scale_columns
from lightning_modules.config.schema import RULES
from lightning_modules.config.values import shown
from zoo.backbones.families import FAMILIES
from zoo.compression.convert import choose_form
from zoo.compression.low_rank import check_rank
from zoo.errors import ConvzooError, choose

INITS = ("random", "svd")


def check(config: dict[str, Any]) -> None:
    """Checks the values that a user can get wrong.

    Raises:
        ConvzooError: The first one that is wrong, and what is allowed.
    """
    check_values(config)
    if config["data"]["num_classes"] is None and config["data"]["name"] != "imagefolder":
        raise ConvzooError("data.num_classes=null is for data=imagefolder, whose folders are counted. Leave it out.")
    channels = config["data"]["in_chans"]
    for key in ("mean", "std"):
        if len(config["data"][key]) != channels:
            raise ConvzooError(f"data.{key} needs {channels} numbers, one a channel (data.in_chans={channels}).")
    if config["task"] == "time" and config["hardware"]["name"] == "ddp":
        raise ConvzooError("task=time measures one device. Type hardware=cpu or hardware=gpu.")
    if config["task"] == "time" and config["trainer"]["profiler"]:
        raise ConvzooError("task=time trains nothing that could be profiled. Leave trainer.profiler out, or task=time.")
    trainer = config["trainer"]
    if trainer["check_val_every_n_epoch"] is None and type(trainer["val_check_interval"]) in (float, type(None)):
        raise ConvzooError(
            "trainer.check_val_every_n_epoch=null validates after so many batches, or so much time, over all epochs. "
            "Type trainer.val_check_interval=N (batches), or =DAYS:HOURS:MINUTES:SECONDS, too."
        )
    micro = config["hardware"]["micro_batch"]
    if config["task"] == "time" and micro:
        raise ConvzooError(
            "task=time measures whole batches. Leave hardware.micro_batch out, or lower data.batch_size."
        )
    if config["trainer"]["sync_batchnorm"] and micro == "auto":
        # One rank would make its step again while the others wait for its statistics.
        raise ConvzooError(
            "trainer.sync_batchnorm=true needs a fixed hardware.micro_batch. Type hardware.micro_batch=N."
        )
    if micro and str(config["trainer"]["precision"]).startswith("16"):
        # Its small gradients vanish unless they are scaled before each part's backward pass.
        raise ConvzooError("hardware.micro_batch does not work in fp16. Type trainer.precision=bf16-mixed.")
    check_scaling(config)
    check_images(config)
    check_init(config)


def check_values(config: dict[str, Any]) -> None:
    """Checks the values of a configuration, or of some of its groups, each by itself.

    Raises:
        ConvzooError: The first one that is wrong, and what is allowed.
    """
    for key, value in leaves(config):
        if key not in RULES:
            raise ConvzooError(f"there is no key {key}, or it is not a single value.")
        allowed, text = RULES[key]
        if not allowed(value):
            raise ConvzooError(f"{key}={shown(value)} is not allowed. Allowed: {text}.")


def _unless(value: Any, usual: Any) -> Any:
    return None if value == usual else value


def describe_cell(config: dict[str, Any], hardware: str) -> dict[str, str | int | float]:
    """The choices of a run as flat strings and numbers: result.json's ``cell`` and W&B's columns.

    Args:
        config: The resolved configuration.
        hardware: What the hardware choice turned out to be.
    """
    model, data, optim, init = config["model"], config["data"], config["optim"], config["init"]
    cell = {
        "task": _unless(config["task"], "train"),
        "model": model["name"],
        "variant": None if model["phi"] is not None else model["variant"],
        "phi": model["phi"],
        **scale_columns(config),
        "match": model["match"],
        "match_over": _unless(model["match_over"], "width"),
        "conv": config["conv"]["name"],
        "between": _unless(config["conv"].get("between"), "none"),
        "groups": config["conv"].get("groups"),
        "group_size": config["conv"].get("group_size"),
        "act": config["act"]["name"],
        "hardware": hardware,
        "plan": _unless(config["hardware"]["plan"], "auto"),
        "micro_batch": config["hardware"]["micro_batch"],
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
    if model["name"] in FAMILIES and model["phi"] is None and cell["variant"] is None:
        cell["variant"] = next(iter(FAMILIES[model["name"]].variants))
    texts = ("variant",)
    return {k: str(v) if k in texts else v for k, v in cell.items() if v is not None}


def check_init(config: dict[str, Any]) -> None:
    """Checks the init group before anything starts.

    Raises:
        ConvzooError: What is wrong with it, and what to type instead.
    """
    init, pretrained = config["init"], config["model"]["pretrained"]
    if choose("init", init["name"], INITS) == "random":
        for key in ("checkpoint", "rank"):
            if init[key] is not None:
                raise ConvzooError(f"init.{key} belongs to init=svd. Type init=svd too, or leave it out.")
        return
    try:
        check_rank(init["rank"])
    except ConvzooError as error:
        raise ConvzooError(f"init.{error}") from None
    choose_form(config["conv"]["name"])
    if (init["checkpoint"] is None) != pretrained:
        problem = "two at once were given" if pretrained else "none was given"
        raise ConvzooError(
            f"init=svd starts from one trained dense network; {problem}. Type init.checkpoint=FOLDER/best.ckpt (a run "
            "with conv=native), or model.pretrained=true for timm's weights."
        )
    if init["checkpoint"] is not None and not Path(str(init["checkpoint"])).is_file():
        raise ConvzooError(f"init.checkpoint={init['checkpoint']} is no file. Type the path of a run's best.ckpt.")
