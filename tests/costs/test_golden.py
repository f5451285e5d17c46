"""The golden costs: what every cell of the zoo costs, and the page of the documentation."""

import pytest

import zoo
from zoo.backbones.families import FAMILIES
from zoo.convs import KINDS
from zoo.costs import golden


@pytest.fixture(scope="module")
def counted():
    return golden.compute()


def test_the_zoo_costs_what_the_golden_file_says(counted):
    assert list(golden.changes(golden.read(), counted)) == [], "python -m zoo golden counts anew"


def test_the_golden_file_has_every_cell(counted):
    expected = golden.read()
    backbones = [name for family in FAMILIES.values() for name in family.variants.values()]
    assert list(expected) == list(counted) == backbones
    assert all(list(network["costs"]) == ["native", *KINDS] for network in expected.values())


def test_the_documentation_is_made_of_the_golden_file():
    assert golden.PAGE.read_text() == golden.page(golden.read()), "python -m zoo golden writes it"


def test_what_changed_is_said_number_by_number():
    old = {"net": {"image_size": 32, "costs": {"native": {"params": 1000, "macs": 5}}}}
    new = {"net": {"image_size": 32, "costs": {"native": {"params": 2000, "macs": 5}, "x": {"refused": "no"}}}}
    assert list(golden.changes(old, old)) == []
    assert list(golden.changes(old, new)) == ["net native params: 1,000 → 2,000 (× 2)", "net x refused: – → no"]


def test_golden_writes_what_it_reads_and_checks_it(monkeypatch, tmp_path, capsys, counted):
    monkeypatch.setattr(golden, "ROOT", tmp_path)
    monkeypatch.setattr(golden, "GOLDEN", tmp_path / "golden_costs.json")
    monkeypatch.setattr(golden, "PAGE", tmp_path / "docs" / "zoo.md")
    monkeypatch.setattr(golden, "compute", lambda progress: counted)
    with pytest.raises(zoo.ConvzooError, match="golden --check"):
        golden.run()
    (tmp_path / "pyproject.toml").touch()
    assert golden.run(check=True) == 1 and not golden.GOLDEN.exists()
    assert golden.run() == 0 and golden.read() == counted
    assert golden.run(check=True) == 0
    assert "0 numbers changed" in capsys.readouterr().out.splitlines()[-1]
    assert len(golden.GOLDEN.read_text().splitlines()) > sum(len(n["costs"]) for n in counted.values())


def test_activations_with_parameters_are_kept_apart():
    native, own = (zoo.Cost(p, p, 10, 30, 5, (8, 8)) for p in (100, 107))
    cells = [zoo.CellCost("net", "native", act, c) for act, c in (("native", native), ("relu", native), ("prelu", own))]
    entry = golden._entry(cells)
    assert entry["params"] == 100 and entry["params_by_act"] == {"prelu": 107}
    assert "| 100 | 10 | 5 | 30 | 7 |" in golden.page({"net": {"image_size": 8, "costs": {"native": entry}}})
