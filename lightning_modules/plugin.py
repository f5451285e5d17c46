"""Entry points for Lightning's ``callbacks_factory``: add convzoo's callbacks to every Trainer, on request.

Off unless the environment variable ``CONVZOO_CALLBACKS`` names the callbacks:
``CONVZOO_CALLBACKS=cost,speed,bad_steps python their_script.py``.
"""

from __future__ import annotations

import os
from typing import Any

from zoo.errors import choose

VARIABLE = "CONVZOO_CALLBACKS"


def _asked_for() -> list[type]:
    names = [n.strip() for n in os.environ.get(VARIABLE, "").split(",") if n.strip()]
    if not names:
        return []
    from lightning_modules.callbacks import BadSteps, CostLogger, SpeedLogger

    callbacks = {"cost": CostLogger, "speed": SpeedLogger, "bad_steps": BadSteps}
    return [callbacks[choose(VARIABLE, name, callbacks)] for name in names]


def lightning_callbacks() -> list[Any]:
    """Returns the requested callbacks for ``lightning``."""
    return [callback() for callback in _asked_for()]


def pytorch_lightning_callbacks() -> list[Any]:
    """Returns them for ``pytorch_lightning``, the library's older name, whose Trainer requires its own base class."""
    return [for_pytorch_lightning(callback)() for callback in _asked_for()]


def for_pytorch_lightning(callback: type) -> type:
    """Returns a subclass of the callback that ``pytorch_lightning.Trainer`` accepts."""
    from pytorch_lightning import Callback

    return type(callback.__name__, (callback, Callback), {"__doc__": callback.__doc__})
