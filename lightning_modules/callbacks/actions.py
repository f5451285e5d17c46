"""Listen to the actions that a Trainer reports to its profiler: every hook, fetch and step has a name there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Listener = Callable[[str, bool], None]
"""Called with an action's name and whether it starts (True) or ends (False)."""


def listen(trainer: Any, listener: Listener) -> Callable[[], None]:
    """Forward every action that the Trainer reports to its profiler, of any class, to a listener.

    Returns:
        A function that removes the listener.
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
                # Uncover the class's own methods again.
                del profiler.start, profiler.stop

    return end


class _Method:
    """Wraps a profiler's ``start`` or ``stop`` to call listeners too; the profiler's own time is outside of theirs."""

    def __init__(self, method: Callable[[str], None], listeners: list[Listener], starts: bool) -> None:
        self.method, self.listeners, self.starts = method, listeners, starts

    def __call__(self, action_name: str) -> None:
        if self.starts:
            self.method(action_name)
        for listener in self.listeners if self.starts else reversed(self.listeners):
            listener(action_name, self.starts)
        if not self.starts:
            self.method(action_name)
