"""Lightning callbacks for cost, speed and bad steps, for any LightningModule."""

from lightning_modules.callbacks.bad_steps import BadSteps
from lightning_modules.callbacks.cost_logger import CostLogger
from lightning_modules.callbacks.speed_logger import SpeedLogger

__all__ = ["BadSteps", "CostLogger", "SpeedLogger"]
