"""One cell, ready to train: network, data, Trainer and measurements."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

import zoo
from lightning_modules.callbacks import CostLogger, SpeedLogger
from lightning_modules.callbacks.bad_steps import BadSteps
from lightning_modules.callbacks.epochs import EpochLines
from lightning_modules.checkpoint.best import BestCheckpoint
from lightning_modules.checkpoint.io import Checkpoints
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.checkpoint.resume import Saved
from lightning_modules.config.limits import check_memory
from lightning_modules.config.objects import make_all
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.devices import Hardware, check_world_size, set_process_options
from lightning_modules.hardware.micro_batch import MicroBatch
from lightning_modules.hardware.out_of_memory import MEMORY_ERRORS, first_line, is_out_of_memory
from lightning_modules.hardware.plan import PlanChoice, PlanRequest, choose_plan
from lightning_modules.hardware.signals import StopSignals
from lightning_modules.init_weights import InitWeights
from lightning_modules.module import make_module
from lightning_modules.resolve import count_steps, resolve
from lightning_modules.tracking.profile import profiled
from lightning_modules.trainer import make_trainer, plain_trainer_errors
from lightning_modules.unfit import check_network
from zoo.devices import device_name
from zoo.errors import ConvzooError
from zoo.log import log
from zoo.ranks import global_rank
from zoo.speeds.memory import peak_memory
from zoo.speeds.timing import limited

INFER_BATCH = 64
"""Batch size for ``infer_images_per_s``, after training and with ``task=time``."""


class Cell:
    """One cell: its network, data and Trainer.

    Attributes:
        choices: The cell's choices as flat columns, for result.json and W&B.
        conditions: What the measurements depend on: device, precision, plan, threads, batch size.
        checkpoint: Path of the best checkpoint; None before training.
    """

    def __init__(self, spec: CellSpec, folder: Path, hardware: Hardware, last: Saved | None = None) -> None:
        self.spec, self.folder, self.hardware = spec, folder, hardware
        self._last = last
        self.checkpoint: str | None = None
        set_process_options(spec.hardware, spec.trainer)
        L.seed_everything(spec.seed, workers=True, verbose=False)
        resolved = resolve(spec, hardware.name)
        check_memory(spec, resolved.network)
        self.data, self.choices = resolved.data, resolved.choices
        self.image_shape = (resolved.in_chans, *resolved.image_size)
        if resolved.found:
            log.info(resolved.found)
        self.data.look()
        self._init = InitWeights(spec.init, resolved.network)
        self.module = make_module(spec, self._init.network, folder)
        self.micro_batch = getattr(self.module, "micro_batch", None) or MicroBatch()
        self.module.to(memory_format=torch.channels_last)
        self._init.fill(self.module.net)
        check_network(self.module.net, resolved, spec.data.batch_size)
        self.plan = self._choose_plan()
        if rank := global_rank():
            # All ranks have built the same network; from here on each draws its own random numbers.
            L.seed_everything((spec.seed + rank * 0x9E3779B1) % 2**32, workers=True, verbose=False)
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

    def _choose_plan(self) -> PlanChoice:
        spec, world_size = self.spec, self.hardware.world_size
        batch = spec.data.batch_size // world_size or 1
        unmeasured = "several processes" if world_size > 1 else None
        if spec.trainer.deterministic:
            unmeasured = "trainer.deterministic"
        steps = 0
        if world_size == 1:  # else plans are not measured, and counting steps would make every rank fetch the data set
            steps = count_steps(spec.trainer, self.data.size("train") // spec.data.batch_size)[1]
        found = choose_plan(
            spec.hardware.plan,
            spec.trainer.precision,
            self.module.net,
            PlanRequest(
                (min(batch, self.micro_batch.size or batch), *self.image_shape),
                self._init.network["num_classes"],
                steps,
                spec.trainer.accumulate_grad_batches > 1,
            ),
            self.hardware.device,
            before=self._last.plan if self._last else None,
            unmeasured=unmeasured,
        )
        log.info(found)
        found.plan.apply(self.module.net, self.hardware.device)
        return found

    def train(self, logger: Any, signals: StopSignals) -> dict[str, float]:
        """Trains, tests the best checkpoint and measures inference; returns all metrics under their final names.

        Resumes from the ``last.ckpt`` that was passed to the constructor, if any.
        """
        best = BestCheckpoint(self.folder)
        last = LastCheckpoint(self.folder, self.spec, self.plan.plan.name, signals)
        epochs = EpochLines(self.folder)
        checkpoints = Checkpoints(self._last)
        costs, speeds, bad_steps = (
            CostLogger(self.image_shape[1:], self.image_shape[0]),
            SpeedLogger(images=_images),
            self._bad_steps(),
        )
        # Lightning calls checkpoint callbacks last; what a user's does is to be in last.ckpt.
        theirs = make_all("callbacks", self.spec.callbacks, self.folder, L.Callback)
        callbacks = [bad_steps, self._init, costs, speeds, *self.data.callbacks, best, epochs, *theirs, last]
        trainer = make_trainer(
            self.spec, self.hardware, self.plan.precision, self.folder, logger, checkpoints, callbacks
        )
        messages = partial(plain_trainer_errors, self.spec, self.hardware, trainer)
        check_world_size(self.hardware, trainer.world_size)
        with messages(), profiled(trainer, self.folder), peak_memory(trainer.strategy.root_device) as memory:
            trainer.fit(self.module, datamodule=self.data, ckpt_path=self._last and self._last.path, weights_only=True)
        metrics = {
            "time/fit_s": last.seconds,
            "time/epochs": trainer.current_epoch,
            "speed/peak_memory_mb": memory.peak_mb,
        }
        if not best.best_model_path:
            # No validation ran, so the last weights are the best available.
            trainer.save_checkpoint(best.path, weights_only=True)
        checkpoints.finish()
        epochs.finish()
        self.checkpoint = str(best.path)
        if self.micro_batch.size:
            self.conditions["micro_batch"] = self.micro_batch.size
        with messages(), profiled(trainer, self.folder):
            tested = trainer.test(
                self.module, datamodule=self.data, ckpt_path=self.checkpoint, verbose=False, weights_only=True
            )
        metrics |= tested[0] if tested else {}
        if best.best_model_score is not None:
            metrics["val/acc"] = best.best_model_score.item()
        if bad := [k for k, v in metrics.items() if not math.isfinite(v)]:
            raise ConvzooError(f"training diverged: {', '.join(bad)} is not a number. {bad_steps.advice}")
        metrics |= self.data.metrics | bad_steps.metrics | self._init.metrics | costs.metrics | speeds.metrics
        return metrics | (self._inference_speed(trainer) if trainer.is_global_zero else {})

    def _bad_steps(self) -> BadSteps:
        optim, given = self.spec.optim, self.spec.trainer
        ways = [f"a smaller optim.lr (it was {optim.lr})"]
        ways += [] if given.gradient_clip_val else ["trainer.gradient_clip_val=1"]
        ways += ["hardware.plan=fp32"] if self.plan.precision.startswith(("bf16", "16")) else []
        advice = f"Type {' or '.join([', '.join(ways[:-1]), ways[-1]]) if ways[1:] else ways[0]}."
        return BadSteps(self.folder, optim.bad_step, optim.max_skipped, advice)

    def _inference_speed(self, trainer: L.Trainer) -> dict[str, float]:
        # Lightning moves the network off the GPU after testing.
        device = self.module.to(trainer.strategy.root_device).device
        image = torch.zeros(self.image_shape, device=device, dtype=self.module.dtype)
        micro = self.micro_batch
        images = min(INFER_BATCH, micro.size or INFER_BATCH, micro.evaluated or INFER_BATCH)
        try:
            autocast = trainer.precision_plugin.forward_context
            measured = zoo.speed(self.module.net, image, images, seconds=limited(1.0), autocast=autocast)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            log.warning(f"inference speed was not measured: out of memory ({first_line(error)}).")
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
