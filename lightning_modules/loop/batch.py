"""The work on one batch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from lightning.pytorch.loops.optimization.automatic import Closure
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_modules.loop.hooks import Hook, Transfer, calling, overridden


class Batch:
    """The work on one batch, with everything looked up that stays the same for an epoch."""

    def __init__(self, loop: _TrainingEpochLoop) -> None:
        trainer = loop.trainer
        self.loop, self.trainer, self.module = loop, trainer, trainer.lightning_module
        self.strategy, self.precision = trainer.strategy, trainer.precision_plugin
        self.optimizer, self.connector, self.results = trainer.optimizers[0], trainer._logger_connector, loop._results
        self.start, self.end = Hook(trainer, "on_train_batch_start"), Hook(trainer, "on_train_batch_end")
        self.before_zero_grad = Hook(trainer, "on_before_zero_grad")
        self.before_backward = Hook(trainer, "on_before_backward")
        self.after_backward = Hook(trainer, "on_after_backward")
        self.before_step = Hook(trainer, "on_before_optimizer_step")
        # What is Lightning's own is one call of PyTorch's: no need to go through the module.
        hooks = ("optimizer_zero_grad", "backward", "lr_scheduler_step")
        owns = {name: overridden(self.module, name) for name in hooks}
        self.zero_grad = self._own_zero_grad if owns["optimizer_zero_grad"] else self.optimizer.zero_grad
        self.backward = self._own_backward if owns["backward"] else torch.Tensor.backward
        self.own_schedule_step = owns["lr_scheduler_step"]
        self.clips = bool(trainer.gradient_clip_val) or overridden(self.module, "configure_gradient_clipping")
        self.takes_index = "batch_idx" in loop._build_kwargs(OrderedDict(), None, 0)
        plain = type(self.precision) is Precision and type(self.strategy) is SingleDeviceStrategy
        self.training_step = (self.module if plain else self.strategy).training_step
        self.step_action = f"[Strategy]{type(self.strategy).__name__}.training_step"
        self.transfer = Transfer(trainer)
        self.accumulates = False  # whether this batch's gradients wait for the next ones'
        self.schedules = [c for c in trainer.lr_scheduler_configs if c.interval == "step" and not c.reduce_on_plateau]
        self.other_schedules = len(self.schedules) < len(trainer.lr_scheduler_configs)
        self.validates_between = loop._should_check_val_epoch() and (
            trainer.val_check_batch != trainer.num_training_batches
            or trainer.check_val_every_n_epoch is None
            or getattr(trainer, "_val_check_time_interval", None) is not None
        )

    def ends_loudly(self) -> bool:
        """Whether more may happen after this batch than counting it: validation, a plateau, a stop."""
        return (
            self.validates_between
            or self.other_schedules
            or self.loop.batch_progress.is_last_batch
            or self.trainer.should_stop
            or self.trainer.received_sigterm
        )

    def run(self, fetcher: Any) -> None:
        """`_TrainingEpochLoop.advance`."""
        loop, progress, connector, results = self.loop, self.loop.batch_progress, self.connector, self.results
        batch, _, _ = next(fetcher)
        index = progress.current.ready
        progress.is_last_batch = fetcher.done
        batch = self.transfer(self.precision.convert_input(batch))
        progress.increment_ready()
        self.accumulates = loop._should_accumulate()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        outputs: dict[str, Any] | None = None
        if batch is None:
            loop._warning_cache.warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        else:
            self.start(batch, index)
            progress.increment_started()
            self.trainer.profiler.start("run_training_batch")
            outputs = self._optimize(batch, index)
            self.trainer.profiler.stop("run_training_batch")
        progress.increment_processed()
        self._schedule(index)
        self.end(outputs, batch, index)
        logged = any(not value.has_reset for value in results.values())
        if logged:
            connector.on_batch_end()
        results.batch = results.batch_size = None
        progress.increment_completed()
        if logged:
            connector.update_train_step_metrics()

    def _optimize(self, batch: Any, index: int) -> dict[str, Any]:
        """`_AutomaticOptimization.run`; the closure goes to the optimizer as usual."""
        outputs: dict[str, Any] = {}

        def closure() -> torch.Tensor | None:
            with torch.enable_grad():
                loss = self._gradients(batch, index, outputs)
            self.before_step(self.optimizer)
            if self.clips:
                value, algorithm = self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
                named = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
                clip = self.module.configure_gradient_clipping
                calling("configure_gradient_clipping", self.module, clip, self.optimizer, **named)
            return loss

        if self.accumulates:
            with _block_parallel_sync_behavior(self.strategy), torch.enable_grad():
                self._gradients(batch, index, outputs)
        else:
            done = self.loop.automatic_optimization.optim_progress.optimizer.step
            done.increment_ready()
            calling("optimizer_step", self.module, self.optimizer.step, closure=closure)
            done.increment_completed()
        return outputs

    def _gradients(self, batch: Any, index: int, outputs: dict[str, Any]) -> torch.Tensor | None:
        """`Closure.closure`: training_step, zero_grad and backward.

        Args:
            outputs: Receives what training_step returned, with the loss detached: what ``on_train_batch_end`` is given.

        Returns:
            That loss.
        """
        module, trainer = self.module, self.trainer
        inputs = (batch, index) if self.takes_index else (batch,)
        trainer.profiler.start(self.step_action)
        loss = calling("training_step", module, self.training_step, *inputs)
        trainer.profiler.stop(self.step_action)
        many = trainer.accumulate_grad_batches
        if many == 1 and type(loss) is torch.Tensor:
            outputs["loss"] = loss.detach().clone()
        else:
            if loss is None and trainer.world_size > 1:
                raise RuntimeError("training_step returned None, which does not work in distributed training.")
            result = self.loop.automatic_optimization.output_result_cls.from_training_step_output(loss, many)
            loss = result.closure_loss
            if loss is None:
                Closure.warning_cache.warn("`training_step` returned `None`. If this was on purpose, ignore this.")
            else:
                outputs.update(result.asdict())
        if index % many == 0:
            done = self.loop.automatic_optimization.optim_progress.optimizer.zero_grad
            done.increment_ready()
            self.before_zero_grad(self.optimizer)
            done.increment_started()
            self.zero_grad()
            done.increment_completed()
        if loss is not None:
            self.before_backward(loss)
            self.backward(loss)
            self.after_backward()
        return outputs.get("loss")

    def _own_zero_grad(self) -> None:
        index = self.loop.batch_progress.current.ready - 1
        hook, epoch = self.module.optimizer_zero_grad, self.trainer.current_epoch
        calling("optimizer_zero_grad", self.module, hook, epoch, index, self.optimizer)

    def _own_backward(self, loss: torch.Tensor) -> None:
        calling("backward", self.module, self.module.backward, loss)

    def _schedule(self, index: int) -> None:
        """`_TrainingEpochLoop.update_lr_schedulers`."""
        loop = self.loop
        if self.schedules and not self.accumulates:
            for config in self.schedules:
                if (index + 1) % config.frequency == 0:
                    loop.scheduler_progress.increment_ready()
                    if self.own_schedule_step:
                        step = self.module.lr_scheduler_step
                        calling("lr_scheduler_step", self.module, step, config.scheduler, None)
                    else:
                        config.scheduler.step()
                    loop.scheduler_progress.increment_completed()
        if self.other_schedules and loop._num_ready_batches_reached():
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
