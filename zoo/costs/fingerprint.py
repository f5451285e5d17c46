"""Fingerprints of networks: equal networks get equal hashes, whatever names they were built by."""

from __future__ import annotations

import hashlib
import re

from torch import nn

_SYNONYMS = {"Swish": "SiLU", "HardSwish": "Hardswish"}
"""timm's copies of torch's activations → torch's names. Without the suffix ``Me`` of the memory-efficient versions."""


def fingerprint(net: nn.Module) -> str:
    """Returns a hash of a network's modules: names, types, settings and shapes of weights.

    Equal for two networks that compute the same function of the same weights. ``inplace`` of activations is ignored,
    and timm's copies of torch's activations are treated as torch's.
    """
    lines = []
    for name, module in net.named_modules(remove_duplicate=False):
        kind = type(module).__name__.removesuffix("Me")
        kind = _SYNONYMS.get(kind, kind)
        settings = re.sub(r"(, )?inplace(=True|=False)?", "", module.extra_repr())
        weights = [(k, tuple(p.shape)) for k, p in module.named_parameters(recurse=False)]
        lines.append(f"{name} {kind} {settings} {weights}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
