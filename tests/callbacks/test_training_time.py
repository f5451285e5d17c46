"""What counts as training in other people's projects: the clock below moves only where a test says so."""

from __future__ import annotations

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_modules import SpeedLogger
from lightning_modules.callbacks import stopwatch

FETCH, TRAIN, PAUSE = 2.0, 6.0, 1000.0
BATCH = 4
RATE, WAIT = BATCH / (FETCH + TRAIN), FETCH / (FETCH + TRAIN)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stopwatch, "perf_counter", clock)
    return clock


class Data(TensorDataset):
    def __init__(self, clock: Clock, batches: int) -> None:
        super().__init__(torch.randn(batches * BATCH, 3, 8, 8))
        self.clock = clock

    def __getitem__(self, index):
        self.clock.now += FETCH / BATCH
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __init__(self, clock: Clock, batches: int) -> None:
        self.data = Data(clock, batches)

    def __iter__(self):
        return map(self.data.__getitem__, range(len(self.data)))


class Module(L.LightningModule):
    """A step takes `TRAIN`, in parts; everything else takes long."""

    def __init__(self, clock: Clock, manual: bool = False) -> None:
        super().__init__()
        self.clock, self.automatic_optimization = clock, not manual
        self.net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.net(x)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.clock.now += TRAIN / 6 if self.trainer.training else PAUSE
        return batch

    def training_step(self, batch, batch_idx):
        self.clock.now += TRAIN / 6
        parts = batch.values() if isinstance(batch, dict) else [batch]
        loss = sum(self(part[0]).square().mean() for part in parts)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=BATCH)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def backward(self, loss, *arguments, **named):
        self.clock.now += TRAIN / 6
        super().backward(loss)

    def validation_step(self, batch, batch_idx):
        self.clock.now += PAUSE
        self.log("val", self(batch[0]).mean())

    def configure_optimizers(self):
        clock = self.clock

        class Optimizer(torch.optim.SGD):
            def step(self, closure=None):
                found = super().step(closure)
                clock.now += TRAIN / 2
                return found

        return Optimizer(self.parameters(), 0.1)


class Restless(Module):
    """Own hooks between the batches."""

    def on_train_batch_start(self, batch, batch_idx):
        self.clock.now += PAUSE

    def on_train_batch_end(self, *_):
        self.clock.now += PAUSE


class Slow(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def _pause(self, trainer, module, *_):
        self.clock.now += PAUSE
        if module.training:
            with torch.no_grad():
                module(torch.zeros(7, 3, 8, 8))  # as a callback that shows pictures

    on_train_batch_start = on_train_batch_end = on_before_optimizer_step = on_before_backward = _pause
    on_after_backward = on_before_zero_grad = on_train_epoch_start = on_train_epoch_end = _pause
    on_validation_start = on_validation_batch_end = on_validation_end = _pause

    def on_save_checkpoint(self, *_):
        self.clock.now += PAUSE


class SlowLogger(CSVLogger):
    def __init__(self, clock: Clock, folder) -> None:
        super().__init__(folder)
        self.clock = clock

    def log_metrics(self, *arguments, **named):
        self.clock.now += PAUSE
        super().log_metrics(*arguments, **named)

    def save(self):
        self.clock.now += PAUSE
        super().save()


def fit(clock, tmp_path, module=None, data=None, around=(), batches=10, epochs=2, **settings):
    speed = SpeedLogger()
    before, after = around or ((), ())
    settings = {"logger": False, "enable_checkpointing": False, **settings}
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*before, speed, *after],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **settings,
    )
    held_back = DataLoader(TensorDataset(torch.randn(2, 3, 8, 8)))
    data = DataLoader(Data(clock, batches), BATCH) if data is None else data
    trainer.fit(module or Module(clock), data, held_back)
    assert "start" not in vars(trainer.profiler) and "log" not in vars(trainer.lightning_module)
    return speed


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"val_check_interval": 1},
        {"val_check_interval": 0.3, "limit_val_batches": 1},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 1.0},
        {"profiler": "simple"},
        {"limit_train_batches": 5},
        {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_nothing_but_training_counts(settings, place, clock, tmp_path) -> None:
    slow = Slow(clock)
    around = {"before": ([slow], []), "after": ([], [slow]), "both": ([slow], [slow])}[place]
    speed = fit(clock, tmp_path, around=around, **settings)
    if settings.get("accumulate_grad_batches"):
        # Every other batch has no optimizer step: the median of 5 and 8 seconds.
        assert BATCH / 8 <= speed.rate.median <= BATCH / 5
    else:
        assert speed.rate.median == pytest.approx(RATE) and speed.rate.iqr == pytest.approx(0)
        assert speed.data_wait == pytest.approx(WAIT)


def test_nor_do_loggers_checkpoints_and_the_module_s_own_hooks(clock, tmp_path) -> None:
    save = L.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    rates = L.callbacks.LearningRateMonitor("step")
    speed = fit(
        clock,
        tmp_path,
        Restless(clock),
        around=([save, rates, Slow(clock)], []),
        logger=SlowLogger(clock, tmp_path),
        log_every_n_steps=1,
        enable_checkpointing=True,
    )
    assert speed.rate.median == pytest.approx(RATE) and speed.data_wait == pytest.approx(WAIT)


class Plain:
    """No DataLoader at all."""

    def __iter__(self):
        return iter([[torch.randn(BATCH, 3, 8, 8)] for _ in range(10)])


KINDS = {
    "stream": lambda clock: DataLoader(Stream(clock, 10), BATCH),
    "pair": lambda clock: CombinedLoader(
        {"a": DataLoader(Data(clock, 10), BATCH), "b": DataLoader(Data(clock, 10), BATCH)}
    ),
    "plain": lambda clock: Plain(),
}


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_data_come_from(kind, manual, clock, tmp_path) -> None:
    data = KINDS[kind](clock)
    fetch = {"stream": FETCH, "pair": 2 * FETCH, "plain": 0}[kind]
    speed = fit(clock, tmp_path, Module(clock, manual), data, around=([Slow(clock)], []), val_check_interval=3)
    assert speed.rate.median == pytest.approx(BATCH / (fetch + TRAIN))
    assert speed.data_wait == pytest.approx(fetch / (fetch + TRAIN))


class Fetching(Module):
    """Takes its batches itself."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch

    def training_step(self, dataloader_iter):
        batch, index, _ = next(dataloader_iter)
        self.clock.now += TRAIN / 6
        return super().training_step(batch, index)


def test_batches_that_the_step_takes_itself(clock, tmp_path) -> None:
    speed = fit(clock, tmp_path, Fetching(clock), around=([Slow(clock)], []))
    assert speed.rate.median == pytest.approx(RATE) and speed.data_wait == pytest.approx(WAIT)


def test_an_epoch_that_ends_early_leaves_nothing_behind(clock, tmp_path) -> None:
    class Leaves(Module):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 6 else None

    speed = fit(clock, tmp_path, Leaves(clock), around=([Slow(clock)], []))
    assert speed.rate.median == pytest.approx(RATE) and speed.data_wait == pytest.approx(WAIT)


def test_a_closure_that_is_called_often_has_the_same_images(clock, tmp_path) -> None:
    class Repeats(Module):
        def training_step(self, batch, batch_idx):
            self.clock.now += 1
            return self(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), 1e-3, max_iter=3, tolerance_change=0, tolerance_grad=0)

    speed = fit(clock, tmp_path, Repeats(clock), around=([Slow(clock)], []))
    # Three steps of one second and backward passes of another, and the two of fetch and a sixth of moving.
    assert speed.rate.median == pytest.approx(BATCH / (3 * (1 + TRAIN / 6) + FETCH + TRAIN / 6))


def test_an_error_leaves_the_trainer_as_it_was(clock, tmp_path) -> None:
    class Fails(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                raise RuntimeError("theirs")
            return super().training_step(batch, batch_idx)

    speed, module = SpeedLogger(), Fails(clock)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[speed], logger=False, enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="theirs"):
        trainer.fit(module, DataLoader(Data(clock, 10), BATCH))
    assert "start" not in vars(trainer.profiler) and "log" not in vars(module) and not module._forward_pre_hooks


class Device:
    """A queue that works while the host does something else."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.free_at = clock, 0.0

    def work(self, seconds: float) -> None:
        self.free_at = max(self.free_at, self.clock.now) + seconds

    def event(self, device, enable_timing):
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        self.at = max(self.device.free_at, self.device.clock.now)

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)

    def synchronize(self) -> None:
        self.device.clock.now = max(self.device.clock.now, self.at)


@pytest.mark.parametrize(("fetch", "work", "pause"), [(1.0, 8.0, 2.0), (1.0, 8.0, 100.0), (5.0, 2.0, 100.0)])
def test_a_device_that_works_while_the_host_pauses(fetch, work, pause, clock, tmp_path, monkeypatch) -> None:
    """The host launches in no time; what it does meanwhile costs nothing as long as the device has work."""
    device = Device(clock)

    class Launches(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(3, 2, 3)

        def training_step(self, batch, batch_idx):
            device.work(work)
            return self.net(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    class Pause(L.Callback):
        def on_train_batch_end(self, *_):
            clock.now += pause

    class InitWeights(L.Callback):
        def on_train_start(self, trainer, module):
            speed._stopwatch._events, speed._batches = True, 4

    class Batches:
        def __iter__(self):
            for _ in range(20):
                clock.now += fetch
                yield [torch.randn(BATCH, 3, 8, 8)]

    monkeypatch.setattr(torch, "Event", device.event)
    speed = SpeedLogger()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[speed, InitWeights(), Pause()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Launches(), Batches())
    # Work of the batch before hides the fetching where the pause is short.
    waits = fetch if pause >= work else 0.0
    assert speed.rate.median == pytest.approx(BATCH / (waits + work), rel=0.1)
    assert speed.data_wait == pytest.approx(waits / (waits + work), abs=0.03)
