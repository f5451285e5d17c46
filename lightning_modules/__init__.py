"""Training with Lightning: the plugin's callbacks, and the run of one cell. Imports zoo; never Hydra."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_modules.callbacks import BadSteps, CostLogger, SpeedLogger
    from lightning_modules.classifier import Classifier
    from lightning_modules.data import make_data
    from lightning_modules.run import run as run_cell

_WHERE = {
    "BadSteps": ("callbacks", "BadSteps"),
    "CostLogger": ("callbacks", "CostLogger"),
    "SpeedLogger": ("callbacks", "SpeedLogger"),
    "Classifier": ("classifier", "Classifier"),
    "make_data": ("data", "make_data"),
    "run_cell": ("run", "run"),
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'lightning_modules' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(f"lightning_modules.{module}"), attribute)
