"""From a configuration to its network and its data: what `zoo.build` is asked for, and how the choices are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_modules.config.check import describe_cell
from lightning_modules.config.scaling import find_network, find_scale, image_sizes, scale_to
from lightning_modules.data import make_data
from lightning_modules.data.modules import FolderData, ImageData
from zoo.backbones.stem import stem_for
from zoo.costs.matching import Match, match_text


@dataclass(frozen=True)
class Spec:
    """What a cell consists of.

    Attributes:
        network: Arguments of `zoo.build`, as plain values.
        data: The data module.
        choices: Flat, for result.json and W&B.
        image_size: Pixels a side.
        found: What ``model.match`` found, as a text; None where nothing was asked for.
    """

    network: dict[str, Any]
    data: ImageData | FolderData
    choices: dict[str, Any]
    image_size: int
    found: str | None = None

    @property
    def in_chans(self) -> int:
        return self.network["in_chans"]


def find_spec(config: dict[str, Any], hardware: str) -> Spec:
    """Says which network and which images a configuration means.

    Args:
        config: The resolved configuration, checked.
        hardware: What the hardware choice turned out to be.

    Raises:
        ConvzooError: A budget that cannot be met, a data set that is not there.
    """
    settled, found = meet_budget(config)
    image_size = image_sizes(settled)[1]
    data = make_data({**config["data"], "image_size": image_size}, config["seed"])
    network = network_spec(settled, data.data)
    # As chosen, and what was found: a run that fails before it has found anything is told by the same choices.
    choices = describe_cell(config, hardware) | {"image_size": image_size, "stem": network["stem"]}
    if found is None:
        return Spec(network, data, choices, image_size)
    choices |= {found.over: found.value, "match_miss": round(found.miss, 5)}
    return Spec(network, data, choices, image_size, f"model.match={config['model']['match']}: {found}")


def network_spec(config: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `zoo.build` for a cell's network.

    Args:
        config: The resolved configuration.
        data: Its data group, with ``num_classes`` and ``in_chans`` filled in.
    """
    scale = find_scale(config)
    return {
        "backbone": find_network(config).backbone,
        "depth": scale.depth,
        "width": scale.width,
        "conv": config["conv"]["name"],
        "conv_options": {k: v for k, v in config["conv"].items() if k != "name"},
        "act": config["act"]["name"],
        "num_classes": data["num_classes"],
        "in_chans": data["in_chans"],
        "pretrained": config["model"]["pretrained"],
        # An image that scaling enlarges past the small stem's limit keeps the stem: scaling changes the image only.
        "stem": stem_for(config["model"]["stem"], image_sizes(config)[0]),
    }


def meet_budget(config: dict[str, Any]) -> tuple[dict[str, Any], Match | None]:
    """Turns ``model.match`` into a choice of scale.

    Returns:
        The configuration with the scale group that meets the budget, and what was found; the configuration as it is,
        and None, where there is no budget.

    Raises:
        ConvzooError: A budget that cannot be met.
    """
    model, image_size = config["model"], image_sizes(config)[1]
    if model["match"] is None:
        return config, None
    # Only the data module knows how many classes there are; it is made again once the image's size is known.
    data = make_data({**config["data"], "image_size": image_size}, config["seed"]).data
    spec = network_spec(config, data)
    del spec["width"]
    found = match_text(model["match"], image_size, **spec, over=model["match_over"])
    return {**config, "scale": scale_to(config, found)}, found


def count_steps(trainer: dict[str, Any], batches: int) -> tuple[int, int]:
    """How long training is by the trainer group: batches an epoch (at least 1), and steps in all.

    Args:
        trainer: The trainer group of the configuration.
        batches: That the data has.
    """
    limit = trainer["limit_train_batches"]
    if limit is not None:
        batches = min(batches, limit) if type(limit) is int else int(batches * limit)
    batches = max(1, batches)
    steps = [n for n in (trainer["max_epochs"] * batches, trainer["max_steps"]) if n > 0]
    return batches, min(steps, default=0)
