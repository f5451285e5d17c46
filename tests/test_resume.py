"""A run that is stopped and started again ends where an undisturbed one does, to the bit."""

import json
import os
import signal

import pytest
import torch
from conftest import cell_config

from lightning_modules import run_cell
from lightning_modules.callbacks.last import LastCheckpoint
from zoo.errors import ConvzooError

EPOCHS, BATCHES = 3, 4
SMALL = (
    "model=effnet",  # has drop-path: the random states matter
    "logger=none",
    "data.image_size=8",
    "data.batch_size=8",
    "hardware=cpu",
    "hardware.threads=1",
    f"trainer.max_epochs={EPOCHS}",
    f"trainer.limit_train_batches={BATCHES}",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
)


def outcome(folder):
    """What must not depend on interruptions."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    epochs = {line["epoch"]: {k: v for k, v in line.items() if k != "seconds"} for line in lines}
    metrics = {k: v for k, v in result["metrics"].items() if k.startswith(("test/", "val/", "cost/", "train/"))}
    weights = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    return result["status"], epochs, metrics, weights


def same(a, b):
    assert a[:3] == b[:3]
    assert all(torch.equal(a[3][k], b[3][k]) for k in a[3]) and a[3].keys() == b[3].keys()


@pytest.fixture(scope="module", params=[(), ("optim=sgd", "trainer.accumulate_grad_batches=2")], ids=["adamw", "sgd"])
def undisturbed(request, tmp_path_factory):
    config = cell_config(*SMALL, *request.param)
    folder = tmp_path_factory.mktemp("undisturbed")
    run_cell(config, folder, "a command")
    return config, outcome(folder)


@pytest.mark.parametrize("batch", [1, BATCHES, BATCHES + 2, EPOCHS * BATCHES], ids=lambda n: f"batch{n}")
def test_a_stopped_run_ends_like_an_undisturbed_one(undisturbed, batch, tmp_path, monkeypatch):
    config, expected = undisturbed
    with monkeypatch.context() as patch:
        seen = []

        def stop_at(self, trainer, module, images, index):
            seen.append(index)
            if len(seen) == batch:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(LastCheckpoint, "on_train_batch_start", stop_at)
        with pytest.raises(SystemExit) as stopped:
            run_cell(config, tmp_path, "a command")
    assert stopped.value.code == 143 and (tmp_path / "last.ckpt").exists()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "interrupted" and "SIGTERM" in result["error"]
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    run_cell(config, tmp_path, "a command")
    assert expected[0] == "completed"
    same(outcome(tmp_path), expected)
    assert not (tmp_path / "last.ckpt").exists()


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as stopped:
        run_cell(cell_config(*SMALL), tmp_path, "a command")
    assert stopped.value.code == 130
    monkeypatch.undo()
    with pytest.raises(ConvzooError, match=r"another configuration.*remove the file"):
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
