"""A run that is stopped and started again ends where an undisturbed one does, to the bit."""

import json
import os
import signal
import time
from functools import cache

import pytest
import torch
from conftest import ROOT, cell_config
from ranks import end_ranks, kill, start_ranks
from stopping import BATCHES, EPOCHS, RECIPES, SMALL, outcome, same, stop_at_batch

from lightning_modules import run_cell
from lightning_modules.cell import Cell
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.checkpoint.state import of_rank
from zoo.errors import ConvzooError

ACROSS = [("across", batch) for batch in (4, 5, 6, 8, 10)] + [("accumulated", batch) for batch in (5, 6, 8)]


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Speeds are not what is tested here, and take more time than all else."""
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The outcome of a recipe's run that nothing disturbs."""

    @cache
    def outcome_of(recipe):
        folder = tmp_path_factory.mktemp("undisturbed")
        run_cell(cell_config(*SMALL, *RECIPES[recipe]), folder, "a command")
        return outcome(folder)

    return outcome_of


@pytest.mark.parametrize(
    ("recipe", "batch"),
    [
        ("adamw", 1),
        ("adamw", BATCHES),
        ("adamw", EPOCHS * BATCHES),
        ("sgd", 6),
        ("val", 7),
        ("val", 8),
        *[("across", b) for b in (4, 5, 6, 8, 10)],
    ],
)
def test_a_stopped_run_ends_like_an_undisturbed_one(recipe, batch, undisturbed, tmp_path, monkeypatch):
    config = cell_config(*SMALL, *RECIPES[recipe])
    with monkeypatch.context() as patch:
        stop_at_batch(patch, batch)
        with pytest.raises(SystemExit) as stopped:
            run_cell(config, tmp_path, "a command")
    assert stopped.value.code == 143 and (tmp_path / "last.ckpt").exists()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "interrupted" and "SIGTERM" in result["error"]
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    run_cell(config, tmp_path, "a command")
    same(outcome(tmp_path), undisturbed(recipe))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.ckpt",
        "config.json",
        "epochs.jsonl",
        "job.lock",
        "result.json",
    ]


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as stopped:
        run_cell(cell_config(*SMALL), tmp_path, "a command")
    assert stopped.value.code == 130
    monkeypatch.undo()
    with pytest.raises(ConvzooError, match=r"another configuration.*rm "):
        run_cell(cell_config(*SMALL, "optim.lr=0.1"), tmp_path, "a command")
    # Where it runs does not matter.
    result = run_cell(cell_config(*SMALL, "logger=csv"), tmp_path, "a command")
    assert result["status"] == "completed"


def test_a_killed_run_goes_on_and_a_second_one_is_refused_meanwhile(tmp_path, start):
    """kill -9 in the middle: nothing can be written any more, and what was written every batch is whole."""
    overrides = [*SMALL, "trainer.max_epochs=6", "checkpoint.every_s=0"]
    first = start(*overrides, f"hydra.run.dir={tmp_path}")
    first.until((tmp_path / "epochs.jsonl").exists)
    first.send(signal.SIGSTOP)  # or it might be done before the second one is refused
    second = start(*overrides, f"hydra.run.dir={tmp_path}")
    assert second.wait() == 2 and "running already" in second.stderr and "Traceback" not in second.stderr
    first.send(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "result.json").exists()
    config = cell_config(*overrides)
    run_cell(config, tmp_path, "a command")
    undisturbed = tmp_path / "undisturbed"
    run_cell(config, undisturbed, "a command")
    same(outcome(tmp_path), outcome(undisturbed))


def test_killed_ranks_go_on_like_undisturbed_ones(forks, tmp_path, monkeypatch):
    """Each with random numbers of its own: another drop-path, another mixup."""
    monkeypatch.chdir(ROOT)
    if not forks.forks:
        pytest.skip("this system cannot adopt processes")
    config = cell_config(*SMALL, *RECIPES["adamw"], "hardware=ddp", "trainer.accelerator=cpu", "checkpoint.every_s=0")
    folders = tmp_path / "killed", tmp_path / "undisturbed"
    started = start_ranks(forks, folders[0], config)
    while not (folders[0] / "last-previous.ckpt").exists():
        assert not any(p.poll() for p in started), (folders[0] / "log-rank0.txt").read_text()
        time.sleep(0.01)
    kill(started)
    end_ranks(started, folders[0])
    states = torch.load(folders[0] / "last.ckpt", weights_only=True)["convzoo"]["random"]
    assert len(states) == 2 and not torch.equal(states[0]["torch"]["cpu"], states[1]["torch"]["cpu"])
    for folder in folders:
        codes = end_ranks(start_ranks(forks, folder, config), folder)
        assert codes == [0, 0], (folder / "log-rank0.txt").read_text()
    same(outcome(folders[0]), outcome(folders[1]))


@pytest.mark.parametrize(("ranks", "totals"), [(2, [2.0, 5.0]), (1, [7.0]), (3, [7.0, 0.0, 0.0])])
def test_metrics_of_an_unfinished_epoch_stay_with_their_ranks(ranks, totals):
    """The sum over ranks of sums has other bits than the same sum in another order."""
    saved = [{"train_loss": {"total": torch.tensor(total)}} for total in (2.0, 5.0)]
    own = [of_rank(rank, ranks, saved)["train_loss"]["total"].item() for rank in range(ranks)]
    assert own == totals and of_rank(0, ranks, []) == {}


def test_a_checkpoint_of_before_the_ranks_had_their_own_metrics():
    saved = {"train_loss": {"total": torch.tensor(7.0)}}
    assert [of_rank(rank, 2, saved)["train_loss"]["total"].item() for rank in (0, 1)] == [7.0, 0.0]
