"""The zoo's families: how ``model=… model.variant=… model.phi=…`` names a network. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo.errors import ConvzooError, choose

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""EfficientNet's depth, width and resolution bases (Tan & Le 2019, section 3.3): α·β²·γ² ≈ 2."""


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
        variants: Variant → timm's name. The first one is the default.
        resolutions: Variant → the image size it was published at; 224 where it is not named.
        scalable: Whether ``model.phi`` may be given.
    """

    variants: dict[str, str]
    resolutions: dict[str, int]
    scalable: bool = False


FAMILIES = {
    "resnet": Family({str(n): f"resnet{n}" for n in (18, 34, 50, 101, 152, 26, 200)}, {}),
    "effnet": Family(
        {f"b{n}": f"efficientnet_b{n}" for n in range(8)},
        dict(zip([f"b{n}" for n in range(8)], (224, 240, 260, 300, 380, 456, 528, 600), strict=True)),
        scalable=True,
    ),
    "mobilenet": Family(
        {
            "v2": "mobilenetv2_100",
            "v1": "mobilenetv1_100",
            "v3_small": "mobilenetv3_small_100",
            "v3_large": "mobilenetv3_large_100",
        },
        {},
    ),
}


@dataclass(frozen=True)
class Network:
    """A named network: what `zoo.build` needs of a family's choices.

    Attributes:
        backbone: timm's name.
        phi: Compound scaling on top of it, or None.
        image_size: The resolution it was published at (with ``phi``: 224·γ^φ, rounded); None where timm knows it.
    """

    backbone: str
    phi: float | None = None
    image_size: int | None = None


def resolve(name: str, variant: str | int | None = None, phi: float | None = None) -> Network:
    """Finds the network that a user's choices name.

    Args:
        name: A family (``resnet``, ``effnet``, ``mobilenet``), else a timm name as it is.
        variant: One of the family's variants; None for the default.
        phi: EfficientNet's compound coefficient, any real number ≥ 0, on top of B0. Not the n of Bn: B1 is about φ=0.5
            with its width unscaled, B2 is φ=1.

    Raises:
        ConvzooError: A variant that does not exist, or a phi that makes no sense.
    """
    if name not in FAMILIES:
        if variant is not None or phi is not None:
            raise ConvzooError(f"model.variant and model.phi belong to {', '.join(FAMILIES)}; {name} has neither.")
        return Network(name)
    family = FAMILIES[name]
    default = next(iter(family.variants))
    variant = choose("model.variant", default if variant is None else variant, family.variants)
    if phi is None:
        return Network(family.variants[variant], image_size=family.resolutions.get(variant, 224))
    check_phi(phi)
    if not family.scalable:
        scalable = ", ".join(n for n, f in FAMILIES.items() if f.scalable)
        raise ConvzooError(f"model.phi belongs to {scalable}; {name} has none. Leave it out.")
    if variant != default:
        raise ConvzooError(f"model.phi scales {default}: leave out model.variant={variant}, or leave out model.phi.")
    return Network(family.variants[variant], float(phi), round(224 * GAMMA**phi))


def check_phi(phi: object) -> float:
    """Returns ``phi`` as a float when it can scale a network; raises ConvzooError otherwise."""
    if isinstance(phi, bool) or not isinstance(phi, (int, float)) or not math.isfinite(phi) or not 0 <= phi <= 10:
        raise ConvzooError(f"model.phi={phi} cannot scale a network. Allowed: a number from 0 (B0) to 10; B2 is phi=1.")
    return float(phi)
