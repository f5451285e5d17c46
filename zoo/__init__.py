"""convzoo's networks: build, rewrite, count, time, load. Needs torch and timm; never Lightning, Hydra or W&B.

Names are imported when they are first used, so that ``import zoo`` and ``python -m zoo report`` start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.acts.activations import ACTS, swap_activations
    from zoo.backbones.families import FAMILIES, Network, Scale, resolve
    from zoo.builder import build
    from zoo.compression.convert import ConversionReport, convert, reestimate_batchnorm
    from zoo.compression.int8 import lower, quantize
    from zoo.convs import KINDS, ConvSpec
    from zoo.costs.counting import Cost, LayerCost, cost, layer_costs
    from zoo.costs.mac_counter import register_macs
    from zoo.costs.matching import Match, match
    from zoo.costs.table import CellCost, Images, tabulate
    from zoo.costs.table_views import show_layers
    from zoo.deploy.checkpoint import load
    from zoo.deploy.export import export
    from zoo.errors import ConvzooError
    from zoo.meta import meta_init
    from zoo.speeds.network import Speed, TrainingSpeed, speed, training_speed
    from zoo.speeds.roofline import Bound, Peaks, bound, measure_peaks
    from zoo.surgery.fold_batchnorm import fold_batchnorm
    from zoo.surgery.rewrite import Entry, Report, rewrite

_WHERE = {
    "ACTS": "acts",
    "swap_activations": "acts",
    "build": "builder",
    "load": "checkpoint",
    "ConversionReport": "converter",
    "convert": "converter",
    "reestimate_batchnorm": "converter",
    "KINDS": "convs",
    "ConvSpec": "convs",
    "Cost": "counting",
    "LayerCost": "counting",
    "cost": "counting",
    "layer_costs": "counting",
    "ConvzooError": "errors",
    "export": "exporter",
    "FAMILIES": "families",
    "Network": "families",
    "Scale": "families",
    "resolve": "families",
    "Match": "matching",
    "match": "matching",
    "weightless": "meta",
    "register_macs": "products",
    "lower": "quantizer",
    "quantize": "quantizer",
    "Entry": "rewriter",
    "Report": "rewriter",
    "rewrite": "rewriter",
    "CellCost": "table",
    "Images": "table",
    "tabulate": "table",
    "show_layers": "table_views",
    "Speed": "speeds",
    "TrainingSpeed": "speeds",
    "speed": "speeds",
    "training_speed": "speeds",
    "Bound": "roofline",
    "Peaks": "roofline",
    "bound": "roofline",
    "measure_peaks": "roofline",
    "fold_batchnorm": "folding",
}

__version__ = "0.1.0"
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zoo.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
