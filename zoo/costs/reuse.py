"""Cells by the hundred: what they have in common is built once and counted once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from zoo.builder import apply_choices, build_native
from zoo.costs.counting import Cost, cost
from zoo.costs.repeats import Repeats
from zoo.meta import meta_init

KEPT = 8
"""Native networks that are kept, the last ones used. One takes some megabytes."""

HELD = ("_parameters", "_buffers", "_modules")


class Reuse:
    """Builds and counts weightless networks, and keeps what the next ones share with them."""

    def __init__(self) -> None:
        self._natives: OrderedDict[str, _Native] = OrderedDict()
        self._repeats = Repeats()

    @contextmanager
    def network(
        self,
        backbone: str,
        conv: str = "native",
        act: str = "native",
        *,
        conv_options: dict[str, Any] | None = None,
        ranks: Mapping[str, int] | None = None,
        **arguments: Any,
    ) -> Iterator[nn.Module]:
        """Lends the network that `zoo.build` makes of these arguments, without weights and in evaluation mode.
        Afterwards it is taken back: whatever was done to its modules is undone.

        Raises:
            ConvzooError: As `zoo.build` does.
        """
        # Some layers draw random numbers on the meta device too, and a run's seed must not feel it.
        with torch.random.fork_rng(devices=[]), meta_init():
            native = self._native(backbone, arguments)
        try:
            with torch.random.fork_rng(devices=[]), meta_init():
                apply_choices(native.net, conv, act, conv_options, ranks)
            yield native.net
        finally:
            native.restore()

    def cost(self, net: nn.Module, image_size: int | tuple[int, int], in_chans: int = 3) -> Cost:
        """`zoo.cost` of a network that `network` lent."""
        return cost(net, image_size, in_chans, repeats=self._repeats)

    def _native(self, backbone: str, arguments: dict[str, Any]) -> _Native:
        key = repr((backbone, sorted(arguments.items())))
        native = self._natives.pop(key, None) or _Native(build_native(backbone, **arguments).eval())
        self._natives[key] = native
        if len(self._natives) > KEPT:
            self._natives.popitem(last=False)
        return native


class _Native:
    """A network and what every module of it had at first: attributes, tensors and children."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._before = [(own := vars(m), dict(own), [dict(own[name]) for name in HELD]) for m in net.modules()]

    def restore(self) -> None:
        for own, attributes, contents in self._before:
            own.clear()
            own.update(attributes)
            for name, content in zip(HELD, contents, strict=True):
                own[name] = dict(content)
