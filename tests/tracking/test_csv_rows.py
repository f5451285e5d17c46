"""metrics.csv: no row is lost by a stop, a kill or a full disk, and none is there twice."""

import csv

import pytest
from conftest import cell_config
from small_disk import full_for_a_while, small_disk  # noqa: F401
from stopping import BATCHES, SMALL, stop_at_batch
from tiny_cell import TINY
from unmeasured import unmeasured  # noqa: F401

from lightning_modules import run_cell
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.csv import CsvRows

CONFIG = (*TINY[:2], *SMALL[3:], "logger=csv", "trainer.log_every_n_steps=1", "hardware.plan=fp32")
LEFT_OUT = ("speed/", "time/")


pytestmark = pytest.mark.usefixtures("unmeasured")


def rows(folder):
    """Without what is measured."""
    with (folder / "metrics.csv").open(newline="") as file:
        found = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    kept = [{k: v for k, v in row.items() if not k.startswith(LEFT_OUT)} for row in found]
    return [row for row in kept if row.keys() - {"step"}]


@pytest.fixture(scope="module")
def expected(tmp_path_factory, unmeasured):  # noqa: F811
    folder = tmp_path_factory.mktemp("undisturbed")
    run_cell(cell_config(*CONFIG), folder, "a command")
    return rows(folder)


@pytest.mark.parametrize("batches", [(6, 3), (BATCHES,), (BATCHES, BATCHES, BATCHES)])
def test_a_run_that_goes_on_has_the_rows_of_all_starts(batches, tmp_path, expected, monkeypatch):
    """A stop at the end of an epoch is one that waited for its validation."""
    for batch in batches:
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            stop_at_batch(patch, batch)
            run_cell(cell_config(*CONFIG), tmp_path, "a command")
    run_cell(cell_config(*CONFIG), tmp_path, "a command")
    assert any("val/acc" in row for row in expected) and "test/acc" in expected[-1]
    assert rows(tmp_path) == expected


def test_a_full_disk_costs_no_row(small_disk, expected, monkeypatch, capsys):  # noqa: F811
    full_for_a_while(small_disk, monkeypatch)
    run_cell(cell_config(*CONFIG), small_disk / "run", "a command")
    assert capsys.readouterr().out.count("metrics.csv could not be written") == 1
    assert rows(small_disk / "run") == expected


def test_what_a_killed_run_logs_again_is_there_once_in_the_end(tmp_path):
    first = CsvRows(tmp_path, resumed=False)
    for step in (1, 2, 3):
        first.log_metrics({"loss": step / 10}, step)
    with first.path.open("a") as file:
        file.write("0.4")  # cut by the kill
    second = CsvRows(tmp_path, resumed=True)
    second.log_metrics({"loss": 0.25}, 2)
    second.log_metrics({"acc": 0.5}, 2)
    second.log_metrics({"acc": 0.75})
    assert rows(tmp_path)[-1] == {"acc": "0.75"}
    second.finish(Outcome({}, "completed"))
    assert rows(tmp_path) == [
        {"step": "1", "loss": "0.1"},
        {"step": "2", "loss": "0.25"},
        {"step": "3", "loss": "0.3"},
        {"step": "2", "acc": "0.5"},
        {"acc": "0.75"},
    ]


def test_a_run_that_starts_anew_has_its_own_rows_only(tmp_path):
    CsvRows(tmp_path, resumed=False).log_metrics({"loss": 1.0}, 1)
    CsvRows(tmp_path, resumed=False).log_metrics({"loss": 2.0}, 1)
    assert rows(tmp_path) == [{"step": "1", "loss": "2.0"}]
