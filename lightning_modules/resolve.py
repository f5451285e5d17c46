"""From a cell's description to its network and its data: arguments of `zoo.build`, and the data module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lightning_modules.config.columns import columns
from lightning_modules.config.scaling import find_network, find_scale, image_sizes, scale_to
from lightning_modules.config.schema import CellSpec, DataOptions, TrainerOptions
from lightning_modules.data.modules import FolderData, ImageData, make_data
from zoo.backbones.stem import stem_for
from zoo.costs.matching import Match, match_text


@dataclass(frozen=True)
class Resolved:
    """What a cell consists of, once its data was looked at and its budget met.

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


def resolve(spec: CellSpec, hardware: str) -> Resolved:
    """Finds the network and the images that a description means.

    Args:
        spec: The cell, checked.
        hardware: The resolved hardware choice: ``cpu``, ``gpu`` or ``ddp``.

    Raises:
        ConvzooError: A budget that cannot be met, a data set that is not there.
    """
    scaled, found = meet_budget(spec)
    image_size = image_sizes(scaled)[1]
    data = _data(spec, image_size)
    network = network_of(scaled, data.options)
    # As chosen, and what was found: a run that fails before it has found anything has the same choices.
    choices = columns(spec, hardware) | {"image_size": image_size, "stem": network["stem"]}
    if found is None:
        return Resolved(network, data, choices, image_size)
    choices |= {found.over: found.value, "match_miss": round(found.miss, 5)}
    return Resolved(network, data, choices, image_size, f"model.match={spec.model.match}: {found}")


def _data(spec: CellSpec, image_size: int) -> ImageData | FolderData:
    return make_data(spec.data.having(image_size=image_size), spec.seed)


def network_of(spec: CellSpec, data: DataOptions) -> dict[str, Any]:
    """The arguments of `zoo.build` for a cell's network.

    Args:
        spec: The cell.
        data: Its data group, with ``num_classes`` and ``in_chans`` filled in.
    """
    scale = find_scale(spec)
    return {
        "backbone": find_network(spec).backbone,
        "depth": scale.depth,
        "width": scale.width,
        "conv": spec.conv.name,
        "conv_options": {k: v for k, v in spec.conv.plain().items() if k != "name"},
        "act": spec.act.name,
        "num_classes": data.num_classes,
        "in_chans": data.in_chans,
        "pretrained": spec.model.pretrained,
        # An image that scaling enlarges past the small stem's limit keeps the stem: scaling changes the image only.
        "stem": stem_for(spec.model.stem, image_sizes(spec)[0]),
    }


def meet_budget(spec: CellSpec) -> tuple[CellSpec, Match | None]:
    """Turns ``model.match`` into a choice of scale.

    Returns:
        The cell with the scale that meets the budget, and the match; the cell as it is, and None, without a budget.

    Raises:
        ConvzooError: A budget that cannot be met.
    """
    model, image_size = spec.model, image_sizes(spec)[1]
    if model.match is None:
        return spec, None
    # Only the data module knows how many classes there are; it is made again once the image's size is known.
    network = network_of(spec, _data(spec, image_size).options)
    del network["width"]
    found = match_text(model.match, image_size, **network, over=model.match_over)
    return replace(spec, scale=scale_to(spec, found)), found


def count_steps(trainer: TrainerOptions, batches: int) -> tuple[int, int]:
    """The length of training: batches an epoch (at least 1), and steps in all.

    Args:
        trainer: The trainer group of the configuration.
        batches: That the data has.
    """
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if type(limit) is int else int(batches * limit)
    batches = max(1, batches)
    steps = [n for n in (trainer.max_epochs * batches, trainer.max_steps) if n > 0]
    return batches, min(steps, default=0)
