"""Measures the speeds for the cost table: builds each cell with weights and runs it on one device, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from tqdm import tqdm

from zoo.builder import build
from zoo.errors import ConvzooError, one_line
from zoo.speeds.network import speed, training_speed
from zoo.speeds.plan import use_fast_float32
from zoo.speeds.roofline import Peaks, bound, measure_peaks
from zoo.speeds.timing import Spread

if TYPE_CHECKING:
    from zoo.costs.table import CellCost, Images


@dataclass(frozen=True)
class CellSpeed:
    """Speed of a cell in float32 (TF32 on a GPU), with the images already on the device.

    Attributes:
        train_images_per_s, infer_images_per_s: Images/s at ``batch_size``.
        latency_ms: Milliseconds of inference for one image.
        share_of_peak: Training's share of the device's peak in matrix products.
        device, batch_size: Conditions of the measurement.
    """

    train_images_per_s: Spread
    infer_images_per_s: Spread
    latency_ms: Spread
    share_of_peak: float
    device: str
    batch_size: int


def time_cells(
    cells: Sequence[CellCost],
    images: Images,
    batch_size: int = 32,
    device: str | None = None,
    seconds: float = 1.0,
    *,
    progress: bool = False,
) -> list[CellCost]:
    """Measures every cell that exists; ``speed`` of the others stays None.

    Args:
        cells: Result of `zoo.tabulate`.
        images: The argument of `zoo.tabulate`.
        batch_size: Images per training step and per forward pass.
        device: Device to measure on; by default a GPU if available, else the CPU.
        seconds: Approximate time of each of a cell's five measurements.
        progress: Show a progress bar if standard error is a terminal.

    Returns:
        The cells with ``speed`` filled in, or ``untimed`` with the reason if a network could not be run.

    Raises:
        ConvzooError: This machine does not have the device.
    """
    where = find_device(device)
    use_fast_float32(where)
    peaks = measure_peaks(where, "fp32", seconds)
    bar = tqdm(cells, unit="cell", leave=False, disable=None if progress else True)
    return [_time(cell, images, batch_size, where, seconds, peaks) if cell.cost else cell for cell in bar]


def find_device(name: str | None) -> torch.device:
    """Returns the device of that name; for None, a GPU if available, else the CPU.

    Raises:
        ConvzooError: This machine does not have the device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConvzooError(f"--device {name} is not available here. Type --device cpu, or leave it out.") from None
    return device


def build_cell(cell: CellCost, images: Images) -> nn.Module:
    """Builds the network of a cell of the table, with weights."""
    scale = {cell.match.over: cell.match.value} if cell.match else {}
    return build(cell.model, cell.conv, cell.act, **images.arguments(images.size or cell.cost.image_size), **scale)


def _time(
    cell: CellCost, images: Images, batch_size: int, device: torch.device, seconds: float, peaks: Peaks
) -> CellCost:
    try:
        net = build_cell(cell, images).to(device, memory_format=torch.channels_last)
        image = torch.zeros(images.in_chans, *cell.cost.image_size, device=device)
        training = training_speed(net, image, batch_size, seconds)
        inference = speed(net, image, batch_size, seconds)
    except Exception as error:  # Any network, on any device: most often out of memory. Others can still be measured.
        return replace(cell, untimed=one_line(error))
    rate = training.images_per_s
    share = bound(cell.cost, peaks, batch_size, training=True).share_of_peak(rate.median)
    measured = CellSpeed(rate, inference.images_per_s, inference.latency_ms, share, str(device), batch_size)
    return replace(cell, speed=measured)
