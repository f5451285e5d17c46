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
    if not hasattr(profiler, "_listeners"):
        _forward(profiler)
    listeners = profiler._listeners
    listeners.append(listener)

    def end() -> None:
        if listener in listeners:
            listeners.remove(listener)
            if not listeners:
                # Uncover the class's own methods again.
                del profiler.start, profiler.stop, profiler._listeners

    return end


def _forward(profiler: Any) -> None:
    """Make a profiler's ``start`` and ``stop`` call listeners too, outside of the profiler's own measurements."""
    own_start, own_stop = profiler.start, profiler.stop
    listeners: list[Listener] = []

    def start(action_name: str) -> None:
        own_start(action_name)
        for listener in listeners:
            listener(action_name, True)

    def stop(action_name: str) -> None:
        for listener in reversed(listeners):
            listener(action_name, False)
        own_stop(action_name)

    profiler.start, profiler.stop, profiler._listeners = start, stop, listeners
