"""A training loop without overhead: what Lightning's does for each batch, and nothing that has no effect.

Lightning's loop inspects signatures, enters profilers that do nothing and calls every hook of every callback, overridden
or not: half a millisecond a batch, more than many a small network takes. `use_lean_loop` gives a Trainer a loop that finds
out once an epoch what has an effect, and then calls only that, in Lightning's order and with Lightning's counters: the
same weights, the same checkpoints. What it does not know it leaves to Lightning's own code.
"""

from __future__ import annotations

import builtins
import signal
import warnings
from collections import OrderedDict
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import Closure, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy


def use_lean_loop(trainer: Trainer) -> None:
    """Gives a Trainer the lean loop; to be called before it fits. Works with anybody's LightningModule.

    The lean loop does what `LeanEpochLoop` says; where this Lightning's own loop does something that this file does not
    know, the Trainer keeps Lightning's loop and a warning says so.
    """
    if strange := _unknown():
        warnings.warn(
            f"This Lightning's training loop is not the one that convzoo knows ({', '.join(sorted(strange))}): it is "
            "used as it is, some 0.4 ms a batch slower.",
            stacklevel=2,
        )
        return
    stock = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, min_steps=stock.min_steps, max_steps=stock.max_steps)


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, where each batch costs only what has an effect.

    For one optimizer under automatic optimization, in fp32, bf16 or true half precision, on one device or with DDP.
    Anything else (fp16's GradScaler, other strategies, manual optimization, profilers, a module with its own
    ``optimizer_step`` or ``on_train_batch_start``, which may end the epoch) runs through Lightning's own code. Callbacks
    may come, go or change between epochs.
    """

    _batch: _Batch | None = None

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self._batch = None if _needs_stock(self.trainer, data_fetcher) else _Batch(self)
        if self._batch is not None:
            data_fetcher._start_profiler = data_fetcher._stop_profiler = _nothing

    def advance(self, data_fetcher: Any) -> None:
        # The first batch after a restart: what of the epoch was done already is Lightning's business.
        if self._batch is None or self.restarting or self.automatic_optimization._skip_backward:
            super().advance(data_fetcher)
        else:
            self._batch.run(data_fetcher)


class _Batch:
    """The work on one batch, with everything looked up that stays the same for an epoch."""

    def __init__(self, loop: LeanEpochLoop) -> None:
        trainer = loop.trainer
        self.loop, self.trainer, self.module = loop, trainer, trainer.lightning_module
        self.strategy, self.precision = trainer.strategy, trainer.precision_plugin
        self.optimizer, self.connector = trainer.optimizers[0], trainer._logger_connector
        hooks = ("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward")
        hooks += ("on_after_backward", "on_before_optimizer_step")
        self.start, self.end, self.before_zero_grad, self.before_backward, self.after_backward, self.before_step = (
            _Hook(trainer, name) for name in hooks
        )
        self.clips = bool(trainer.gradient_clip_val) or _overridden(self.module, "configure_gradient_clipping")
        self.takes_index = "batch_idx" in loop._build_kwargs(OrderedDict(), None, 0)
        self.sends = {name: _sender(trainer, name) for name in TRANSFER}
        self.device = self.strategy.root_device

    def run(self, fetcher: Any) -> None:
        """`_TrainingEpochLoop.advance`."""
        loop, progress, trainer = self.loop, self.loop.batch_progress, self.trainer
        batch, _, _ = next(fetcher)
        index = loop.batch_idx + 1
        progress.is_last_batch = fetcher.done
        batch = self._to_device(self.precision.convert_input(batch))
        progress.increment_ready()
        self.connector.on_batch_start(batch)
        outputs = None
        if batch is None:
            loop._warning_cache.warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        else:
            self.start(batch, index)
            progress.increment_started()
            outputs = self._optimize(batch, index)
        progress.increment_processed()
        if trainer.lr_scheduler_configs:
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            if loop._num_ready_batches_reached():
                loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self.end(outputs, batch, index)
        self.connector.on_batch_end()
        progress.increment_completed()
        self.connector.update_train_step_metrics()

    def _to_device(self, batch: Any) -> Any:
        if before := self.sends["on_before_batch_transfer"]:
            batch = before(batch, 0)
        transfer = self.sends["transfer_batch_to_device"]
        if transfer or not _lies_on(self.device, batch):
            transfer = transfer or self.module.transfer_batch_to_device
            batch = transfer(batch, self.device, 0)
        if after := self.sends["on_after_batch_transfer"]:
            batch = after(batch, 0)
        return batch

    def _optimize(self, batch: Any, index: int) -> dict[str, Any]:
        """`_AutomaticOptimization.run` with all that it calls; the closure goes to the optimizer as usual."""
        loop, module = self.loop, self.module
        done = loop.automatic_optimization.optim_progress.optimizer
        inputs = (batch, index) if self.takes_index else (batch,)
        result: Any = None

        @torch.enable_grad()
        def closure() -> torch.Tensor | None:
            nonlocal result
            given = _as("training_step", module, self.strategy.training_step, *inputs)
            if given is None and self.trainer.world_size > 1:
                raise RuntimeError("training_step returned None: skipping a step does not work in distributed training.")
            many = self.trainer.accumulate_grad_batches
            result = loop.automatic_optimization.output_result_cls.from_training_step_output(given, many)
            loss, result.closure_loss = result.closure_loss, None
            if loss is None:
                Closure.warning_cache.warn(
                    "`training_step` returned `None`. If this was on purpose, ignore this warning..."
                )
            if index % many == 0:
                done.zero_grad.increment_ready()
                self.before_zero_grad(self.optimizer)
                done.zero_grad.increment_started()
                epoch = self.trainer.current_epoch
                _as("optimizer_zero_grad", module, module.optimizer_zero_grad, epoch, index, self.optimizer)
                done.zero_grad.increment_completed()
            if loss is not None:
                self.before_backward(loss)
                _as("backward", module, module.backward, loss)
                self.after_backward()
            return result.loss

        if loop._should_accumulate():
            with _block_parallel_sync_behavior(self.strategy):
                closure()
        else:
            done.step.increment_ready()
            _as("optimizer_step", module, self.optimizer.step, lambda: self._before_step(closure()))
            done.step.increment_completed()
        return {} if result.loss is None else result.asdict()

    def _before_step(self, loss: torch.Tensor | None) -> torch.Tensor | None:
        self.before_step(self.optimizer)
        if self.clips:
            _as(
                "configure_gradient_clipping",
                self.module,
                self.module.configure_gradient_clipping,
                self.optimizer,
                gradient_clip_val=self.trainer.gradient_clip_val,
                gradient_clip_algorithm=self.trainer.gradient_clip_algorithm,
            )
        return loss


class _Hook:
    """A hook of all callbacks and of the module: calls those that somebody wrote, in Lightning's order."""

    def __init__(self, trainer: Trainer, name: str) -> None:
        self.trainer, self.module, self.name = trainer, trainer.lightning_module, name
        self.calls = [getattr(c, name) for c in trainer.callbacks if _overridden(c, name)]
        self.own = getattr(self.module, name) if _overridden(self.module, name) else None

    def __call__(self, *arguments: Any) -> None:
        for call in self.calls:
            _as(self.name, self.module, call, self.trainer, self.module, *arguments)
        if self.own:
            _as(self.name, self.module, self.own, *arguments)


def _as(name: str, module: LightningModule, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls with the module told whose turn it is: ``self.log`` wants to know."""
    # nn.Module's __setattr__ takes a microsecond.
    attributes = module.__dict__
    before, attributes["_current_fx_name"] = attributes["_current_fx_name"], name
    result = call(*arguments, **named)
    attributes["_current_fx_name"] = before
    return result


def _overridden(owner: Any, name: str) -> bool:
    """Whether a hook does anything: it is neither the base class's, nor switched off (None)."""
    base = next(b for b in (Callback, LightningModule, LightningDataModule, Strategy, Precision) if isinstance(owner, b))
    hook = getattr(owner, name)
    return callable(hook) and getattr(hook, "__func__", hook) is not getattr(base, name)


TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def _sender(trainer: Trainer, name: str) -> Callable[..., Any] | None:
    """The hook of the data module or of the module that sends a batch to the device; None where it is the default."""
    owner = trainer._data_connector._datahook_selector.get_instance(name)
    if not _overridden(owner, name):
        return None
    hook = getattr(owner, name)
    if owner is not trainer.lightning_module:
        return hook
    return lambda *arguments: _as(name, owner, hook, *arguments)


def _lies_on(device: torch.device, batch: Any) -> bool:
    parts = batch if type(batch) in (tuple, list) else (batch,)
    return all(isinstance(part, torch.Tensor) and part.device == device for part in parts)


def _nothing() -> None:
    pass


def _needs_stock(trainer: Trainer, fetcher: Any) -> bool:
    """Whether the run has something that only Lightning's own code does."""
    module, strategy, precision = trainer.lightning_module, trainer.strategy, trainer.precision_plugin
    plain = ("pre_backward", "backward", "post_backward", "optimizer_step", "_wrap_closure", "_after_closure")
    if isinstance(precision, MixedPrecision):
        special_precision = type(precision) is not MixedPrecision or precision.scaler is not None
    else:
        special_precision = any(_overridden(precision, name) for name in plain)
    return (
        special_precision
        or type(strategy) not in (SingleDeviceStrategy, DDPStrategy)
        or getattr(strategy, "_model_averager", None) is not None
        or not module.automatic_optimization
        or len(trainer.optimizers) != 1
        or isinstance(trainer.optimizers[0], LightningOptimizer)
        or type(trainer.profiler) is not PassThroughProfiler
        or isinstance(fetcher, _DataLoaderIterDataFetcher)
        or any(_overridden(module, name) for name in ("optimizer_step", "on_train_batch_start"))
        or _lightning_handles_sigterm(trainer)
    )


def _lightning_handles_sigterm(trainer: Trainer) -> bool:
    """Ranks then tell each other of the signal before every batch."""
    handler = signal.getsignal(signal.SIGTERM)
    return trainer.world_size > 1 and type(handler).__module__.startswith("lightning.")


KNOWN = frozenset(
    """
    Closure DistributedDataParallel LightningModule MisconfigurationException OrderedDict Tensor
    _DataLoaderIterDataFetcher _after_closure _apply_batch_transfer_handler _backward_fn _batch _batch_idx
    _block_parallel_sync_behavior _broadcast_sigterm_tensor _build_kwargs _call_batch_hook _call_callback_hooks
    _call_lightning_module_hook _call_strategy_hook _clip_gradients _delay_all_reduce _lightning_optimizers
    _logger_connector _make_backward_fn _make_closure _make_step_fn _make_zero_grad_fn _model_averager
    _num_ready_batches_reached _on_after_step _on_before_batch_transfer _on_before_step _on_before_zero_grad
    _optimizer _optimizer_step _optimizer_zero_grad _pl_static_graph_delay_done _result _should_accumulate
    _should_check_val_fx _skip_backward _skip_next_val _step_fn _strategy _training_step _warning_cache
    _wrap_closure _zero_grad_fn accumulate_grad_batches advance asdict automatic_optimization average_parameters
    backward batch_idx batch_progress call closure closure_loss consume_result convert_input current_epoch detach
    device distributed do_nothing_closure done fit_loop from_training_step_output grad gradient_clip_algorithm
    gradient_clip_val handles_gradient_accumulation increment_by increment_completed increment_processed
    increment_progress_to_evaluation_end increment_ready increment_started is_available is_initialized is_last_batch
    lightning_module loss manual_optimization model move_data_to_device on_advance_end on_batch_end on_batch_start
    on_iteration_done on_run_start optim_progress optimizer optimizer_step optimizers output_result_cls param_groups
    partial pl post_backward post_training_step pre_backward precision_plugin prepare_for_backward profile profiler
    reducer reset restarted_mid_evaluation restarted_on_last restarting root_device run step strategy torch trainer
    update_lr_schedulers update_train_step_metrics val_loop values warn warning_cache world_size zero_grad
    """.split()
)
"""All names in the functions of Lightning 2.5 and 2.6 that this file stands in for (`_replaced`)."""


def _replaced() -> list[Callable[..., Any]]:
    loop, automatic = _TrainingEpochLoop, _AutomaticOptimization
    return [
        *(loop.run, loop.advance),
        *(automatic.run, automatic._make_closure, automatic._make_step_fn, automatic._make_zero_grad_fn),
        *(automatic._make_backward_fn, automatic._optimizer_step, automatic._on_before_zero_grad),
        *(automatic._optimizer_zero_grad, automatic._training_step, Closure.closure, Closure.__call__),
        *(LightningOptimizer.step, LightningModule.optimizer_step, LightningModule._on_before_batch_transfer),
        *(LightningModule._apply_batch_transfer_handler, Strategy.batch_to_device, Strategy.backward),
        *(Strategy.optimizer_step, DDPStrategy.optimizer_step, DDPStrategy.pre_backward, DDPStrategy.post_backward),
        *(Precision.pre_backward, Precision.backward, Precision.post_backward, Precision.optimizer_step),
        *(Precision._wrap_closure, Precision._after_closure, Precision._clip_gradients),
    ]


def _unknown() -> set[str]:
    """Names that Lightning's loop uses and this file does not know: there it does something new."""
    try:
        return {name for function in _replaced() for name in _names(function)} - KNOWN - set(dir(builtins))
    except AttributeError as error:
        return {str(error)}


def _names(function: Any) -> set[str]:
    code = function if isinstance(function, CodeType) else getattr(function, "__wrapped__", function).__code__
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*(_names(c) for c in inner))
