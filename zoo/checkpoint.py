"""Reads all that a run's checkpoint knows: the trained network, and the images that it was trained for."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.builder import load
from zoo.errors import ConvzooError


@dataclass(frozen=True)
class Trained:
    """A trained network and its images.

    Attributes:
        net: In eval mode, on the CPU.
        network: Arguments of `zoo.build` that made it.
        data: The run's data group (name, image size, mean, std …); None where the checkpoint does not say.
        seed: The run's.
    """

    net: nn.Module
    network: dict[str, Any]
    data: dict[str, Any] | None
    seed: int

    @property
    def image_size(self) -> int | None:
        """Height and width of the images, where the checkpoint says so."""
        return self.data["image_size"] if self.data else None


def read_checkpoint(checkpoint: str | os.PathLike[str]) -> Trained:
    """Reads a ``.ckpt`` that a run of convzoo wrote. Nothing in it is executed.

    Raises:
        ConvzooError: There is no such file, or it is no checkpoint of convzoo's.
    """
    if not Path(checkpoint).is_file():
        raise ConvzooError(
            f"{checkpoint} is not a file. Give the best.ckpt of a run, such as runs/DATE/TIME-…/best.ckpt."
        )
    try:
        net = load(checkpoint)
        content = torch.load(checkpoint, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ConvzooError(f"{checkpoint} cannot be read as a checkpoint of convzoo's: {reason}") from None
    settings = content.get("datamodule_hyper_parameters", {})
    return Trained(net, content["hyper_parameters"]["network"], settings.get("data"), settings.get("seed", 0))
