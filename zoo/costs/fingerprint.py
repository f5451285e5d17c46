"""Tells whether two networks are the same one, whatever names they were asked for by."""

from __future__ import annotations

import hashlib
import re

from torch import nn

_SYNONYMS = {"Swish": "SiLU", "HardSwish": "Hardswish"}
"""timm's copies of torch's activations, without the ``Me`` of those that save memory."""


def fingerprint(net: nn.Module) -> str:
    """A hash of a network's modules: their names, types, settings and the shapes of their weights.

    Equal for two networks that compute the same function of the same weights. Whether an activation works in place is
    left out, and timm's own copies of torch's activations count as those.
    """
    lines = []
    for name, module in net.named_modules(remove_duplicate=False):
        kind = type(module).__name__.removesuffix("Me")
        kind = _SYNONYMS.get(kind, kind)
        settings = re.sub(r"(, )?inplace(=True|=False)?", "", module.extra_repr())
        weights = [(k, tuple(p.shape)) for k, p in module.named_parameters(recurse=False)]
        lines.append(f"{name} {kind} {settings} {weights}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
