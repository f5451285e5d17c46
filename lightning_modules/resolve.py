"""Resolves a `CellSpec` to arguments of `zoo.build` and a data module; meets a cost budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lightning_modules.config.columns import columns
from lightning_modules.config.scaling import find_network, find_scale, image_sizes, scale_to
from lightning_modules.config.schema import CellSpec, DataOptions, TrainerOptions
from lightning_modules.data import Data, make_data
from lightning_modules.data.augmentations import check_augmentation, make_augmentation
from lightning_modules.losses import check_loss
from lightning_modules.optimizer import check_optimizer
from zoo.backbones.stem import stem_for
from zoo.costs.matching import Match, match_text
from zoo.image_size import ImageSize


@dataclass(frozen=True)
class Resolved:
    """A cell's network and data, after inspecting the data set and meeting the budget.

    Attributes:
        network: Arguments of `zoo.build`, as plain values.
        data: The data module.
        choices: The cell's choices as flat columns, for result.json and W&B.
        image_size: The size of the images that the network sees.
        found: Description of the result of ``model.match``; None without a budget.
    """

    network: dict[str, Any]
    data: Data
    choices: dict[str, Any]
    image_size: ImageSize
    found: str | None = None

    @property
    def in_chans(self) -> int:
        return self.network["in_chans"]


def resolve(spec: CellSpec, hardware: str) -> Resolved:
    """Resolves a cell's description to its network and images.

    Args:
        spec: The cell, checked.
        hardware: The resolved hardware choice: ``cpu``, ``gpu`` or ``ddp``.

    Raises:
        ConvzooError: The budget cannot be met, or the data set is missing.
    """
    check_optimizer(spec.optim)
    check_loss(spec.loss.name, spec.loss.options, spec.optim.label_smoothing or 0.0)
    check_augmentation(spec.augment.name, spec.augment.options)
    scaled, found = meet_budget(spec)
    image_size = image_sizes(scaled)[1]
    data = _data(spec, image_size)
    network = network_of(scaled, data.options)
    # Columns hold the choices as typed, plus what was found: a run that fails before this point has the same ones.
    choices = columns(spec, hardware) | {"image_size": image_size.column, "stem": network["stem"]}
    if found is None:
        return Resolved(network, data, choices, image_size)
    choices |= {found.over: found.value, "match_miss": round(found.miss, 5)}
    return Resolved(network, data, choices, image_size, f"model.match={spec.model.match}: {found}")


def _data(spec: CellSpec, image_size: ImageSize) -> Data:
    data = make_data(spec.data.having(image_size=image_size), spec.seed)
    data.augmentation = make_augmentation(spec.augment.name, spec.augment.options)
    return data


def network_of(spec: CellSpec, data: DataOptions) -> dict[str, Any]:
    """Returns the arguments of `zoo.build` for a cell's network.

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
        "conv_options": dict(spec.conv.options),
        "act": spec.act.name,
        **({"act_options": dict(spec.act.options)} if spec.act.options else {}),
        "num_classes": data.num_classes,
        "in_chans": data.in_chans,
        "pretrained": spec.model.pretrained,
        # From the size before scaling: an image enlarged past the small stem's limit keeps its stem.
        "stem": stem_for(spec.model.stem, image_sizes(spec)[0]),
    }


def meet_budget(spec: CellSpec) -> tuple[CellSpec, Match | None]:
    """Replaces ``model.match`` by the scale that meets the budget.

    Returns:
        The cell with that scale, and the match; without a budget, the unchanged cell and None.

    Raises:
        ConvzooError: The budget cannot be met.
    """
    model, image_size = spec.model, image_sizes(spec)[1]
    if model.match is None:
        return spec, None
    # Built here for the number of classes only; `resolve` builds it again once the image size is known.
    network = network_of(spec, _data(spec, image_size).options)
    del network["width"]
    found = match_text(model.match, image_size, **network, over=model.match_over)
    return replace(spec, scale=scale_to(spec, found)), found


def count_steps(trainer: TrainerOptions, batches: int) -> tuple[int, int]:
    """Returns the length of training: batches per epoch (at least 1) and total steps (0: no limit).

    Args:
        trainer: The trainer group of the configuration.
        batches: Number of batches in the data set.
    """
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if type(limit) is int else int(batches * limit)
    batches = max(1, batches)
    steps = [n for n in (trainer.max_epochs * batches, trainer.max_steps) if n > 0]
    return batches, min(steps, default=0)
