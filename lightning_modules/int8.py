"""Compares a trained network in int8 with its float32 original: accuracy, size and speed."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from lightning_modules.config.schema import DataOptions
from lightning_modules.data import Data, make_data
from lightning_modules.results.result import environment
from zoo.compression import int8 as quantizer
from zoo.deploy import export as exporter
from zoo.deploy.checkpoint import read_checkpoint
from zoo.devices import device_name
from zoo.errors import ConvzooError
from zoo.speeds.timing import Spread, measure

BATCH = 64
"""Batch size for testing and timing: int8 kernels are compiled for one batch size."""
ROUNDS = 3
"""Number of times the two networks alternate during timing."""


def compare(checkpoint: Path, output: Path, calibration_images: int = 512) -> dict[str, Any]:
    """Quantizes the network of a checkpoint, saves it, and compares it with the float network.

    Args:
        checkpoint: ``best.ckpt`` of a run.
        output: Where to save the int8 network (``.pt2``), for `zoo.lower`.
        calibration_images: Number of training images that calibrate the quantization ranges.

    Returns:
        ``float32`` and ``int8`` (each with ``test/acc``, ``size_mb`` and the speeds, named as in ``result.json``),
        ``layers``, ``calibration_images``, ``checkpoint``, ``network``, ``environment``.

    Raises:
        ConvzooError: The checkpoint does not record its training data, the data are missing, or the network or this
            machine does not support int8.
    """
    trained = read_checkpoint(checkpoint)
    if trained.data is None:
        raise ConvzooError(f"{checkpoint} does not say what data it was trained on. Train the cell again.")
    # The checkpoint may be untrusted: it may name a data set but must not trigger a download.
    data = make_data(DataOptions.of(trained.data, "data").having(download=False), trained.seed)
    data.prepare_data()
    data.setup("test")
    net = trained.net.to(memory_format=torch.channels_last)
    calibration = _calibration(data, calibration_images)
    quantized = zoo.quantize(net, calibration)
    shape = tuple(calibration[0].shape[1:])
    quantizer.save(quantized, output, shape)
    lowered = zoo.lower(output)
    start = time.perf_counter()
    for n in (BATCH, 1):
        lowered(torch.zeros(n, *shape).contiguous(memory_format=torch.channels_last))
    compile_s = time.perf_counter() - start
    int8_layers, layers = quantizer.count_layers(quantized)
    float32, int8 = _measure({"float32": net, "int8": lowered}, data, shape)
    return {
        "checkpoint": str(checkpoint),
        "network": trained.network,
        "float32": float32 | {"size_mb": _float_size(net, shape)},
        "int8": int8 | {"size_mb": output.stat().st_size / 1e6, "time/compile_s": compile_s},
        "layers": {"int8": int8_layers, "all": layers, "float": quantizer.float_layers(quantized)},
        "calibration_images": sum(len(images) for images in calibration),
        "environment": environment(
            device=device_name(torch.device("cpu")),
            threads=torch.get_num_threads(),
            memory_format="channels_last",
            infer_batch_size=BATCH,
            torchao=version("torchao"),
        ),
    }


def _calibration(data: Data, n: int) -> list[torch.Tensor]:
    """Returns the first ``n`` training images (all, if there are fewer) in batches, without batch augmentation."""
    batches: list[torch.Tensor] = []
    for images, _ in data.train_dataloader():
        batches.append(data.prepare(images[: n - sum(map(len, batches))], False))
        if sum(map(len, batches)) == n:
            break
    return batches


def accuracy(net: Callable[[torch.Tensor], torch.Tensor], data: Data) -> tuple[float, int]:
    """Returns the top-1 accuracy on the test images, each counted once, and their number."""
    right = count = 0
    for batch, labels in data.test_dataloader():
        logits = []
        for images in data.prepare(batch, False).split(BATCH):
            # Padded, since a smaller batch would trigger another compilation.
            padded = torch.cat([images, images.new_zeros(BATCH - len(images), *images.shape[1:])])
            with torch.no_grad():
                logits.append(net(padded.contiguous(memory_format=torch.channels_last))[: len(images)])
        right += (torch.cat(logits).argmax(1) == labels).sum().item()
        count += len(labels)
    return right / count, count


def _measure(nets: dict[str, nn.Module], data: Data, shape: tuple[int, int, int]) -> list[dict[str, float]]:
    """Measures accuracy and speed of each network; timing alternates, so that background load affects all alike."""
    seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in nets for n in (BATCH, 1)}
    with torch.inference_mode():
        for _, (name, n) in itertools.product(range(ROUNDS), seconds):
            images = torch.zeros(n, *shape).contiguous(memory_format=torch.channels_last)
            seconds[name, n] += measure(partial(nets[name], images), images.device, seconds=1.0)
    rows = []
    for name, net in nets.items():
        top1, count = accuracy(net, data)
        rate = Spread.of([BATCH / s for s in seconds[name, BATCH]])
        latency = Spread.of([1000 * s for s in seconds[name, 1]])
        rows.append(
            {
                "test/acc": top1,
                "test/images": count,
                "speed/infer_images_per_s": rate.median,
                "speed/infer_images_per_s_iqr": rate.iqr,
                "speed/latency_ms": latency.median,
                "speed/latency_ms_iqr": latency.iqr,
            }
        )
    return rows


def _float_size(net: nn.Module, shape: tuple[int, int, int]) -> float:
    """Returns the size (MB) of the float network, saved in the same format as the int8 one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float.pt2"
        torch.export.save(exporter.capture(net, torch.zeros(2, *shape)), file)
        return file.stat().st_size / 1e6
