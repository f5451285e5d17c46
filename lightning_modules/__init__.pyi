from .callbacks.bad_steps import BadSteps as BadSteps
from .callbacks.cost_logger import CostLogger as CostLogger
from .callbacks.speed_logger import SpeedLogger as SpeedLogger
from .classifier import Classifier as Classifier
from .data.registry import dataset as dataset
from .data.registry import make_data as make_data
from .run import run_cell as run_cell
