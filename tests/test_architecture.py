"""The rooms and their arrows, as ARCHITECTURE.md draws them: every import points down."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

FLOORS = {
    "zoo": [
        ["__main__"],
        ["check_kind", "new"],
        ["compression", "report"],
        ["deploy"],
        ["costs"],
        ["speeds"],
        ["builder"],
        ["surgery"],
        ["acts", "kernels"],
        ["backbones"],
        ["inputs", "places"],
        ["convs", "meta"],
        ["registry", "plugins"],
        ["rules"],
        ["image_size"],
        ["cache", "devices", "render", "errors"],
        ["log"],
        ["ranks", "text"],
    ],
    "lightning_modules": [
        ["rank", "quantize", "data_check"],
        ["run", "int8", "sweep"],
        ["time_cell", "plugin", "outcome"],
        ["cell"],
        ["unfit", "init_weights", "module", "trainer"],
        ["resolve", "classifier"],
        ["callbacks"],
        ["optimizer", "losses", "metrics", "tracking", "checkpoint"],
        ["results"],
        ["data"],
        ["hardware"],
        ["config", "rng"],
    ],
}
"""Rooms and loose files of each package, the highest first. An import goes to a lower floor."""

FOREIGN = {"zoo": {"lightning", "pytorch_lightning", "hydra", "wandb", "lightning_modules", "hydra_plugins"}}
FOREIGN["lightning_modules"] = {"hydra", "omegaconf", "hydra_plugins"}
INSTANTIATES = ROOT / "lightning_modules" / "config" / "objects.py"
"""The one file of lightning_modules that knows Hydra: it makes what ``_target_`` names."""


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", FLOORS)
def test_every_import_points_down(package):
    floor = {room: number for number, rooms in enumerate(reversed(FLOORS[package])) for room in rooms}
    here = {p.stem for p in (ROOT / package).iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert set(floor) | {"__init__", "conf"} == here | {"conf"}, "a room without a floor"
    up = set()
    for path in (ROOT / package).rglob("*.py"):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] in floor and parts[1] != room:
                up |= {f"{room} → {parts[1]} ({path.name})"} if floor[parts[1]] >= floor[room] else set()
    assert not up


@pytest.mark.parametrize("package", FOREIGN)
def test_what_a_package_never_imports(package):
    for path in {*(ROOT / package).rglob("*.py")} - {INSTANTIATES}:
        assert not {name.split(".")[0] for name in imports(path)} & FOREIGN[package], path
