from .acts.activations import ACTS, activation, swap_activations
from .backbones.backbone import backbone
from .backbones.families import FAMILIES, Network, Scale, resolve
from .builder import build
from .check_kind import check_kind
from .compression.convert import ConversionReport, convert, reestimate_batchnorm
from .compression.int8 import lower, quantize
from .convs import KINDS, ConvSpec, Factored, conv_kind
from .costs.counting import Cost, LayerCost, cost, layer_costs
from .costs.mac_counter import register_macs
from .costs.matching import Match, match
from .costs.table import CellCost, Images, tabulate
from .costs.table_views import show_layers
from .deploy.checkpoint import load
from .deploy.export import export
from .errors import ConvzooError
from .meta import meta_init
from .plugins import load_plugins
from .speeds.network import Speed, TrainingSpeed, speed, training_speed
from .speeds.roofline import Bound, Peaks, bound, measure_peaks
from .surgery.fold_batchnorm import fold_batchnorm
from .surgery.rewrite import Entry, Report, rewrite

__version__: str
