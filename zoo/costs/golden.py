"""Golden costs: the expected cost of every cell of the zoo's families, in one file.

``golden_costs.json`` is the reference of the tests and the source of the documentation's table (docs/zoo.md). It ships
in the package, so that ``python -m zoo golden --check`` shows for any installation whether its versions of torch and
timm build the same networks. ``python -m zoo golden`` recounts, prints the changes and writes both files.

Format: ``{model: {"image_size": 224, "costs": {conv: {"params": …, "macs": …, "activations": …, "train_macs": …}}}}``.
An entry holds for every activation; ``"params_by_act"`` has the parameters for activations with parameters of their
own. ``{"refused": reason}`` stands for a cell that does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from zoo import render
from zoo.costs.budget import SIZES
from zoo.errors import ConvzooError
from zoo.registry import is_built_in

GOLDEN = Path(__file__).with_name("golden_costs.json")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "zoo.md"

Costs = dict[str, dict[str, Any]]


def compute(progress: bool = False) -> Costs:
    """Counts every family × variant × conv kind × activation at its published image size."""
    from zoo.acts.activations import ACTS
    from zoo.backbones.families import FAMILIES
    from zoo.convs import KINDS
    from zoo.costs import table

    families = [name for name, family in FAMILIES.items() if is_built_in(family.module)]
    cells = table.tabulate(families, ("native", *KINDS.built_in()), ("native", *ACTS.built_in()), progress=progress)
    costs: Costs = {}
    for model, of_model in groupby(cells, lambda cell: cell.model):
        by_conv = {conv: _entry(list(group)) for conv, group in groupby(of_model, lambda cell: cell.conv)}
        size = next(cell.cost.image_size.column for cell in cells if cell.model == model and cell.cost)
        costs[model] = {"image_size": size, "costs": by_conv}
    return costs


def _entry(cells: list[Any]) -> dict[str, Any]:
    """Builds the entry of one network's cells, which differ only in their activation."""
    native = cells[0].cost
    if native is None:
        return {"refused": cells[0].refused}
    entry: dict[str, Any] = {key: getattr(native, key) for key in SIZES}
    if own := {c.act: c.cost.params for c in cells if c.cost.params != native.params}:
        entry["params_by_act"] = own
    return entry


def read() -> Costs:
    """Reads the golden costs."""
    return json.loads(GOLDEN.read_text())


def write(costs: Costs) -> None:
    """Writes the file, one line per network and conv kind, and the documentation page."""
    networks = []
    for model, network in costs.items():
        lines = ",\n".join(f"   {json.dumps(conv)}: {json.dumps(e)}" for conv, e in network["costs"].items())
        size = network["image_size"]
        networks.append(
            f' {json.dumps(model)}: {{\n  "image_size": {json.dumps(size)},\n  "costs": {{\n{lines}\n  }}\n }}'
        )
    GOLDEN.write_text("{\n" + ",\n".join(networks) + "\n}\n")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(costs))


def changes(old: Costs, new: Costs) -> Iterator[str]:
    """Yields the differences, one line per number."""
    was, now = _flat(old), _flat(new)
    for key in dict.fromkeys([*was, *now]):
        before, after = was.get(key), now.get(key)
        if before != after:
            texts = [f"{v:,}" if isinstance(v, int) else "–" if v is None else str(v) for v in (before, after)]
            ratio = f" (× {after / before:.4g})" if isinstance(before, int) and isinstance(after, int) else ""
            yield f"{' '.join(part for part in key if part != 'costs')}: {texts[0]} → {texts[1]}{ratio}"


def _flat(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for name, part in tree.items() for k, v in _flat(part, (*path, name)).items()}


def page(costs: Costs) -> str:
    """Returns the text of docs/zoo.md."""
    entries = [e for network in costs.values() for e in network["costs"].values()]
    acts = list(dict.fromkeys(act for e in entries for act in e.get("params_by_act", {})))
    header = ["model", "image", "conv", "params", "MACs", "activations", "train MACs", *(f"{a} adds" for a in acts)]
    body = []
    for model, network in costs.items():
        for conv, entry in network["costs"].items():
            by_act = entry.get("params_by_act", {})
            shown = ["–" if entry.get(key) is None else render.short(entry[key]) for key in SIZES]
            added = [str(by_act[act] - entry["params"]) if act in by_act else "–" for act in acts]
            body.append([model, str(network["image_size"]), conv, *shown, *added])
    return _INTRODUCTION + render.markdown(header, body, ("model", "conv"))


_INTRODUCTION = """# The zoo, counted

Every network of the families with every kind of convolution, for one image of the published size and 1000 classes.
MACs are multiply-adds of the forward pass (FLOPs are twice that), train MACs those of forward and backward; activations
are the output elements of all convolutions and linear layers. An activation function changes none of these, unless it
has parameters of its own: the last columns say how many it adds, one for each activation module. All digits are in
[golden_costs.json](../zoo/costs/golden_costs.json), which tests compare with.

`python -m zoo golden` makes this page; do not edit it. `python -m zoo table` counts any other cell.

"""


def run(check: bool = False) -> int:
    """Recounts and prints what changed; writes both files unless ``check``.

    Returns:
        The exit code: 1 if ``check`` finds changes, else 0.

    Raises:
        ConvzooError: Writing from an installed package instead of a clone of the repository.
    """
    if not check and not (ROOT / "pyproject.toml").exists():
        raise ConvzooError(
            "golden costs can be written only in a clone of the repository. Type python -m zoo golden --check."
        )
    new = compute(progress=True)
    old = read() if GOLDEN.exists() else {}
    found = list(changes(old, new))
    cells = sum(len(network["costs"]) for network in new.values())
    print("\n".join([*found, f"{cells} networks counted, {len(found)} numbers changed."]))
    if not check:
        write(new)
        print(f"Written: {GOLDEN.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}.")
    return 1 if check and found else 0
