"""Reads a run's checkpoint: the trained network, and the images that it was trained for."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from zoo.acts.activations import ACTS
from zoo.builder import build
from zoo.convs import KINDS
from zoo.convs.kinds import ALIASES
from zoo.deploy.verify_checkpoint import DamagedError, read_checked
from zoo.errors import ConvzooError
from zoo.image_size import ImageSize
from zoo.meta import meta_init
from zoo.rules import image_size, or_null
from zoo.text import clean

ARGUMENTS = {*inspect.signature(build).parameters} - {"timm_kwargs"}
"""Arguments of `zoo.build` that a checkpoint may set. timm's own are excluded: they name files and addresses."""

PLUGINS = "plugins"
"""Key of a checkpoint: the plugins that it was trained with, module → hash of its source."""

LARGEST_IMAGE = 8192
"""Largest accepted image size, in pixels per side. More is a mistake or an attack."""

IMAGES = or_null(image_size(1, LARGEST_IMAGE))


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and its images.

    Attributes:
        path: The file.
        network: Arguments of `zoo.build` that make the network.
        weights: Its state_dict.
        data: The run's data group (name, image size, mean, std …); None if the checkpoint has none.
        seed: The run's seed.
    """

    path: Path
    network: dict[str, Any]
    weights: dict[str, torch.Tensor]
    data: dict[str, Any] | None
    seed: int

    @cached_property
    def net(self) -> nn.Module:
        """The trained network, in eval mode, on the CPU.

        Raises:
            ConvzooError: The weights do not fit the network that the checkpoint names.
        """
        try:
            # Build without weights first: a name and two numbers can ask for more memory than the machine has.
            with torch.random.fork_rng(devices=[]), meta_init():
                planned = build(**self.network)
            if sum(p.numel() for p in planned.parameters()) > self.path.stat().st_size:
                raise _foreign(self.path, "its network has more weights than the file")
            net = build(**self.network)
            net.load_state_dict(self.weights)
        except ConvzooError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _foreign(self.path, f"its weights are not its network's ({clean(error, 200)})") from None
        return net.eval()

    @property
    def in_chans(self) -> int:
        """Number of image channels."""
        return self.network.get("in_chans", 3)

    @property
    def image_size(self) -> ImageSize | None:
        """Height and width of the images; None if the checkpoint does not say."""
        return ImageSize.of(self.data["image_size"]) if self.data and self.data["image_size"] else None


def read_checkpoint(checkpoint: str | os.PathLike[str]) -> Checkpoint:
    """Reads a ``.ckpt`` of a convzoo run with ``weights_only=True``: nothing in it is executed.

    Raises:
        ConvzooError: The file does not exist, is damaged, or is not a checkpoint of convzoo's.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ConvzooError(f"{path} is not a file. Give the best.ckpt of a run, such as runs/DATE/TIME-…/best.ckpt.")
    try:
        content = read_checked(path)
        network = {**content["hyper_parameters"]["network"], "pretrained": False}
        weights = {k.removeprefix("net."): v for k, v in content["state_dict"].items() if k.startswith("net.")}
        settings = content.get("datamodule_hyper_parameters", {})
        read = Checkpoint(path, network, weights, settings.get("data"), settings.get("seed", 0))
        size = read.data["image_size"] if read.data else None
    except DamagedError:
        raise
    except OSError as error:
        raise ConvzooError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception:  # A foreign file may raise anything: KeyError, TypeError.
        raise _foreign(path) from None
    if strange := sorted(map(str, set(network) - ARGUMENTS)):
        raise _foreign(path, f"it asks for {', '.join(strange)}")
    if needed := _missing_choices(network):
        plugins = ", ".join(map(clean, content.get(PLUGINS, {})))
        missing = f"the plugin {plugins}" if plugins else "a plugin"
        raise ConvzooError(f"{path} needs {needed} of {missing}. Import that first, or type --plugins NAME.")
    name = network.get("backbone")
    # timm downloads a network whose name has a colon, from any address in that name.
    if not isinstance(name, str) or ":" in name:
        raise _foreign(path, f"timm {timm.__version__} has no network {clean(name, 80)}")
    if not IMAGES[0](size):
        raise _foreign(path, f"it is for images of {clean(size, 80)} pixels")
    return read


def _missing_choices(network: dict[str, Any]) -> str:
    """Returns what a network needs that is registered nowhere, as users type it."""
    known = {"conv": ("native", *ALIASES, *KINDS), "act": ("native", *ACTS)}
    missing = [f"{axis}={clean(network[axis], 80)}" for axis in known if network.get(axis, "native") not in known[axis]]
    name = network.get("backbone")
    if isinstance(name, str) and ":" not in name and not timm.is_model(name):
        missing.append(f"the backbone {clean(name, 80)}")
    return ", ".join(missing)


def load(checkpoint: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """Rebuilds the trained network of a run from its checkpoint, in eval mode. Needs neither Lightning nor Hydra.

    Args:
        checkpoint: A ``.ckpt`` of a convzoo run. Nothing in it is executed.
        device: Device to put the network on.

    Raises:
        ConvzooError: The file does not exist, is damaged, or is not a checkpoint of convzoo's.
    """
    return read_checkpoint(checkpoint).net.to(device)


def _foreign(path: Path, why: str = "it does not say how to build its network") -> ConvzooError:
    return ConvzooError(f"{path} is not a checkpoint of convzoo's: {why}.")
