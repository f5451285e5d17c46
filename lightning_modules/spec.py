"""What a configuration builds: the arguments of `zoo.build`, and the scale that meets a budget."""

from __future__ import annotations

from typing import Any

from lightning_modules.data import make_data
from lightning_modules.scaling import find_network, find_scale, image_sizes, scale_to
from zoo.matching import Match, match_text
from zoo.stem import stem_for


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
    data = make_data({**config["data"], "image_size": image_size}, image_size, config["seed"]).data
    spec = network_spec(config, data)
    del spec["width"]
    found = match_text(model["match"], image_size, **spec, over=model["match_over"])
    return {**config, "scale": scale_to(config, found)}, found
