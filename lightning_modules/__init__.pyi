from .callbacks.bad_steps import BadSteps
from .callbacks.cost_logger import CostLogger
from .callbacks.speed_logger import SpeedLogger
from .classifier import Classifier
from .data.modules import make_data
from .run import run_cell
