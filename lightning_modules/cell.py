"""One cell, ready to train: network, data, Trainer and measurements."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import zoo
from lightning_modules.callbacks import CostLogger, SpeedLogger
from lightning_modules.callbacks.bad_steps import BadSteps
from lightning_modules.callbacks.epochs import EpochLines
from lightning_modules.callbacks.progress import progress
from lightning_modules.checkpoint.best import BestCheckpoint
from lightning_modules.checkpoint.io import Checkpoints
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.checkpoint.resume import Saved
from lightning_modules.classifier import Classifier
from lightning_modules.config.limits import check_memory
from lightning_modules.config.schema import CellSpec
from lightning_modules.data.workers import plain_worker_errors
from lightning_modules.hardware.devices import Hardware, check_world_size, global_rank
from lightning_modules.hardware.out_of_memory import first_line, is_out_of_memory, plain_memory_errors
from lightning_modules.hardware.plan import PlanChoice, PlanRequest, choose_plan
from lightning_modules.hardware.signals import StopSignals
from lightning_modules.hardware.sync_batchnorm import SyncNorms
from lightning_modules.init_weights import InitWeights
from lightning_modules.resolve import count_steps, resolve
from lightning_modules.tracking.profile import make_profiler, profiled
from lightning_modules.unfit import check_network
from zoo.devices import device_name
from zoo.errors import ConvzooError
from zoo.speeds.memory import peak_memory

INFER_BATCH = 64
"""Batch size for ``infer_images_per_s``, after training and with ``task=time``."""


class Cell:
    """One cell: its network, data and Trainer.

    Attributes:
        choices: The cell's choices as flat columns, for result.json and W&B.
        goes_on: Whether training resumes from a checkpoint.
        conditions: What the measurements depend on: device, precision, plan, threads, batch size.
        checkpoint: Path of the best checkpoint; None before training.
    """

    def __init__(self, spec: CellSpec, folder: Path, hardware: Hardware, last: Saved | None = None) -> None:
        self.spec, self.folder, self.hardware = spec, folder, hardware
        if threads := spec.hardware.threads:
            torch.set_num_threads(threads)
        if spec.trainer.deterministic:
            # cuBLAS reads this on first use of the GPU, which is before Lightning's Trainer would set it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if not torch.cuda.is_available():
            # Adam checks for a GPU at every step; without a GPU the NVML-based check costs 0.2 ms each time.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        L.seed_everything(spec.seed, workers=True, verbose=False)
        resolved = resolve(spec, hardware.name)
        check_memory(spec, resolved.network)
        self.data, self.choices, image_size = resolved.data, resolved.choices, resolved.image_size
        if resolved.found and global_rank() == 0:
            print(resolved.found, flush=True)
        self.data.look(tell=global_rank() == 0)
        self.start = InitWeights(spec.init, resolved.network)
        self.module = Classifier(self.start.network, spec.optim.plain(), spec.hardware.micro_batch)
        self.module.to(memory_format=torch.channels_last)
        self.start.fill(self.module.net)
        check_network(self.module.net, resolved, spec.data.batch_size)
        self.image_shape = (resolved.in_chans, image_size, image_size)
        self._last, self.goes_on = last, last is not None
        self.plan = self._choose_plan()
        if rank := global_rank():
            # All ranks have built the same network; from here on each draws its own random numbers.
            L.seed_everything((spec.seed + rank * 0x9E3779B1) % 2**32, workers=True, verbose=False)
        self.costs = CostLogger(image_size, resolved.in_chans)
        self.speeds = SpeedLogger(images=_images)
        self.conditions: dict[str, Any] = {
            "device": device_name(hardware.device),
            "devices": hardware.world_size,
            "dtype": self.plan.precision,
            "memory_format": "channels_last",
            "plan": self.plan.plan.name,
            "plan_why": self.plan.why,
            "threads": torch.get_num_threads(),
            "batch_size": spec.data.batch_size,
        }
        self.checkpoint: str | None = None

    def _choose_plan(self) -> PlanChoice:
        spec, hardware, network = self.spec, self.hardware, self.start.network
        batch = spec.data.batch_size // hardware.world_size or 1
        unmeasured = "several processes" if hardware.world_size > 1 else None
        if spec.trainer.deterministic:
            unmeasured = "trainer.deterministic"
        found = choose_plan(
            spec.hardware.plan,
            spec.trainer.precision,
            self.module.net,
            PlanRequest(
                (min(batch, self.module.micro_batch.size or batch), *self.image_shape),
                network["num_classes"],
                # Distributed runs do not measure plans, and counting steps would make every rank fetch the data set.
                self._steps() if hardware.world_size == 1 else 0,
                spec.trainer.accumulate_grad_batches > 1,
            ),
            hardware.device,
            before=self._last.plan if self._last else None,
            unmeasured=unmeasured,
        )
        if global_rank() == 0:
            print(found, flush=True)
        found.plan.apply(self.module.net, hardware.device)
        return found

    def _steps(self) -> int:
        """Returns the approximate number of training steps."""
        batches = self.data.size("train") // self.spec.data.batch_size
        return count_steps(self.spec.trainer, batches)[1]

    def train(self, logger: Any, signals: StopSignals) -> dict[str, float]:
        """Trains, tests the best checkpoint and measures inference; returns all metrics under their final names.

        Resumes from the ``last.ckpt`` that was passed to the constructor, if any.
        """
        best = BestCheckpoint(self.folder)
        every_s, plan = self.spec.checkpoint.every_s, self.plan.plan.name
        last = LastCheckpoint(self.folder, every_s, self.spec, plan, signals)
        epochs = EpochLines(self.folder, lambda: last.seconds)
        checkpoints, last_path = Checkpoints(), None
        if self._last:
            checkpoints.give(last_path := self._last.path, self._last.take())
        bad_steps = self._bad_steps()
        callbacks = [bad_steps, self.start, self.costs, self.speeds, *self.data.callbacks, best, epochs, last]
        trainer = self._trainer(logger, checkpoints, callbacks)
        check_world_size(self.hardware, trainer.world_size)
        with self._reporting(trainer), peak_memory(trainer.strategy.root_device) as memory:
            trainer.fit(self.module, datamodule=self.data, ckpt_path=last_path, weights_only=True)
        fit_s = last.seconds
        if not best.best_model_path:
            # No validation ran, so the last weights are the best available.
            trainer.save_checkpoint(best.path, weights_only=True)
        checkpoints.finish()
        epochs.finish()
        self.checkpoint = str(best.path)
        if self.module.micro_batch.size:
            self.conditions["micro_batch"] = self.module.micro_batch.size
        metrics = {"time/fit_s": fit_s, "time/epochs": trainer.current_epoch}
        metrics |= {"speed/peak_memory_mb": memory.peak_mb}
        with self._reporting(trainer):
            tested = trainer.test(
                self.module, datamodule=self.data, ckpt_path=self.checkpoint, verbose=False, weights_only=True
            )
        metrics |= tested[0] if tested else {}
        if best.best_model_score is not None:
            metrics["val/acc"] = best.best_model_score.item()
        if bad := [k for k, v in metrics.items() if not math.isfinite(v)]:
            raise ConvzooError(f"{', '.join(bad)} is not a number: training diverged. {bad_steps.advice}")
        metrics |= self.data.metrics | bad_steps.metrics | self.start.metrics | self.costs.metrics | self.speeds.metrics
        return metrics | (self._inference_speed(trainer) if trainer.is_global_zero else {})

    @contextmanager
    def _reporting(self, trainer: L.Trainer) -> Iterator[None]:
        """Reports a user's mistake as one message, and where the profile is, around a fit or a test."""
        memory_errors = plain_memory_errors(self.spec, self.hardware.world_size)
        with memory_errors, profiled(trainer, self.folder), _plain_trainer_errors():
            yield

    def _bad_steps(self) -> BadSteps:
        optim, given = self.spec.optim, self.spec.trainer
        ways = [f"a smaller optim.lr (it was {optim.lr})"]
        ways += [] if given.gradient_clip_val else ["trainer.gradient_clip_val=1"]
        ways += ["hardware.plan=fp32"] if self.plan.precision.startswith(("bf16", "16")) else []
        advice = f"Type {' or '.join([', '.join(ways[:-1]), ways[-1]]) if ways[1:] else ways[0]}."
        return BadSteps(self.folder, optim.bad_step, optim.max_skipped, advice)

    def _trainer(self, logger: Any, checkpoints: Checkpoints, callbacks: list[L.Callback]) -> L.Trainer:
        # Lightning's max_time ends a run as if it had completed; signals.py interrupts it instead.
        given = {k: v for k, v in self.spec.trainer.plain().items() if v is not None and k != "max_time"}
        if given.get("enable_progress_bar", True):
            callbacks = [*callbacks, progress()]
        arguments = {
            **given,
            # None is meaningful here: it counts batches across epochs.
            "check_val_every_n_epoch": self.spec.trainer.check_val_every_n_epoch,
            "precision": self.plan.precision,
            **self.hardware.trainer_arguments,
            "logger": logger,
            "callbacks": callbacks,
            "plugins": [checkpoints, SyncNorms()] if self.spec.trainer.sync_batchnorm else [checkpoints],
            "default_root_dir": self.folder,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "profiler": given.get("profiler") and make_profiler(given["profiler"], self.folder),
            "enable_progress_bar": given.get("enable_progress_bar", True) and sys.stderr.isatty(),
        }
        try:
            return L.Trainer(**arguments)
        except (MisconfigurationException, TypeError, ValueError, ImportError) as error:
            raise ConvzooError(f"trainer: {error}") from None

    def _inference_speed(self, trainer: L.Trainer) -> dict[str, float]:
        # Lightning moves the network off the GPU after testing.
        device = self.module.to(trainer.strategy.root_device).device
        image = torch.zeros(self.image_shape, device=device, dtype=self.module.dtype)
        micro = self.module.micro_batch
        images = min(INFER_BATCH, micro.size or INFER_BATCH, micro.evaluated or INFER_BATCH)
        try:
            measured = zoo.speed(self.module.net, image, images, autocast=trainer.precision_plugin.forward_context)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"speed/infer_…, speed/latency_…: not measured: out of memory ({first_line(error)}).", flush=True)
            return {}
        self.conditions["infer_batch_size"] = measured.batch_size
        return {
            "speed/infer_images_per_s": measured.images_per_s.median,
            "speed/infer_images_per_s_iqr": measured.images_per_s.iqr,
            "speed/latency_ms": measured.latency_ms.median,
            "speed/latency_ms_iqr": measured.latency_ms.iqr,
        }


def _images(batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    return len(batch[1])


@contextmanager
def _plain_trainer_errors() -> Iterator[None]:
    """Re-raises argument errors that Lightning detects only at run time as `ConvzooError`, without a traceback."""
    try:
        with plain_worker_errors():
            yield
    except MisconfigurationException as error:
        raise ConvzooError(f"trainer: {error}") from None
    except ValueError as error:
        if isinstance(error, ConvzooError) or "`val_check_interval`" not in str(error):
            raise
        given, batches = re.search(r"\((\d+)\).*\((\d+)\)", str(error), re.DOTALL).groups()
        raise ConvzooError(
            f"trainer.val_check_interval={given} is more than the {batches} batches of an epoch. Type a smaller "
            "one, or trainer.check_val_every_n_epoch=null too, which counts batches over all epochs."
        ) from None
