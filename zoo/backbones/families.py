"""Defines the zoo's families: how ``model=… model.variant=… model.phi=…`` names a network, and its scale factors.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo.errors import ConvzooError, choose
from zoo.image_size import Size
from zoo.registry import check_name

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""EfficientNet's depth, width and resolution bases (Tan & Le 2019, section 3.3): α·β²·γ² ≈ 2."""


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
        variants: Variant → timm's name. The first one is the default.
        resolutions: Variant → the image size it was published at; 224 if absent.
        scalable: Whether ``model.phi`` is allowed.
        module: The module that registered it.
    """

    variants: dict[str, str]
    resolutions: Mapping[str, Size]
    scalable: bool = False
    module: str = __name__


FAMILIES: dict[str, Family] = {}
"""Family → its networks, in the order of the tables."""


def register_family(name: str, family: Family) -> None:
    """Registers a family of networks as ``model=NAME``.

    Raises:
        ConvzooError: The name is invalid or taken.
    """
    check_name("model", name, family.module, {known: f.module for known, f in FAMILIES.items()})
    FAMILIES[name] = family


register_family("resnet", Family({str(n): f"resnet{n}" for n in (18, 34, 50, 101, 152, 26, 200)}, {}))
register_family(
    "effnet",
    Family(
        {f"b{n}": f"efficientnet_b{n}" for n in range(8)},
        dict(zip([f"b{n}" for n in range(8)], (224, 240, 260, 300, 380, 456, 528, 600), strict=True)),
        scalable=True,
    ),
)
register_family(
    "mobilenet",
    Family(
        {
            "v2": "mobilenetv2_100",
            "v1": "mobilenetv1_100",
            "v3_small": "mobilenetv3_small_100",
            "v3_large": "mobilenetv3_large_100",
        },
        {},
    ),
)
register_family(
    "xception",
    Family(
        {"original": "legacy_xception", "41": "xception41", "65": "xception65", "71": "xception71"},
        dict.fromkeys(("original", "41", "65", "71"), 299),
    ),
)


@dataclass(frozen=True)
class Network:
    """A network resolved from a user's choices, as `zoo.build` needs it.

    Attributes:
        backbone: timm's name.
        phi: Compound scaling on top of it, or None.
        image_size: The resolution it was published at (with ``phi``: 224·γ^φ, rounded); None if timm knows it.
    """

    backbone: str
    phi: float | None = None
    image_size: Size | None = None


def resolve(name: str, variant: str | int | None = None, phi: float | None = None) -> Network:
    """Resolves a family, a variant and a phi to a network.

    Args:
        name: A family (``resnet``, ``effnet``, ``mobilenet``, ``xception``), or a timm name, which is used as it is.
        variant: One of the family's variants; None for the default.
        phi: EfficientNet's compound coefficient, any real number, on top of B0. Not the n of Bn: B1 is about φ=0.5
            with its width unscaled, B2 is φ=1.

    Raises:
        ConvzooError: The variant does not exist, or phi is invalid or does not apply.
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


@dataclass(frozen=True)
class Scale:
    """The factors by which a network is scaled (Tan & Le 2019, section 3).

    Attributes:
        depth: Multiplier for the blocks of every stage, or one factor per stage.
        width: Multiplier for the channels of every layer.
        resolution: Multiplier for the height and the width of the image.
    """

    depth: float | Sequence[float] = 1.0
    width: float = 1.0
    resolution: float = 1.0

    @classmethod
    def compound(cls, phi: float, key: str = "phi") -> Scale:
        """Returns the compound scale of φ: depth 1.2^φ, width 1.1^φ, resolution 1.15^φ; about 2^φ times the MACs.

        Raises:
            ConvzooError: ``phi`` is invalid; the message calls it ``key``.
        """
        phi = check_phi(phi, key)
        return cls(ALPHA**phi, BETA**phi, GAMMA**phi)


def check_phi(phi: object, key: str = "model.phi") -> float:
    """Returns ``phi`` as a float; raises ConvzooError unless it is a number from -10 to 10."""
    if isinstance(phi, bool) or not isinstance(phi, (int, float)) or not -10 <= phi <= 10:
        raise ConvzooError(
            f"{key}={phi} cannot scale a network. Allowed: a number from -10 to 10 (0: as it is; B2 is 1)."
        )
    return float(phi)
