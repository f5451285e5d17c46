"""Steps whose loss or gradient is not finite: they change nothing, and the message names the layer."""

from __future__ import annotations

import json
import re
import warnings

import lightning.pytorch as L
import pytest
import torch
from conftest import cell_config
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import BadSteps, run_cell
from lightning_modules.callbacks.bad_steps import DivergedError
from lightning_modules.callbacks.step_check import BEHIND
from lightning_modules.cell import Cell
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.classifier import Classifier
from lightning_modules.rng import set_torch_states
from zoo import ConvzooError

BAD = 4  # the batch, from 1, that goes wrong
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}
MARK = 7.0
"""What the first pixel of the bad batch is: a batch is bad by what it holds, so that running it again finds it."""


class Layer(nn.Module):
    """Goes wrong for the marked batch: in what it gives, or in the gradient that it passes on."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, x):
        if not (self.marked and self.where in ("forward", "backward")):
            return x.clone()
        return x / 0 if self.where == "forward" else Explodes.apply(x)


class Explodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


class Module(L.LightningModule):
    """Dropout and BatchNorm: random numbers and running statistics count."""

    def __init__(self, where: str = "forward", optimizer: str = "fused") -> None:
        super().__init__()
        self.where, self.kind = where, optimizer
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), Layer(where), nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        marked = bool((images[0, 0] == MARK) | images[0, 0].isnan())
        self.net[3].marked = marked
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss, on_step=True, on_epoch=True)
        if marked and self.where == "loss":
            return loss + float("inf")  # whose gradient is finite
        return loss

    def configure_optimizers(self):
        if self.kind == "sgd":
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, fused=True)
        return torch.optim.AdamW(self.parameters(), 0.01, fused=self.kind == "fused", foreach=False)


class Later(BadSteps):
    """Decides as on a GPU: the optimizer leaves the step out, and the answer comes later."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self._check.later = True


class Watch(L.Callback):
    """Records the state after each step."""

    def __init__(self) -> None:
        self.states: list = []

    def on_train_batch_end(self, trainer, module, *_):
        weights = {k: v.clone() for k, v in module.state_dict().items()}
        moments = [v.clone() for state in trainer.optimizers[0].state.values() for v in state.values()]
        self.states.append((weights, moments))


def images(bad: int, value: float, batches: int = 8):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batches, 4, 4, generator=generator)
    if bad:
        pixels[bad - 1, 0, 0] = value
    return TensorDataset(pixels.view(-1, 4), torch.randint(0, 2, (batches * 4,), generator=generator))


def fit(folder, where="forward", action="stop", kind=BadSteps, optimizer="fused", bad=BAD, **settings):
    L.seed_everything(3, verbose=False)
    value = float("nan") if where == "batch" else MARK
    watch, steps = Watch(), kind(folder, action, at_most=settings.pop("at_most", 20))
    trainer = L.Trainer(callbacks=[steps, watch], max_epochs=2, enable_checkpointing=False, **QUIET, **settings)
    module, error = Module(where, optimizer), None
    try:
        trainer.fit(module, DataLoader(images(bad, value), batch_size=4))
    except DivergedError as caught:
        error = str(caught)
    return module, watch.states, steps, error


def equal(one, other):
    return all(torch.equal(one[0][k], other[0][k]) for k in one[0]) and all(map(torch.equal, one[1], other[1]))


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


LAYERS = {
    "batch": ("", "batch"),
    "forward": ("net.3", r"output.*net\.3"),
    "backward": ("net.3", r"gradient.*net\.3"),
    "loss": ("", "loss"),
}


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        *((where, {}) for where in LAYERS),
        ("loss", {"precision": "bf16-mixed"}),
        ("forward", {"gradient_clip_val": 0.1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [BadSteps, Later], ids=["at once", "later"])
def test_the_run_stops_with_the_step_the_layer_and_the_batch(where, kind, settings, tmp_path):
    module, states, _, error = fit(tmp_path, where, kind=kind, **settings)
    layer, what = LAYERS[where]
    assert f"step {BAD} (epoch 1, batch {BAD})" in error and "learning rate" in error
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert (kept["step"], kept["batch"], kept["layer"]) == (BAD, BAD, layer)
    assert kept["what"] in error and re.search(what, kept["what"])
    assert kept["images"].shape == (4, 4) and len(kept["labels"]) == 4
    # The weights are those from before the step, and so is what was saved.
    before = states[BAD - 2][0]
    after = torch.load(tmp_path / "bad_step.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(before[k], after[k]) and torch.equal(before[k], v) for k, v in module.state_dict().items())


@pytest.mark.parametrize(
    ("where", "optimizer"),
    [*((where, "fused") for where in LAYERS), ("batch", "plain"), ("batch", "sgd"), ("loss", "sgd")],
)
def test_a_skipped_step_changes_nothing(where, optimizer, tmp_path):
    module, states, steps, error = fit(tmp_path, where, "skip", optimizer=optimizer)
    assert error is None and steps.metrics == {"train/skipped_steps": 2}  # once an epoch
    for bad in (BAD, BAD + 8):
        assert equal(states[bad - 2], states[bad - 1]) and not equal(states[bad - 1], states[bad])
    assert all(v.isfinite().all() for v in module.state_dict().values())
    assert torch.load(tmp_path / "bad_batch.pt", weights_only=True)["step"] == BAD
    if optimizer != "plain":
        again = fit(tmp_path, where, "skip", Later, optimizer)
        assert again[3] is None and again[2].metrics == steps.metrics
        assert all(map(equal, states, again[1]))


def test_looking_at_a_bad_batch_does_not_change_the_run(tmp_path, monkeypatch):
    """Random states, metrics and statistics are as if the batch had not been run again."""
    looked = fit(tmp_path, "batch", "skip")
    monkeypatch.setattr("lightning_modules.callbacks.bad_steps.look_into", lambda *_: "")
    assert all(map(equal, looked[1], fit(tmp_path, "batch", "skip")[1]))


def test_a_run_without_bad_steps_is_left_alone(tmp_path, monkeypatch):
    watched = [fit(tmp_path, bad=0, kind=kind)[1] for kind in (BadSteps, Later)]
    monkeypatch.setattr(BadSteps, "on_before_backward", L.Callback.on_before_backward)
    monkeypatch.setattr(BadSteps, "on_before_optimizer_step", L.Callback.on_before_optimizer_step)
    plain = fit(tmp_path, bad=0)[1]
    assert all(all(map(equal, plain, states)) for states in watched)


def test_of_accumulated_batches_the_bad_one_is_kept(tmp_path):
    _, states, _, error = fit(tmp_path, accumulate_grad_batches=3, bad=5)
    assert "step 2 (epoch 1, batch 5)" in error
    assert not equal(states[1], states[2])


def test_the_batch_can_be_run_again(tmp_path):
    """From the file alone: images, labels, weights and random state give the same NaN."""
    _, states, _, _ = fit(tmp_path, "forward")
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    module = Module("forward")
    module.load_state_dict(states[BAD - 2][0])
    set_torch_states(kept["random"], torch.device("cpu"))
    module.net[3].marked = True
    assert not module.net(kept["images"]).isfinite().all()


def test_too_many_skipped_steps_stop_the_run(tmp_path):
    *_, error = fit(tmp_path, "forward", "skip", at_most=1)
    assert f"step {BAD + 8} (epoch 2, batch {BAD})" in error and "1 steps before it" in error


class Small(L.LightningModule):
    """A linear layer; a batch is bad by its number, on the rank that is asked for."""

    def __init__(self, bad, value=float("nan"), rank=0, fused=True, momentum=False) -> None:
        super().__init__()
        self.bad, self.value, self.rank, self.fused, self.momentum = bad, value, rank, fused, momentum
        self.net = nn.Linear(40, 20)

    def training_step(self, batch, batch_idx):
        loss = self.net(batch).float().pow(2).mean()
        return loss + self.value if batch_idx + 1 in self.bad and self.global_rank == self.rank else loss

    def configure_optimizers(self):
        if self.momentum:
            return torch.optim.SGD(self.parameters(), 1e-3, momentum=0.9, fused=True)
        return torch.optim.AdamW(self.parameters(), 1e-3, fused=self.fused, foreach=False)


def train(module, callbacks, batches=6, checkpoints=False, **settings):
    trainer = L.Trainer(callbacks=callbacks, max_epochs=1, enable_checkpointing=checkpoints, **QUIET, **settings)
    trainer.fit(module, DataLoader(torch.ones(batches, 3, 40), batch_size=None))


def test_momentum_is_sound_after_two_bad_first_steps(tmp_path, monkeypatch):
    """Fused SGD allocates it uninitialised: here, it holds huge numbers."""
    monkeypatch.setattr(torch, "empty_like", lambda x, **_: torch.full_like(x, 1e30))
    found = []
    for kind in (BadSteps, Later):
        L.seed_everything(3, verbose=False)
        train(module := Small((1, 2), momentum=True), [kind(tmp_path, "skip")])
        found.append(module.net.weight.detach())
    assert found[0].abs().max() < 10 and torch.equal(*found)


def fp16():
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])  # the gradient of an infinite loss is finite
def test_a_gradient_scaler_leaves_a_bad_step_out(value, fused, tmp_path):
    watch, steps = Watch(), BadSteps(tmp_path, "skip")
    train(Small((3,), value, fused=fused), [steps, watch], **fp16())
    assert steps.skipped == 1 and torch.load(tmp_path / "bad_batch.pt", weights_only=True)["step"] == 3
    assert equal(watch.states[1], watch.states[2]) and not equal(watch.states[2], watch.states[3])


@pytest.mark.forks_training
def test_all_ranks_of_a_gradient_scaler_decide_the_same(tmp_path):
    steps = BadSteps(tmp_path, "skip")
    train(module := Small((2,), rank=1), [steps], strategy="ddp_fork", devices=2, **fp16())
    assert torch.load(tmp_path / "bad_batch.pt", weights_only=True)["rank"] == 1
    assert all(v.isfinite().all() for v in module.state_dict().values())


@pytest.mark.parametrize("kind", [BadSteps, Later])
def test_few_batches_are_held_however_many_are_accumulated(kind, tmp_path):
    steps, held = kind(tmp_path), []

    class Count(L.Callback):
        def on_train_batch_end(self, *_):
            batches = [*steps._check.window.seen, *(seen for step in steps._check.waiting for seen in step.seen)]
            held.append(len({id(seen) for seen in batches}))

    train(Small(()), [steps, Count()], 64, accumulate_grad_batches=16)
    assert max(held) <= 2 * (1 + BEHIND)


class Manual(L.LightningModule):
    """Steps its optimizers itself; the third batch of each epoch is bad for the first one, or for the second."""

    def __init__(self, how, bad=0) -> None:
        super().__init__()
        self.how, self.bad, self.calls, self.automatic_optimization = how, bad, 0, False
        self.nets = nn.ModuleList([nn.Linear(40, 20), nn.Linear(40, 20)])

    def training_step(self, batch, batch_idx):
        self.calls += 1
        optimizers = self.optimizers()
        for i, optimizer in enumerate(optimizers if isinstance(optimizers, list) else [optimizers]):
            value = float("nan") if batch_idx == 2 and i == self.bad else 1.0

            def loss(i=i, optimizer=optimizer, value=value):
                optimizer.zero_grad()
                found = self.nets[i](batch).pow(2).mean() * value
                self.manual_backward(found)
                return found

            if self.how == "closure":
                optimizer.step(loss)
            elif self.how == "toggled":
                with self.toggled_optimizer(optimizer):
                    loss()
                    optimizer.step()
            else:
                loss()
                optimizer.step()

    def configure_optimizers(self):
        found = [torch.optim.SGD(net.parameters(), 1e-3) for net in self.nets]
        return found[0] if self.how == "one" else found


@pytest.mark.parametrize("how", ["one", "two", "toggled", "closure"])
@pytest.mark.parametrize("action", ["stop", "skip"])
@pytest.mark.parametrize("bad", [0, 1])
def test_under_manual_optimization_it_is_off_and_says_so(how, action, bad, tmp_path):
    module = Manual(how, bad)
    with pytest.warns(UserWarning, match="BadSteps.*manual optimization"):
        train(module, [steps := BadSteps(tmp_path, action)])
    assert module.calls == 6 and steps.metrics == {} and not list(tmp_path.iterdir())
    # A checkpoint is theirs to judge too.
    train(Manual(how, bad), [BadSteps(tmp_path, action), L.callbacks.ModelCheckpoint(tmp_path)], checkpoints=True)


def test_lbfgs_is_left_alone(tmp_path):
    class Newton(Small):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), 1e-3, max_iter=3)

    with pytest.warns(UserWarning, match="BadSteps.*LBFGS"):
        train(Newton((3,)), [BadSteps(tmp_path, "skip")])


def wrapped(module):
    return LightningOptimizer(torch.optim.AdamW(module.parameters(), 1e-3))


def frozen(module):
    module.net.bias.requires_grad_(False)
    return torch.optim.SGD([{"params": [module.net.bias]}, {"params": [module.net.weight]}], 1e-3)


@pytest.mark.parametrize("make", [wrapped, frozen])
@pytest.mark.parametrize("many", [1, 2])
def test_whatever_optimizer_there_is(make, many, tmp_path):
    class Theirs(Small):
        def configure_optimizers(self):
            return make(self)

    train(module := Theirs((3,)), [steps := BadSteps(tmp_path, "skip")], accumulate_grad_batches=many)
    assert steps.skipped == 1 and all(v.isfinite().all() for v in module.state_dict().values())


@pytest.mark.parametrize("how", ["whole", "in place", "part"])
def test_a_compiled_module_is_looked_into(how, tmp_path):
    torch.compiler.reset()
    module = Module("forward")
    if how == "whole":
        given = torch.compile(module, backend="eager")
    elif how == "in place":
        module.compile(backend="eager")
        given = module
    else:
        module.net = Behind(module.net)
        given = module
    trainer = L.Trainer(callbacks=[BadSteps(tmp_path)], max_epochs=1, enable_checkpointing=False, **QUIET)
    with pytest.raises(DivergedError, match=rf"step {BAD} .*net\.3"):
        trainer.fit(given, DataLoader(images(BAD, MARK), batch_size=4))


class Behind(nn.Sequential):
    """Layers that run compiled."""

    def __init__(self, net) -> None:
        super().__init__(*net)
        self.compile(backend="eager")


class Odd(L.LightningModule):
    """Sparse and complex gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.turn = nn.Embedding(9, 4, sparse=True), nn.Parameter(torch.ones(4, dtype=torch.cfloat))

    def training_step(self, batch, batch_idx):
        loss = (self.table(torch.tensor([1, 1, batch_idx])) * self.turn).abs().pow(2).mean()
        return loss * float("nan") if batch_idx == 2 else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_sparse_and_complex_gradients_are_looked_at_too(tmp_path):
    steps = BadSteps(tmp_path, "skip")
    train(module := Odd(), [steps])
    assert steps.skipped == 1 and module.turn.isfinite().all() and module.table.weight.isfinite().all()


@pytest.mark.parametrize("action", ["skip", "stop"])
def test_a_folder_that_cannot_be_written_hides_nothing(action, tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    error = ""
    try:
        train(Small((3,)), [steps := BadSteps(tmp_path / "a file" / "run", action)])
    except ConvzooError as caught:
        error = str(caught)
    assert steps.skipped == 1
    printed = capsys.readouterr().out + error
    assert "step 3 (epoch 1, batch 3)" in printed and "bad_batch.pt" in printed


def test_nothing_but_stop_or_skip():
    with pytest.raises(ConvzooError, match="stop, skip"):
        BadSteps(action="ignore")


CELL = ("model=timm", "model.name=test_resnet", "logger=none", "data.batch_size=8", "data.image_size=8")
CELL += ("hardware=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=5", "trainer.limit_val_batches=1")
CELL += ("trainer.limit_test_batches=1", "checkpoint.every_s=0", "hardware.plan=bf16")


@pytest.fixture
def untimed(monkeypatch):
    """No measurement of inference, which takes longer than these runs."""
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})


def test_a_cell_stops_with_a_good_checkpoint_and_goes_on_by_skipping(tmp_path, monkeypatch, untimed):
    """The third batch of the second epoch: last.ckpt is of the step before, and holds nothing but numbers."""
    step, seen = Classifier.training_step, []

    def spoilt(self, batch, batch_idx):
        bad = (self.current_epoch, batch_idx) == (1, 2)
        return step(self, (batch[0] * float("nan"), batch[1]) if bad else batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", spoilt)
    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", lambda *_: seen.append(1))
    with pytest.raises(DivergedError, match="step 8"):
        run_cell(cell_config(*CELL), tmp_path, "a command")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed" and "traceback" not in result
    for text in ("step 8 (epoch 2, batch 3)", "bad_batch.pt", "optim.lr", "0.003", "hardware.plan=fp32"):
        assert text in result["error"]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 7 and all(v.isfinite().all() for v in saved["state_dict"].values())
    assert torch.load(tmp_path / "bad_batch.pt", weights_only=True)["layer"].startswith("net.")
    seen.clear()
    result = run_cell(cell_config(*CELL, "optim.bad_step=skip"), tmp_path, "a command")
    assert len(seen) == 3  # steps 8 to 10
    assert result["status"] == "completed" and result["metrics"]["train/skipped_steps"] == 1
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert all(line["train/loss"] is not None for line in lines)


def test_weights_that_overflow_are_not_saved(tmp_path):
    """A finite gradient, but a step so large that the weights are not finite after it."""
    with pytest.raises(DivergedError, match=r"optim\.lr"):
        run_cell(cell_config(*CELL, "optim=sgd", "optim.lr=1e29", "optim.warmup=0"), tmp_path, "a command")
    for name in ("last.ckpt", "bad_step.ckpt"):
        if (tmp_path / name).exists():
            weights = torch.load(tmp_path / name, weights_only=True)["state_dict"].values()
            assert all(v.isfinite().all() for v in weights)


@pytest.mark.parametrize("factor", [1, 1000])
def test_an_absurd_loss_is_worth_a_line_and_no_more(factor, tmp_path, monkeypatch, capsys):
    loss = Classifier._loss
    monkeypatch.setattr(Classifier, "_loss", lambda self, *batch: loss(self, *batch) + factor)
    optim = {"name": "adamw", "lr": 0.003, "weight_decay": 0.0, "warmup": 0.3, "label_smoothing": 0.0}
    module = Classifier({"backbone": "test_resnet", "num_classes": 10}, optim)
    batches = [(torch.zeros(2, 3, 8, 8), torch.arange(2))] * 3
    trainer = L.Trainer(max_epochs=2, enable_checkpointing=False, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert trainer.state.finished and capsys.readouterr().out.count("optim.lr") == (factor > 1)


class Ranks(Module):
    """The second rank's loss is infinite, its gradient is not: both ranks have to leave the step out."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + float("inf") if self.global_rank == 1 and batch_idx == 2 else loss


@pytest.mark.forks_training
def test_all_ranks_decide_the_same(tmp_path):
    def trained(action):
        L.seed_everything(3, verbose=False)
        steps, watch = BadSteps(tmp_path, action), Watch()
        trainer = L.Trainer(
            callbacks=[steps, watch], max_epochs=1, enable_checkpointing=False, strategy="ddp_fork", devices=2, **QUIET
        )
        module = Ranks("forward")
        trainer.fit(module, DataLoader(images(0, 0), batch_size=4))
        return module

    assert all(v.isfinite().all() for v in trained("skip").state_dict().values())
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert kept["rank"] == 1 and kept["step"] == 3 and "loss" in kept["what"]
    with pytest.raises(Exception, match=r"batch 3 of rank 1.*loss"):
        trained("stop")
