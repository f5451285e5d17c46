"""Log a network's parameters, MACs and activations. Works with any LightningModule."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils._pytree import tree_map_only

import zoo
from lightning_modules.callbacks.batch import images_of
from lightning_modules.callbacks.calls import Arguments, Call, one_image
from lightning_modules.callbacks.inputs import Inputs
from zoo.image_size import Size
from zoo.inputs import call_of


class CostLogger(Callback):
    """Counts the LightningModule's forward pass for one image: ``cost/params``, ``cost/macs``, ``cost/activations``.

    The input of the forward pass is the first of these that exists: ``inputs``; an image of ``image_size`` and
    ``in_chans``; the module's ``example_input_array``; the input of its ``forward`` in the first training or test step.
    If a step does not call ``forward``, the networks that it calls are counted once each, except frozen ones whose
    input is another network's output (losses). Every logger of the Trainer receives the counts as whole numbers;
    ``cost`` keeps them. One MAC is one multiply-add.

    Args:
        image_size: H = W, or (H, W).
        in_chans: Channels of the image; used with ``image_size``.
        inputs: Images (N, C, H, W), of which the first is counted, or any other input of ``forward``: a tuple holds
            positional arguments, a dictionary keyword arguments.
    """

    def __init__(self, image_size: Size | None = None, in_chans: int = 3, inputs: Any = None) -> None:
        self.image_size, self.in_chans, self.inputs = image_size, in_chans, inputs
        self.cost: zoo.Cost | None = None
        self._params: int | None = None
        self._observed: Inputs | None = None

    @property
    def metrics(self) -> dict[str, int]:
        """The logged values; empty before counting, parameters only if the rest cannot be counted."""
        params = {} if self._params is None else {"cost/params": self._params}
        return (self.cost.metrics if self.cost else {}) | params

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._stop()
        self.cost = self._params = None

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count from a known input, or start observing the first step."""
        if self._params is not None:
            return
        given = self.inputs if self.inputs is not None else getattr(pl_module, "example_input_array", None)
        if self.inputs is None and self.image_size is not None:
            self._count(trainer, pl_module)
        elif given is not None:
            self._count(trainer, pl_module, [(pl_module, one_image(*call_of(given)))])
        else:
            self._observed = self._observed or Inputs(trainer, pl_module)
            self._observed.begin(batch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count from what the first step was observed to pass, if it was observed."""
        if observed := self._observed:
            calls = [(call.net, call.sample) for call in _networks(observed.calls) if call.sample]
            seen = observed.seen(batch) and (images_of([sample for _, sample in calls]) or images_of(batch))
            self._stop()
            self._count(trainer, pl_module, calls if seen else [])

    on_test_batch_start, on_test_batch_end = on_train_batch_start, on_train_batch_end

    def _count(self, trainer: Any, module: Any, calls: list[tuple[nn.Module, Arguments]] | None = None) -> None:
        """Count calls of networks in the module; None: the module's call with an image of the given size."""
        self._params = sum(p.numel() for p in module.parameters())
        try:
            with _uncompiled(module):
                self.cost = zoo.cost(module, self.image_size, self.in_chans) if calls is None else _cost(module, calls)
        except Exception as error:  # a user's forward pass that cannot be counted must not end the training
            warnings.warn(
                f"CostLogger could not count the forward pass of {type(module).__name__} ({error}). It logs "
                "cost/params only. Pass CostLogger(inputs=…) or CostLogger(image_size=…, in_chans=…).",
                stacklevel=2,
            )
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics, trainer.global_step)

    def _stop(self) -> None:
        if self._observed:
            self._observed.stop()
        self._observed = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._stop()


class _Calls(nn.Module):
    """Calls networks of a module in turn, each with its own arguments."""

    def __init__(self, module: nn.Module, nets: list[nn.Module]) -> None:
        super().__init__()
        self.module, self.nets = module, nets

    def forward(self, *calls: Arguments) -> list[Any]:
        return [net(*args, **kwargs) for net, (args, kwargs) in zip(self.nets, calls, strict=True)]


def _cost(module: nn.Module, calls: list[tuple[nn.Module, Arguments]]) -> zoo.Cost:
    """Count recorded calls of networks.

    Raises:
        ConvzooError: There is none.
    """
    if not calls:
        raise zoo.ConvzooError("no images (N, C, H, W) reached a network")
    nets, arguments = zip(*calls, strict=True)
    # Without autocast, dtypes must match.
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    inputs = tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, arguments)
    return zoo.cost(_Calls(module, list(nets)), inputs=inputs)


def _networks(calls: list[Call]) -> list[Call]:
    """Select the module's own forward, or else each called network once, except losses that are networks."""
    if own := [call for call in calls if call.forward]:
        return own[:1]
    trained = {call.net for call in calls if call.trains}
    judges = {call.net for call in calls if call.derived and call.net not in trained}
    return list({call.net: call for call in reversed(calls) if call.net not in judges}.values())[::-1]


@contextmanager
def _uncompiled(module: Any) -> Iterator[None]:
    """Give a LightningModule its own ``forward`` back inside the block, if Lightning covered it with a compiled one."""
    own = vars(module)
    covers = {k: own.pop(k) for k in ("forward", "_compiler_ctx")} if own.get("_compiler_ctx") else {}
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        own.update(covers)
