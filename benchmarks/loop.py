"""Benchmark the overhead of training loops per step, relative to a bare PyTorch loop.

    python benchmarks/loop.py [--rounds 5] [--output loop.json]

Four loops train the same small network on the same batches, in turn, in one process:

- bare: forward, loss, zero_grad, backward, optimizer and schedule, in a for loop;
- convzoo: `lightning_modules.cell.Cell.train` as `python train.py` calls it, with metrics, progress bar, W&B (offline),
  checkpoints, and speed and cost callbacks; only the network and data are replaced by the benchmark's;
- usual: the LightningModule of common templates, with torchmetrics and `self.log` in each step, progress bar, W&B
  (offline) and checkpoints;
- stock: a minimal LightningModule with all of these turned off.

The network's step takes about 0.3 ms, so that an overhead of 0.1 ms is visible. A second measurement adds 10 ms of work
per step, for the relative overhead. Each figure covers the second of two epochs, as CPU time of the process and as wall
time.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import tempfile
import termios
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import wandb
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from turns import ROOT, in_turn, options, show, text, write

from lightning_modules.cell import Cell
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.devices import resolve_hardware
from lightning_modules.hardware.signals import StopSignals
from lightning_modules.run import be_quiet
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.loggers import finish_loggers, make_loggers

BATCH, CLASSES, EPOCHS = 8, 10, 2
OPTIM = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup": 0.2, "label_smoothing": 0.1}


class Net(nn.Module):
    """A convolution and a classifier.

    Args:
        work: Number of additional matrix products per forward pass; they do not affect the output.
    """

    def __init__(self, work: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8, CLASSES)
        self.work, self.matrix = work, torch.randn(256, 256)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for _ in range(self.work):
            self.matrix @ self.matrix
        return self.classifier(self.features(images))


def work_of(milliseconds: float) -> int:
    """Return the number of the network's matrix products that take this long on this machine."""
    matrix = torch.randn(256, 256)
    taken = []
    for _ in range(200):
        start = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - start)
    return round(milliseconds / 1e3 / statistics.median(taken))


class Batches:
    """Repeats the same few batches of shape (8, 3, 8, 8), so that reading data costs nothing."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.kept = [(torch.randn(BATCH, 3, 8, 8), torch.randint(0, CLASSES, (BATCH,))) for _ in range(8)]

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (self.kept[i % len(self.kept)] for i in range(self.steps))


class Data(L.LightningDataModule):
    callbacks, metrics = (), {}  # attributes that convzoo's data modules have

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> Batches:
        return Batches(self.steps)

    def val_dataloader(self) -> Batches:
        return Batches(2)

    test_dataloader = val_dataloader


class Clock(L.Callback):
    """Times the steps of an epoch; as the first callback, its two hooks enclose nothing else."""

    def __init__(self) -> None:
        self.start = self.seconds = (0.0, 0.0)

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = now()

    def on_validation_start(self, *_: Any) -> None:
        self.seconds = tuple(b - a for a, b in zip(self.start, now(), strict=True))


def now() -> tuple[float, float]:
    """Return the CPU seconds of this process and the wall time in seconds."""
    return time.process_time(), time.perf_counter()


def optimizer_of(net: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(net.parameters(), OPTIM["lr"], weight_decay=OPTIM["weight_decay"], fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, OPTIM["lr"], max(3, steps))


def bare(steps: int, work: int, folder: Path) -> tuple[float, float]:
    net, batches = Net(work), Batches(steps)
    optimizer, schedule = optimizer_of(net, steps * EPOCHS)
    for _ in range(EPOCHS):
        start = now()
        for images, labels in batches:
            loss = cross_entropy(net(images), labels, label_smoothing=OPTIM["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = tuple(b - a for a, b in zip(start, now(), strict=True))
    return seconds


class Stock(L.LightningModule):
    def __init__(self, work: int) -> None:
        super().__init__()
        self.net = Net(work)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.net(batch[0]), batch[1], label_smoothing=OPTIM["label_smoothing"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer, schedule = optimizer_of(self.net, int(self.trainer.estimated_stepping_batches))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Usual(Stock):
    """The usual template module: ``self.log`` of a metric in each step, averaged over the epoch."""

    def __init__(self, work: int) -> None:
        super().__init__(work)
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.train_acc, self.val_acc = MulticlassAccuracy(CLASSES), MulticlassAccuracy(CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        logits = self.net(batch[0])
        loss = cross_entropy(logits, batch[1], label_smoothing=OPTIM["label_smoothing"])
        self.train_loss(loss)
        self.train_acc(logits.argmax(1), batch[1])
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.val_loss(cross_entropy(logits, batch[1]))
        self.val_acc(logits.argmax(1), batch[1])
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)


def fit(module: L.LightningModule, steps: int, folder: Path, **settings: Any) -> tuple[float, float]:
    clock = Clock()
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[clock],
        **settings,
    )
    trainer.fit(module, datamodule=Data(steps))
    return clock.seconds


def stock(steps: int, work: int, folder: Path) -> tuple[float, float]:
    return fit(Stock(work), steps, folder, logger=False, enable_progress_bar=False, enable_checkpointing=False)


def usual(steps: int, work: int, folder: Path) -> tuple[float, float]:
    seconds = fit(Usual(work), steps, folder, logger=WandbLogger(project="benchmark", save_dir=folder, offline=True))
    wandb.finish()
    return seconds


def convzoo(steps: int, work: int, folder: Path) -> tuple[float, float]:
    overrides = ["data=synthetic", f"data.num_classes={CLASSES}", "data.image_size=8", f"data.batch_size={BATCH}"]
    overrides += ["model=mobilenet", "model.variant=v3_small", f"trainer.max_epochs={EPOCHS}", "hardware=cpu"]
    overrides += ["hardware.threads=1", "hardware.plan=fp32", "logger.mode=offline", f"optim.lr={OPTIM['lr']}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", overrides), resolve=True)
    spec = CellSpec.of(config)
    cell = Cell(spec, folder, resolve_hardware(spec.hardware, spec.trainer))
    cell.module.net, cell.data = Net(work), Data(steps)
    clock, make_trainer = Clock(), cell._trainer
    cell._trainer = lambda logger, checkpoints, callbacks: make_trainer(logger, checkpoints, [clock, *callbacks])
    cell._inference_speed = lambda trainer: {}
    loggers, signals = make_loggers(spec, folder, cell.choices, "none"), StopSignals()
    try:
        signals.install()
        metrics = cell.train(loggers, signals)
    finally:
        signals.restore()
    finish_loggers(loggers, Outcome(metrics, "completed"))
    return clock.seconds


LOOPS = {"bare": bare, "convzoo": convzoo, "usual": usual, "stock": stock}


@contextmanager
def terminal() -> Iterator[None]:
    """Redirect output to a pseudo-terminal, so that progress bars are drawn as in a real one."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    reader = subprocess.Popen(["cat"], stdin=master, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with os.fdopen(slave, "w") as screen, redirect_stdout(screen), redirect_stderr(screen):
        yield
    os.close(master)
    reader.wait()


def measure(loops: dict[str, Callable[..., Any]], steps: int, work: int, rounds: int, title: str) -> dict[str, Any]:
    """Return milliseconds per step of each loop, one sample per round: ``{loop: {"cpu": […], "wall": […]}}``."""
    found: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in loops}

    def once(name: str) -> Callable[[], float]:
        def run() -> float:
            # Importing Lightning sets it to 1, which slows the optimizer; a bare PyTorch script runs without it.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0" if name == "bare" else "1"
            with tempfile.TemporaryDirectory() as folder, terminal():
                cpu, wall = loops[name](steps, work, Path(folder))
            found[name]["cpu"].append(cpu / steps * 1e3)
            found[name]["wall"].append(wall / steps * 1e3)
            return cpu

        return run

    turns = in_turn({name: once(name) for name in loops}, "bare", rounds, title)
    rows = []
    for name in loops:
        cells = []
        for clock in ("cpu", "wall"):
            over = [own - base for own, base in zip(found[name][clock], found["bare"][clock], strict=True)]
            low, middle, high = statistics.quantiles(over, n=4, method="inclusive") if rounds > 1 else over * 3
            share = 100 * middle / statistics.median(found["bare"][clock])
            cells += ["" if name == "bare" else f"{middle:.3f} ({low:.3f} to {high:.3f})"]
            cells += ["" if name == "bare" else f"{share:.1f} %"]
        rows.append([name, f"{statistics.median(found[name]['cpu']):.3f}", *cells, text(turns.ratios(name))])
    columns = ("loop", "CPU ms a step", "on top of bare: CPU ms", "share", "wall ms", "share", "bare's speed ×")
    show(f"{title}: median (quartiles) of {rounds} rounds", columns, rows)
    return found


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--steps", type=int, default=1000, help="steps of an epoch (1000; a tenth of 10 ms ones)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    be_quiet()
    os.environ |= {"WANDB_SILENT": "true", "WANDB_MODE": "offline"}
    torch.set_num_threads(1)
    results = {"step of 0.3 ms": measure(LOOPS, arguments.steps, 0, arguments.rounds, "a step of 0.3 ms")}
    loops = {name: LOOPS[name] for name in ("bare", "convzoo", "usual")}
    results["step of 10 ms"] = measure(loops, arguments.steps // 10, work_of(10), arguments.rounds, "a step of 10 ms")
    write(arguments.output, results)


if __name__ == "__main__":
    main()
