from .acts.activations import (
    ACTS as ACTS,
    activation as activation,
    swap_activations as swap_activations,
)
from .backbones.backbone import (
    backbone as backbone,
)
from .backbones.families import (
    FAMILIES as FAMILIES,
    Network as Network,
    Scale as Scale,
    resolve as resolve,
)
from .builder import (
    build as build,
)
from .check_kind import (
    check_kind as check_kind,
)
from .compression.convert import (
    ConversionReport as ConversionReport,
    convert as convert,
    reestimate_batchnorm as reestimate_batchnorm,
)
from .compression.int8 import (
    lower as lower,
    quantize as quantize,
)
from .convs import (
    KINDS as KINDS,
    ConvSpec as ConvSpec,
    Factored as Factored,
    FromDense as FromDense,
    conv_kind as conv_kind,
    low_rank as low_rank,
)
from .costs.counting import (
    Cost as Cost,
    LayerCost as LayerCost,
    cost as cost,
    layer_costs as layer_costs,
)
from .costs.mac_counter import (
    register_macs as register_macs,
)
from .costs.matching import (
    Match as Match,
    match as match,
)
from .costs.table import (
    CellCost as CellCost,
    Images as Images,
    tabulate as tabulate,
)
from .costs.table_views import (
    show_layers as show_layers,
)
from .deploy.checkpoint import (
    load as load,
)
from .deploy.export import (
    export as export,
)
from .errors import (
    ConvzooError as ConvzooError,
)
from .image_size import (
    ImageSize as ImageSize,
)
from .meta import (
    meta_init as meta_init,
)
from .plugins import (
    load_plugins as load_plugins,
)
from .speeds.network import (
    Speed as Speed,
    TrainingSpeed as TrainingSpeed,
    speed as speed,
    training_speed as training_speed,
)
from .speeds.roofline import (
    Bound as Bound,
    Peaks as Peaks,
    bound as bound,
    measure_peaks as measure_peaks,
)
from .surgery.fold_batchnorm import (
    fold_batchnorm as fold_batchnorm,
)
from .surgery.rewrite import (
    Entry as Entry,
    Report as Report,
    rewrite as rewrite,
)

__version__: str
