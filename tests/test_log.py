"""Status messages: which ones a user sees, and from which process."""

import logging

import pytest
from conftest import cell_config, cell_spec
from tiny_cell import TINY

from lightning_modules.config.identity import cell_id
from lightning_modules.run import run_cell
from zoo.__main__ import main
from zoo.errors import ConvzooError
from zoo.log import log, set_level
from zoo.ranks import global_rank


@pytest.fixture(autouse=True)
def level():
    """Each test leaves the level as it was."""
    before = log.level
    yield
    log.setLevel(before)


def test_a_level_hides_what_matters_less(capsys):
    set_level("warning")
    log.info("a message")
    log.warning("a problem")
    assert capsys.readouterr().out == "a problem\n"


def test_a_runs_level_is_a_key_and_no_part_of_its_identity(tmp_path):
    with pytest.raises(ConvzooError, match="log=loud"):
        cell_spec("log=loud")
    assert cell_id(cell_spec("log=debug")) == cell_id(cell_spec())
    config = cell_config(*TINY, "log=error", "hardware.micro_batch=4", "task=time")
    with pytest.raises(ConvzooError, match=r"hardware\.micro_batch"):  # refused: nothing needs to be trained here
        run_cell(config, tmp_path, "")
    assert log.level == logging.ERROR


def test_the_commands_level_is_an_environment_variable(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVZOO_LOG", "loud")
    assert main(["report", str(tmp_path)]) == 2 and "CONVZOO_LOG=loud" in capsys.readouterr().err
    monkeypatch.setenv("CONVZOO_LOG", "error")
    main(["report", str(tmp_path)])
    assert log.level == logging.ERROR


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"SLURM_PROCID": "3"}, 0),  # a task of a job in which each trains a cell of its own
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, 3),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0"}, 1),
        ({"RANK": "1"}, 0),
    ],
)
def test_only_the_first_rank_speaks_unless_told_otherwise(environment, rank, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    log.info("once")
    log.info("each", extra={"every_rank": True})
    assert global_rank() == rank
    assert capsys.readouterr().out == ("once\neach\n" if rank == 0 else "each\n")
