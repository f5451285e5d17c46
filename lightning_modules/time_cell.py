"""``task=time``: measures the speed of one cell on this machine in a few seconds, without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

import zoo
from lightning_modules.cell import INFER_BATCH, Cell
from lightning_modules.hardware.out_of_memory import plain_memory_errors
from lightning_modules.optimizer import make_optimizer
from zoo.errors import ConvzooError
from zoo.speeds.loop import Batch, loop_speed
from zoo.speeds.network import TrainingStep
from zoo.speeds.roofline import DTYPES, bound, measure_peaks
from zoo.speeds.timing import limited

SECONDS = 1.0
"""Approximate duration of each of the eight measurements."""

MIXED = {"bf16-mixed": "bf16", "bf16": "bf16", "16-mixed": "fp16", "16": "fp16"}
TRUE = {"32-true": "fp32", "32": "fp32", "bf16-true": "bf16", "16-true": "fp16"}
DTYPES_OF = {**{k: (v, v) for k, v in TRUE.items()}, **{k: ("fp32", v) for k, v in MIXED.items()}}
"""Lightning's precision → dtype of the weights, and dtype of matrix products and convolutions."""


def time_cell(cell: Cell) -> dict[str, float]:
    """Measures a cell as it would be trained: with its network, batch size, optimizer, precision and data.

    Returns:
        ``cost/…`` as after training, and ``speed/…``, each measurement with its ``_iqr`` and ``_noisy`` (0 or 1).
        ``train_images_per_s`` is the throughput of a plain loop over the real data, ``step_images_per_s`` that of
        steps whose images are already on the device.

    Raises:
        ConvzooError: The data are missing, or the precision cannot be measured.
    """
    device = cell.hardware.device
    precision = cell.conditions["dtype"]
    if precision not in DTYPES_OF:
        allowed = ", ".join(DTYPES_OF)
        raise ConvzooError(f"task=time cannot measure trainer.precision={precision}. Allowed: {allowed}.")
    weights, products = DTYPES_OF[precision]
    dtype = DTYPES[weights]
    net = cell.module.net.to(device, dtype)

    def autocast() -> AbstractContextManager:
        return nullcontext() if products == weights else torch.autocast(device.type, DTYPES[products])

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return make_optimizer(net, cell.spec.optim.plain())

    def prepare(batch: Batch) -> Batch:
        return cell.data.finish(*(part.to(device, non_blocking=True) for part in batch), True, dtype)

    cell.data.device = device
    image = torch.zeros(cell.image_shape, device=device, dtype=dtype)
    batch_size = cell.spec.data.batch_size
    cost = zoo.cost(net, cell.image_shape[1:], cell.image_shape[0])
    seconds = limited(SECONDS)
    with plain_memory_errors(cell.spec):
        training = zoo.training_speed(net, image, batch_size, seconds, optimizer=optimizer, autocast=autocast)
    inference = zoo.speed(net, image, INFER_BATCH, seconds, autocast=autocast)
    net.train()
    loop = loop_speed(TrainingStep(net, optimizer, autocast), _batches(cell), prepare, device, seconds)
    peaks = measure_peaks(device, products, seconds)
    cell.conditions["infer_batch_size"] = inference.batch_size
    metrics: dict[str, float] = {
        **cost.metrics,
        **cell.data.metrics,
        **loop.images_per_s.metrics("speed/train_images_per_s"),
        **training.images_per_s.metrics("speed/step_images_per_s"),
        **inference.images_per_s.metrics("speed/infer_images_per_s"),
        **inference.latency_ms.metrics("speed/latency_ms"),
        **(training.step_ms.metrics("speed/train_latency_ms") if training.step_ms else {}),
        **loop.data_ms.metrics("speed/data_ms"),
        "speed/data_wait": loop.data_wait,
        "speed/peak_memory_mb": max(training.memory.peak_mb, inference.memory.peak_mb),
        "speed/train_memory_mb": training.memory.rise_mb,
        "speed/infer_memory_mb": inference.memory.rise_mb,
        "speed/peak_gmacs_per_s": peaks.macs_per_s / 1e9,
        "speed/peak_gbytes_per_s": peaks.bytes_per_s / 1e9,
        "speed/peak_noisy": int(peaks.noisy),
    }
    for name, spread in training.phases_ms.items():
        metrics |= spread.metrics(f"speed/{name}_ms")
    for name, measured, n in (
        ("train", training.images_per_s.median, batch_size),
        ("infer", inference.images_per_s.median, inference.batch_size),
    ):
        roof = bound(cost, peaks, n, training=name == "train")
        metrics[f"speed/{name}_share_of_peak"] = roof.share_of_peak(measured)
        metrics[f"speed/{name}_share_of_bound"] = roof.share_of_bound(measured)
        metrics[f"speed/{name}_macs_per_byte"] = roof.intensity
    return metrics


def _batches(cell: Cell) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the training batches of the loader, epoch after epoch, without end."""
    cell.data.prepare_data()
    cell.data.setup("fit")
    loader = cell.data.train_dataloader()
    while True:
        yield from loader
