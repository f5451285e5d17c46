"""The lean loop against Lightning's own: same weights, metrics, counters, checkpoints, and calls in the same order."""

from __future__ import annotations

import functools
import signal
import warnings

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.callbacks import StochasticWeightAveraging as Averaging
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_modules.loop import LeanEpochLoop, batch, use_lean_loop

BATCHES, EPOCHS = 7, 2
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0}


class Module(L.LightningModule):
    """Dropout, so that the random numbers count; logs at each step and epoch."""

    def __init__(self, schedule: str = "step") -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 2))
        self.schedule = schedule

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        if self.schedule == "plateau":
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=1.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss_epoch"}}
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        frequency = 2 if self.schedule == "every_second" else 1
        interval = "epoch" if self.schedule == "epoch" else "step"
        return [optimizer], [{"scheduler": scheduler, "interval": interval, "frequency": frequency}]


class ReturnsDict(Module):
    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": batch_idx}


class ReturnsNoneAtTimes(Module):
    def training_step(self, batch, batch_idx):
        return None if batch_idx == 2 else super().training_step(batch, batch_idx)


class TakesBatchOnly(Module):
    def training_step(self, batch):
        return super().training_step(batch, 0)


class ClipsItself(Module):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, 0.01, "value")


class EndsEpochs(Module):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


class StepsItself(Module):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        self.log("stepped", float(batch_idx))


class Backward(Module):
    def backward(self, loss):
        (loss * 2).backward()

    def on_before_optimizer_step(self, optimizer):
        self.log("gradient", self.net[0].weight.grad.norm())


class Transfers(Module):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 1, batch[1]

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device([part.clone() for part in batch], device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 2, batch[1]


class Lbfgs(Module):
    """Calls the closure several times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), 0.01, max_iter=3)


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class TwoOptimizers(Manual):
    def training_step(self, batch, batch_idx):
        loss = Module.training_step(self, batch, batch_idx)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), 0.1) for layer in (self.net[0], self.net[2])]


class Calls(L.Callback):
    """Writes down every call of every hook, with the numbers that Lightning shows at that moment."""

    def __init__(self) -> None:
        self.calls: list = []
        for name in dir(L.Callback):
            if name.startswith(("on_", "setup", "teardown")):
                setattr(self, name, functools.partial(self._called, name))

    def _called(self, name, trainer, module, *arguments, **named):
        progress = trainer.fit_loop.epoch_loop.batch_progress
        outputs = repr(arguments[0]) if name == "on_train_batch_end" else None
        numbers = (trainer.global_step, trainer.current_epoch, progress.current.ready, progress.total.completed)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.calls.append((name, module._current_fx_name, len(arguments), sorted(named), numbers, outputs, metrics))


class Rows(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


class Endless(IterableDataset):
    def __iter__(self):
        yield from TensorDataset(*data())


def data(batches: int = BATCHES):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batches * 4, 4, generator=generator), torch.randint(0, 2, (batches * 4,), generator=generator)


def loader(dataset=None):
    return DataLoader(dataset or TensorDataset(*data()), batch_size=4)


def fit(lean, folder, module=Module, callbacks=(), ckpt=None, dataset=None, **settings):
    """Trains; returns everything that must not depend on the loop."""
    L.seed_everything(3, verbose=False)
    calls, rows = Calls(), Rows()
    callbacks = [calls, *(make() for make in callbacks)]
    arguments = {"max_epochs": EPOCHS, "log_every_n_steps": 2, "enable_checkpointing": False, **QUIET, **settings}
    trainer = L.Trainer(logger=rows, callbacks=callbacks, default_root_dir=folder, **arguments)
    if lean:
        use_lean_loop(trainer)
    assert isinstance(trainer.fit_loop.epoch_loop, LeanEpochLoop) == lean
    network = module()
    trainer.fit(network, loader(dataset), loader(), ckpt_path=ckpt)
    state = trainer.fit_loop.state_dict()
    optimizer = trainer.optimizers[0].state_dict() if trainer.optimizers else None
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    files = sorted(p.name for p in folder.rglob("*.ckpt"))
    return (
        trainer,
        network.state_dict(),
        {
            "calls": calls.calls,
            "rows": rows.rows,
            "state": state,
            "metrics": metrics,
            "files": files,
            "optimizer": repr(optimizer),
            "step": trainer.global_step,
            "random": torch.rand(1).item(),
        },
    )


def same(one, other):
    for key, value in one[2].items():
        assert repr(value) == repr(other[2][key]), key
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def spy(monkeypatch):
    """Counts the batches that went the lean way."""
    seen = []
    run = batch.Batch.run
    monkeypatch.setattr(batch.Batch, "run", lambda self, fetcher: (run(self, fetcher), seen.append(1))[0])
    return seen


early = functools.partial(EarlyStopping, monitor="val", patience=0, mode="max")
LEAN = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "scheduled accumulation": {"callbacks": [lambda: GradientAccumulationScheduler({0: 2, 1: 1})]},
    "clipping by norm": {"gradient_clip_val": 0.1},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "max_steps": {"max_epochs": -1, "max_steps": 9},
    "max_steps with accumulation": {"max_steps": 3, "accumulate_grad_batches": 2},
    "min_steps": {"callbacks": [early], "min_steps": 10, "max_epochs": 4},
    "max_time": {"max_time": "00:01:00:00"},
    "limit_train_batches": {"limit_train_batches": 4},
    "a share of the batches": {"limit_train_batches": 0.5, "limit_val_batches": 0.5},
    "no validation": {"limit_val_batches": 0},
    "validation twice an epoch": {"val_check_interval": 0.5},
    "validation every 2 batches": {"val_check_interval": 2},
    "validation across epochs": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "validation every second epoch": {"check_val_every_n_epoch": 2, "max_epochs": 3},
    "sanity check": {"num_sanity_val_steps": 2},
    "fast_dev_run": {"fast_dev_run": 3},
    "early stopping": {"callbacks": [early], "max_epochs": 5},
    "early stopping within an epoch": {"callbacks": [early], "max_epochs": 5, "val_check_interval": 2},
    "checkpoints by step": {
        "enable_checkpointing": True,
        "callbacks": [lambda: ModelCheckpoint(every_n_train_steps=3, save_top_k=-1)],
    },
    "averaged weights": {"callbacks": [lambda: Averaging(0.01, swa_epoch_start=1)], "max_epochs": 3},
    "schedule by epoch": {"module": lambda: Module("epoch")},
    "schedule every second step": {"module": lambda: Module("every_second"), "accumulate_grad_batches": 2},
    "schedule by plateau": {"module": lambda: Module("plateau"), "max_epochs": 4},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-mixed clipped": {"precision": "bf16-mixed", "gradient_clip_val": 0.1},
    "bf16-true": {"precision": "bf16-true"},
    "dict": {"module": ReturnsDict},
    "dict with accumulation": {"module": ReturnsDict, "accumulate_grad_batches": 2},
    "None": {"module": ReturnsNoneAtTimes},
    "one argument": {"module": TakesBatchOnly},
    "own clipping": {"module": ClipsItself},
    "own backward": {"module": Backward},
    "own transfer": {"module": Transfers},
    "LBFGS": {"module": Lbfgs},
    "no length": {"dataset": Endless()},
    "overfit": {"overfit_batches": 2},
    "anomalies": {"detect_anomaly": True},
}
STOCK = {
    "ends epochs": {"module": EndsEpochs},
    "own optimizer_step": {"module": StepsItself},
    "manual": {"module": Manual},
    "two optimizers": {"module": TwoOptimizers},
    "profiler": {"profiler": "simple"},
    "fp16 with a scaler": {
        "plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3))]
    },
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("case", [*LEAN, *STOCK])
def test_same_as_lightnings_loop(case, tmp_path, monkeypatch):
    settings = (LEAN | STOCK)[case]
    (tmp_path / "stock").mkdir()
    (tmp_path / "lean").mkdir()
    stock = fit(False, tmp_path / "stock", **settings)
    seen = spy(monkeypatch)
    same(stock, fit(True, tmp_path / "lean", **settings))
    assert bool(seen) == (case in LEAN)


@pytest.mark.parametrize("every", [{}, {"accumulate_grad_batches": 2}], ids=["plain", "accumulation"])
@pytest.mark.parametrize("first", [False, True], ids=["stock", "lean"])
@pytest.mark.parametrize("second", [False, True], ids=["stock", "lean"])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_checkpoint_of_either_loop_goes_on_under_either(first, second, steps, every, tmp_path):
    """Saved in the middle of the first epoch, at its end, or in the second one: as Lightning itself goes on."""
    keep = functools.partial(ModelCheckpoint, tmp_path / "kept", every_n_train_steps=steps, save_top_k=-1)
    fit(first, tmp_path, callbacks=[keep], enable_checkpointing=True, **every)
    saved = min((tmp_path / "kept").iterdir(), key=lambda path: path.stat().st_mtime)
    expected = fit(False, tmp_path, ckpt=saved, **every)
    same(expected, fit(second, tmp_path, ckpt=saved, **every))


def test_a_lightning_that_does_something_new_is_left_alone(monkeypatch):
    def advance(self, data_fetcher):
        self.something_new()

    monkeypatch.setattr(_TrainingEpochLoop, "advance", advance)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, **QUIET)
    with pytest.warns(UserWarning, match="something_new"):
        use_lean_loop(trainer)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop


class Ranks(L.Callback):
    """As `StopSignals` does: while Lightning has SIGTERM the ranks ask each other for it before each batch."""

    def on_train_start(self, trainer, module):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize("every", [1, 3])
def test_two_ranks(every, tmp_path, monkeypatch):
    """DDP, with the gradients of accumulated batches summed up once."""
    settings = {"callbacks": [Ranks], "strategy": "ddp_fork", "devices": 2, "accumulate_grad_batches": every}
    stock = fit(False, tmp_path, **settings)
    monkeypatch.setattr(batch, "_block_parallel_sync_behavior", _noting(tmp_path / "blocked"))
    lean = fit(True, tmp_path, **settings)
    assert all(torch.equal(value, lean[1][name]) for name, value in stock[1].items())
    assert stock[2]["metrics"] == lean[2]["metrics"] and stock[2]["metrics"]
    assert (tmp_path / "blocked").exists() == (every > 1)


def _noting(path):
    def block(strategy):
        path.touch()
        return _block_parallel_sync_behavior(strategy)

    return block
