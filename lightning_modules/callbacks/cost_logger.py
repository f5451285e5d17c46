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
from lightning_modules.callbacks.batch import images_of, tensors_of
from lightning_modules.callbacks.calls import Call, one_image
from lightning_modules.callbacks.inputs import Inputs


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

    def __init__(self, image_size: int | tuple[int, int] | None = None, in_chans: int = 3, inputs: Any = None) -> None:
        self.image_size, self.in_chans, self.inputs = image_size, in_chans, inputs
        self._observed: Inputs | None = None
        self._reset()

    @property
    def metrics(self) -> dict[str, int]:
        """The logged values; empty before counting, parameters only if the rest cannot be counted."""
        params = {} if self._params is None else {"cost/params": self._params}
        return (self.cost.metrics if self.cost else {}) | params

    def _reset(self) -> None:
        self._stop()
        self.cost: zoo.Cost | None = None
        self._params: int | None = None

    def _stop(self) -> None:
        if self._observed:
            self._observed.stop()
        self._observed = None

    def _begin(self, trainer: Any, module: Any, batch: Any) -> None:
        """Count from a known input, or start observing the first step."""
        if self._params is not None:
            return
        given = self.inputs if self.inputs is not None else getattr(module, "example_input_array", None)
        if self.inputs is None and self.image_size is not None:
            self._count(trainer, module, module, self.image_size, self.in_chans)
        elif given is not None:
            self._count(trainer, module, _Calls(module, [("", *one_image(*_arguments(given)))], given))
        else:
            self._observed = self._observed or Inputs(trainer, module)
            self._observed.begin(batch)

    def _end(self, trainer: Any, module: Any, batch: Any) -> None:
        """Count from what the first step was observed to pass, if it was observed."""
        if self._observed:
            calls = [(call.name, *call.sample) for call in _networks(self._observed.calls)]
            found = self._observed.seen(batch) and (images_of(calls) or images_of(batch))
            self._stop()
            self._count(trainer, module, _Calls(module, calls, found))

    def _count(self, trainer: Any, module: Any, net: Any, *shape: Any) -> None:
        self._params = sum(p.numel() for p in module.parameters())
        try:
            with _uncompiled(module):
                self.cost = zoo.cost(net, *(shape or net.shape()))
        except Exception as error:  # a user's forward pass that cannot be counted must not end the training
            warnings.warn(
                f"CostLogger could not count the forward pass of {type(module).__name__} ({error}); "
                "it logs cost/params only. CostLogger(inputs=…) or (image_size=…, in_chans=…) says what the input is.",
                stacklevel=2,
            )
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics, trainer.global_step)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._reset()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._begin(trainer, pl_module, batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end(trainer, pl_module, batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._begin(trainer, pl_module, batch)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._end(trainer, pl_module, batch)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._stop()


class _Calls(nn.Module):
    """Calls networks of a module with their recorded arguments, and ignores the image that it is given.

    Args:
        module: Module that holds the networks.
        calls: Name, positional arguments and keyword arguments of each call.
        images: Holds an image (…, C, H, W), used only for its size.
    """

    def __init__(
        self, module: nn.Module, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]], images: Any
    ) -> None:
        super().__init__()
        self.module, self.calls = module, calls
        self.shapes = [tuple(t.shape) for t in tensors_of(images)]
        self.dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)

    def forward(self, image: torch.Tensor) -> list[Any]:
        def move(x: torch.Tensor) -> torch.Tensor:
            # Autocast is off here, so dtypes must match.
            return x.to(image.device, self.dtype if x.is_floating_point() else x.dtype)

        outputs = []
        for name, *given in self.calls:
            arguments, named = tree_map_only(torch.Tensor, move, given)
            # The counted module is an uncompiled copy, whose names lack this part.
            plain = ".".join(part for part in name.split(".") if part != "_orig_mod")
            outputs.append(self.module.get_submodule(plain)(*arguments, **named))
        return outputs

    def shape(self) -> tuple[tuple[int, int], int]:
        """Return the image's size and channels.

        Raises:
            ConvzooError: No network was called, or none with images.
        """
        if not self.calls or not self.shapes:
            raise zoo.ConvzooError("no images (N, C, H, W) reached a network")
        *_, in_chans, height, width = (1, 1, 1, *self.shapes[0])
        return (height, width), in_chans


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split an input into positional and keyword arguments, as Lightning does for ``example_input_array``."""
    if isinstance(given, dict):
        return (), given
    return (given if isinstance(given, tuple) else (given,)), {}


def _networks(calls: list[Call]) -> list[Call]:
    """Select the module's own forward, or else each called network once, except losses that are networks."""
    if own := [call for call in calls if not call.name]:
        return own[:1]
    trained = {call.name for call in calls if call.trains}
    judges = {call.name for call in calls if call.derived and call.name not in trained}
    return list({call.name: call for call in reversed(calls) if call.name not in judges}.values())[::-1]


@contextmanager
def _uncompiled(module: Any) -> Iterator[None]:
    """Restore a LightningModule's own methods inside the block; Lightning replaces them with compiled ones."""
    context, own = getattr(module, "_compiler_ctx", None), vars(module)
    methods = {k: v for k, v in own.items() if context and f"original_{k}" in context}
    for name in methods:
        del own[name]
    own["_compiler_ctx"] = None
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        own.update(methods)
        own["_compiler_ctx"] = context
