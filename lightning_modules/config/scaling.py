"""Scale factors of a cell's network and images, from ``scale``, ``model.phi`` and ``model.match``."""

from __future__ import annotations

from lightning_modules.config.schema import CellSpec, ModelOptions, ScaleOptions
from zoo.backbones.families import Network, Scale, resolve
from zoo.backbones.scaled_builders import check_factor, check_scalable
from zoo.costs.budget import parse_budget
from zoo.costs.matching import Match, check_matchable
from zoo.errors import ConvzooError, choose
from zoo.image_size import ImageSize

AXES = ("depth", "width", "resolution")
SCALES = ("none", "compound", *AXES, "factors")


def check_scaling(spec: CellSpec) -> None:
    """Checks the scale group and ``model.match``.

    Raises:
        ConvzooError: A factor is invalid, or two choices both set the width.
    """
    backbone, scale, model = find_network(spec).backbone, find_scale(spec), spec.model
    if spec.scale.name != "none" and model.phi is not None:
        raise ConvzooError(
            f"model.phi={model.phi} and scale={spec.scale.name} both scale the network. Leave out one "
            "(scale=compound scales the image too)."
        )
    image_sizes(spec)
    if (scale.depth, scale.width) != (1, 1):
        check_scalable(backbone)
    if model.match is not None:
        parse_budget(model.match, "model.match")
        check_matchable(backbone)
        _check_match(model, spec.scale.name, scale)
    elif model.match_over != "width":
        raise ConvzooError(
            "model.match_over says how a budget is met: type model.match=macs:600M too, or leave it out."
        )


def _check_match(model: ModelOptions, scaled_by: str, scale: Scale) -> None:
    what = f"model.match={model.match} looks for a {model.match_over}"
    if model.match_over == "phi" and (scaled_by != "none" or model.phi is not None):
        raise ConvzooError(f"{what}, which scales depth, width and image. Leave out model.phi and scale.")
    if scale.width != 1:
        raise ConvzooError(
            f"{what}, and another one was given. Leave out model.match, or "
            "model.phi and scale (scale=depth and scale=resolution go with it)."
        )
    if model.pretrained:
        raise ConvzooError(f"{what}, and there are no pretrained weights for one. Type model.pretrained=false.")


def find_network(spec: CellSpec) -> Network:
    """Returns the network that the model group names."""
    model = spec.model
    return resolve(model.name, model.variant, model.phi)


def find_scale(spec: CellSpec) -> Scale:
    """Returns the scale factors from the scale group or ``model.phi``.

    ``model.phi`` defines a custom variant: as with b0 to b7, its resolution applies only if the data set has none.

    Raises:
        ConvzooError: A factor is invalid.
    """
    group, phi = spec.scale, spec.model.phi
    name = choose("scale", group.name, SCALES)
    if name == "none":
        of_phi = Scale() if phi is None else Scale.compound(phi, "model.phi")
        return Scale(of_phi.depth, of_phi.width)
    if name == "compound":
        return Scale.compound(group.phi, "scale.phi")
    factors = {name: group.factor} if name != "factors" else group.by.plain()
    for axis, factor in factors.items():
        choose("scale.by", axis, AXES)
        stages = factor if axis == "depth" and isinstance(factor, (list, tuple)) else [factor]
        for one in stages:
            check_factor("scale.factor" if name != "factors" else f"scale.by.{axis}", one)
    return Scale(**factors)


def image_sizes(spec: CellSpec) -> tuple[ImageSize, ImageSize]:
    """Returns the image size before scaling (of the data set, else of the network) and after.

    Raises:
        ConvzooError: The scaled image has fewer than 8 pixels per side.
    """
    base = ImageSize.of(spec.data.image_size or find_network(spec).image_size or 224)
    scaled = base.scaled(find_scale(spec).resolution)
    if scaled.shorter < 8:
        raise ConvzooError(
            f"scale={spec.scale.name} makes {scaled} pixels of {base}. Allowed: 8 and more a side. "
            "Type a larger factor, or a larger data.image_size."
        )
    return base, scaled


def scale_to(spec: CellSpec, found: Match) -> ScaleOptions:
    """Returns the scale group that combines a match with the scaling already in the configuration."""
    if found.over == "phi":
        scale = {"name": "compound", "phi": found.value}
    elif spec.scale.name == "none":
        scale = {"name": "width", "factor": found.value}
    else:
        scale = {"name": "factors", "by": {**vars(find_scale(spec)), "width": found.value}}
    return ScaleOptions.of(scale, "scale")


def scale_columns(spec: CellSpec) -> dict[str, str | float]:
    """Returns the scaling as flat values, leaving out factors of 1."""
    name = spec.scale.name
    if name == "none":
        return {}
    phi = {"phi": spec.scale.phi} if name == "compound" else {}
    factors = vars(find_scale(spec)).items()
    texts = {k: ",".join(map(str, v)) if isinstance(v, (list, tuple)) else round(v, 4) for k, v in factors if v != 1}
    return {"scale": name, **phi, **texts}
