"""Detects modules that compute with other weights than those that they hold."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

TENSORS = ("weight", "bias")
_UNDO = {
    "WeightNorm": "torch.nn.utils.remove_weight_norm",
    "SpectralNorm": "torch.nn.utils.remove_spectral_norm",
    "parametrizations": "torch.nn.utils.parametrize.remove_parametrizations",
}


def why_computed(module: nn.Module) -> str | None:
    """Returns what computes a module's weights or output, and how to undo it; None for a plain module.

    Anything that replaces a weight is detected: a parametrization, a hook of ``weight_norm`` or ``spectral_norm``, a
    pruning mask, a property or a plain tensor in place of the parameter, and a ``forward`` set on the instance.
    """
    if parametrize.is_parametrized(module):
        of = {
            name: [type(p).__name__.lstrip("_") for p in module.parametrizations[name]]
            for name in module.parametrizations
        }
        what = ", ".join(f"{' and '.join(kinds)} of its {name}" for name, kinds in of.items())
        return f"a parametrization ({what}; {_UNDO['parametrizations']} makes it plain)"
    computed = [
        name for name in TENSORS if module._parameters.get(name) is None and getattr(module, name, None) is not None
    ]
    if computed:
        hooks = [type(hook).__name__ for hook in module._forward_pre_hooks.values()]
        by = next((name for name in hooks if name in _UNDO), None)
        if by:
            return f"{by} ({_UNDO[by]} makes it plain)"
        if f"{computed[0]}_mask" in module._buffers:
            return "a pruning mask (torch.nn.utils.prune.remove makes it plain)"
        return f"a {computed[0]} that is not a parameter" + (f" (hook {hooks[0]})" if hooks else "")
    return "a forward set on the instance" if "forward" in vars(module) else None
