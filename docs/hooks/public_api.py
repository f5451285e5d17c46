"""API reference: the public names of a package, wherever their modules are, for mkdocstrings to expand."""

from __future__ import annotations

import importlib
import inspect

TOPICS = {
    "zoo": {
        "Build and rewrite": ("build", "rewrite", "swap_activations", "ConvSpec", "Report", "Entry", "KINDS", "ACTS"),
        "Extend": ("conv_kind", "activation", "backbone", "Factored", "check_kind", "load_plugins"),
        "Count": ("cost", "layer_costs", "Cost", "LayerCost", "tabulate", "show_layers", "CellCost", "Images"),
        "Scale and match": ("resolve", "match", "Network", "Scale", "Match", "ImageSize", "FAMILIES"),
        "Convert and compress": ("convert", "ConversionReport", "reestimate_batchnorm", "fold_batchnorm", "quantize"),
        "Load and export": ("load", "export", "lower"),
        "Measure": ("speed", "training_speed", "Speed", "TrainingSpeed", "bound", "measure_peaks", "Bound", "Peaks"),
    },
    "lightning_modules": {
        "Callbacks for any LightningModule": ("CostLogger", "SpeedLogger", "BadSteps"),
        "Run a cell": ("run_cell", "Classifier", "make_data", "dataset"),
    },
}
"""Package → topic → names. A name that is gone is left out; a new one appears under "More"."""


def page(package: str) -> str:
    """The page of a package in Markdown.

    Each name is documented where it is defined, so that modules can move without a change here.
    """
    module = importlib.import_module(package)
    parts = [f"# `{package}`\n", f"{inspect.getdoc(module)}\n"]
    listed = {name for names in TOPICS[package].values() for name in names}
    topics = TOPICS[package] | {"More": tuple(name for name in module.__all__ if name not in listed)}
    for topic, names in topics.items():
        public = [name for name in names if name in module.__all__]
        if public:
            parts += [f"## {topic}\n", *(_entry(package, name, getattr(module, name)) for name in public)]
    return "\n".join(parts)


def _entry(package: str, name: str, value: object) -> str:
    public = f"{package}.{name}"
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"### `{public}` {{ #{public} }}\n\nOne of {', '.join(f'`{key}`' for key in value)}.\n"
    options = f"    options:\n      heading: {public}\n      toc_label: {public}\n"
    return f"[](){{ #{public} }}\n\n::: {value.__module__}.{value.__qualname__}\n{options}"
