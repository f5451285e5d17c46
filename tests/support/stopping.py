"""Stops a run at a given batch and compares what it left with an undisturbed run."""

import json
import os
import signal

import torch
from tiny_cell import TINY_EFFNET

from lightning_modules.checkpoint.last import LastCheckpoint

EPOCHS, BATCHES = 3, 4


SMALL = (
    *TINY_EFFNET,
    f"trainer.max_epochs={EPOCHS}",
    f"trainer.limit_train_batches={BATCHES}",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
)


def outcome(folder):
    """What must not depend on interruptions."""
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    epochs = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    metrics = {k: v for k, v in result["metrics"].items() if k.startswith(("test/", "val/", "cost/", "train/"))}
    weights = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    return result["status"], epochs, metrics, weights


def same(a, b):
    assert a[0] == "completed" and a[:3] == b[:3]
    assert all(torch.equal(a[3][k], b[3][k]) for k in a[3]) and a[3].keys() == b[3].keys()


OVER_EPOCHS = ("trainer.val_check_interval=5", "trainer.check_val_every_n_epoch=null")


RECIPES = {
    "adamw": ("data.augment.mixup=0.2", "data.augment.cutmix=1", "data.augment.random_erasing=0.5"),
    "sgd": ("optim=sgd", "trainer.accumulate_grad_batches=2", "hardware.plan=fp32_fast"),
    "val": ("trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=2", "hardware.plan=fp32"),
    "accumulated": (
        "trainer.val_check_interval=5",
        "trainer.check_val_every_n_epoch=null",
        "trainer.accumulate_grad_batches=2",
    ),
    "across": ("trainer.val_check_interval=5", "trainer.check_val_every_n_epoch=null", "hardware.plan=fp32"),
}


def stop_at_batch(monkeypatch, batch, signum=signal.SIGTERM):
    """The process is sent a signal when it begins its n-th batch."""
    seen = []

    def stop(self, trainer, module, images, index):
        seen.append(index)
        if len(seen) == batch:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", stop)
