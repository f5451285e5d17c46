"""What a Trainer does at the moment, as it tells its profiler: every hook, fetch and step has a name there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[str, bool], None]
"""Is told an action's name, and whether it starts (else it ends)."""


def listen(trainer: Any, listener: Listener) -> Callable[[], None]:
    """Tells a listener of everything that the Trainer tells its profiler, whichever that is.

    Returns:
        What ends it.
    """
    profiler = trainer.profiler
    if not isinstance(vars(profiler).get("start"), _Method):
        listeners: list[Listener] = []
        profiler.start, profiler.stop = (
            _Method(profiler.start, listeners, True),
            _Method(profiler.stop, listeners, False),
        )
    listeners = profiler.start.listeners
    listeners.append(listener)

    def end() -> None:
        if listener in listeners:
            listeners.remove(listener)
            if not listeners:
                # The class's own are seen again.
                del profiler.start, profiler.stop

    return end


class _Method:
    """A profiler's ``start`` or ``stop`` that others hear too; what the profiler itself takes is outside of theirs."""

    def __init__(self, method: Callable[[str], None], listeners: list[Listener], starts: bool) -> None:
        self.method, self.listeners, self.starts = method, listeners, starts

    def __call__(self, action_name: str) -> None:
        if self.starts:
            self.method(action_name)
        for listener in self.listeners if self.starts else reversed(self.listeners):
            listener(action_name, self.starts)
        if not self.starts:
            self.method(action_name)
