"""Builds and counts hundreds of cells quickly: parts that cells share are built and counted once."""

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
from zoo.image_size import Size
from zoo.meta import meta_init

KEPT = 8
"""Native networks in the cache (least recently used ones are dropped). One takes a few megabytes."""

HELD = ("_parameters", "_buffers", "_modules")


class Reuse:
    """Builds and counts networks without weights, and caches the parts that later ones share."""

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
        """Context with the network that `zoo.build` makes of these arguments, without weights and in eval mode.

        At its end the network goes back to the cache, and every change of its modules is undone.

        Raises:
            ConvzooError: As `zoo.build` does.
        """
        # Some layers draw random numbers even on the meta device; that must not change the run's random state.
        with torch.random.fork_rng(devices=[]), meta_init():
            native = self._native(backbone, arguments)
        try:
            with torch.random.fork_rng(devices=[]), meta_init():
                apply_choices(native.net, conv, act, conv_options, ranks)
            yield native.net
        finally:
            native.restore()

    def cost(self, net: nn.Module, image_size: Size, in_chans: int = 3) -> Cost:
        """Returns `zoo.cost` of a network from `network`."""
        return cost(net, image_size, in_chans, repeats=self._repeats)

    def _native(self, backbone: str, arguments: dict[str, Any]) -> _Native:
        key = repr((backbone, sorted(arguments.items())))
        native = self._natives.pop(key, None) or _Native(build_native(backbone, **arguments).eval())
        self._natives[key] = native
        if len(self._natives) > KEPT:
            self._natives.popitem(last=False)
        return native


class _Native:
    """A network and the original attributes, tensors and children of each of its modules."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._before = [(own := vars(m), dict(own), [dict(own[name]) for name in HELD]) for m in net.modules()]

    def restore(self) -> None:
        for own, attributes, contents in self._before:
            own.clear()
            own.update(attributes)
            for name, content in zip(HELD, contents, strict=True):
                own[name] = dict(content)
