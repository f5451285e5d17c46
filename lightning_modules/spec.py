"""From a configuration to its network: what `zoo.build` is asked for, and how the choices are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_modules.config import describe_cell
from lightning_modules.scaling import find_network, find_scale, image_sizes
from zoo.matching import match_text
from zoo.stem import stem_for


@dataclass(frozen=True)
class Spec:
    """A cell's network.

    Attributes:
        network: Arguments of `zoo.build`, as plain values.
        choices: Flat, for result.json and W&B.
        image_size: Pixels a side.
        found: What ``model.match`` found, as a text; None where nothing was asked for.
    """

    network: dict[str, Any]
    choices: dict[str, Any]
    image_size: int
    found: str | None = None

    @property
    def in_chans(self) -> int:
        return self.network["in_chans"]


def find_spec(config: dict[str, Any], hardware: str, data: dict[str, Any]) -> Spec:
    """Says which network a configuration means.

    Args:
        config: The resolved configuration, checked.
        hardware: What the hardware choice turned out to be.
        data: The data group, with ``in_chans`` and ``num_classes`` resolved.

    Raises:
        ConvzooError: A budget that the network cannot meet.
    """
    network, scale, model = find_network(config), find_scale(config), config["model"]
    base_size, image_size = image_sizes(config)
    spec = {
        "backbone": network.backbone,
        "depth": scale.depth,
        "width": scale.width,
        "conv": config["conv"]["name"],
        "conv_options": {k: v for k, v in config["conv"].items() if k != "name"},
        "act": config["act"]["name"],
        "num_classes": data["num_classes"],
        "in_chans": data["in_chans"],
        "pretrained": model["pretrained"],
        # An image that scaling enlarges past the small stem's limit keeps the stem: scaling changes the image only.
        "stem": stem_for(model["stem"], base_size),
    }
    choices = describe_cell(config, hardware) | {"image_size": image_size, "stem": spec["stem"]}
    if model["match"] is None:
        return Spec(spec, choices, image_size)
    found = match_text(model["match"], image_size, **{k: v for k, v in spec.items() if k != "width"})
    spec["width"] = choices["width"] = found.width
    choices["match_miss"] = round(found.miss, 5)
    return Spec(spec, choices, image_size, f"model.match={model['match']}: {found}")
