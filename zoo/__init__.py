"""convzoo's networks: build, rewrite, count, time, load. Needs torch and timm; never Lightning, Hydra or W&B.

Names are imported when they are first used, so that ``import zoo`` and ``python -m zoo report`` start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.acts import ACTS, swap_activations
    from zoo.builder import build
    from zoo.checkpoint import load
    from zoo.converter import ConversionReport, convert, reestimate_batchnorm
    from zoo.convs import KINDS, ConvSpec
    from zoo.counting import Cost, LayerCost, cost, layer_costs
    from zoo.errors import ConvzooError
    from zoo.exporter import export
    from zoo.families import FAMILIES, Network, Scale, resolve
    from zoo.folding import fold_batchnorm
    from zoo.matching import Match, match
    from zoo.meta import weightless
    from zoo.products import register_macs
    from zoo.quantizer import lower, quantize
    from zoo.rewriter import Entry, Report, rewrite
    from zoo.roofline import Bound, Peaks, bound, measure_peaks
    from zoo.speeds import Speed, TrainingSpeed, speed, training_speed
    from zoo.table import CellCost, Images, tabulate
    from zoo.table_views import show_layers

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
