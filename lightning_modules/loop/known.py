"""Whether this Lightning's training loop is the one that convzoo's lean loop stands in for."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from types import CodeType
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.optimization.automatic import Closure, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

NAMES = """
Closure DistributedDataParallel LightningModule MisconfigurationException OrderedDict SIGTERMException Tensor
_DataLoaderIterDataFetcher _after_closure _apply_batch_transfer_handler _backward_fn _batch _batch_idx
_batches_that_stepped _block_parallel_sync_behavior _broadcast_sigterm_tensor _build_kwargs _call_batch_hook
_call_callback_hooks _call_lightning_module_hook _call_strategy_hook _callback_metrics _clip_gradients
_delay_all_reduce _first_loop_iter _get_monitor_value _is_training_done _lightning_optimizers _logged_metrics
_logger_connector _make_backward_fn _make_closure _make_step_fn _make_zero_grad_fn _model_averager
_num_ready_batches_reached _on_after_step _on_before_batch_transfer _on_before_step _on_before_zero_grad _optimizer
_optimizer_step _optimizer_zero_grad _pl_static_graph_delay_done _progress_bar_metrics _result _results
_save_loggers_on_train_batch_end _should_accumulate _should_check_val_fx _skip_backward _skip_next_val _step_fn
_strategy _training_step _update_learning_rates _warning_cache _wrap_closure _zero_grad_fn accumulate_grad_batches
advance asdict automatic_optimization average_parameters backward batch batch_idx batch_progress batch_size call
callback_metrics closure closure_loss consume_result convert_input current_epoch dataloader_idx detach device
distributed do_nothing_closure done fast_dev_run fit_loop frequency from_training_step_output grad
gradient_clip_algorithm gradient_clip_val handles_gradient_accumulation increment_by increment_completed
increment_processed increment_progress_to_evaluation_end increment_ready increment_started interval is_available
is_initialized is_last_batch lightning_module log_metrics loss lr_scheduler_configs manual_optimization metrics model
monitor move_data_to_device on_advance_end on_batch_end on_batch_start on_iteration_done on_run_start optim_progress
optimizer optimizer_step optimizers output_result_cls param_groups partial pl post_backward post_training_step
pre_backward precision_plugin prepare_for_backward profile profiler rank_zero_warn received_sigterm reduce_on_plateau
reducer reset restarted_mid_evaluation restarted_on_last restarting root_device run scheduler scheduler_progress
should_update_logs step strategy strict torch trainer training update update_lr_schedulers update_train_step_metrics
val_loop validating values warn warning_cache world_size zero_grad
"""
"""All names in these functions of Lightning 2.5.0 to 2.6.6. Another one means that they do something new."""


def _replaced() -> list[Callable[..., Any]]:
    loop, automatic = _TrainingEpochLoop, _AutomaticOptimization
    return [
        *(loop.run, loop.advance, loop.on_advance_end, loop.update_lr_schedulers, loop._update_learning_rates),
        *(_LoggerConnector.on_batch_start, _LoggerConnector.on_batch_end, _LoggerConnector.update_train_step_metrics),
        *(automatic.run, automatic._make_closure, automatic._make_step_fn, automatic._make_zero_grad_fn),
        *(automatic._make_backward_fn, automatic._optimizer_step, automatic._on_before_zero_grad),
        *(automatic._optimizer_zero_grad, automatic._training_step, Closure.closure, Closure.__call__),
        *(LightningOptimizer.step, LightningModule.optimizer_step, LightningModule._on_before_batch_transfer),
        *(LightningModule._apply_batch_transfer_handler, Strategy.batch_to_device, Strategy.backward),
        *(Strategy.optimizer_step, DDPStrategy.optimizer_step, DDPStrategy.pre_backward, DDPStrategy.post_backward),
        *(Precision.pre_backward, Precision.backward, Precision.post_backward, Precision.optimizer_step),
        *(Precision._wrap_closure, Precision._after_closure, Precision._clip_gradients),
    ]


def unknown_names() -> set[str]:
    """Names that Lightning's loop uses and this file does not know: there it does something new."""
    try:
        return {name for function in _replaced() for name in _names(function)} - set(NAMES.split()) - set(dir(builtins))
    except AttributeError as error:
        return {str(error)}


def _names(function: Any) -> set[str]:
    code = function if isinstance(function, CodeType) else getattr(function, "__wrapped__", function).__code__
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*(_names(c) for c in inner))
