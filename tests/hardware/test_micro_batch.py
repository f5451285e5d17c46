"""A batch that does not fit into memory is taken in parts: the same step, the same recipe."""

import json
import os
import signal
import subprocess
import sys

import lightning.pytorch as L
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, cell_config
from tiny_cell import TINY_EFFNET
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import run_cell
from lightning_modules.cell import Cell
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.classifier import Classifier
from lightning_modules.hardware.micro_batch import MicroBatch
from lightning_modules.hardware.out_of_memory import is_out_of_memory
from zoo import ConvzooError

CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you ...")
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), CPU, MemoryError()]
ERRORS += [RuntimeError("FIND was unable to find an engine to execute this computation")]


class Limited(nn.Module):
    """Has no room for more than so many images, forward or backward."""

    def __init__(self, images: int, error: Exception, where: str = "forward") -> None:
        super().__init__()
        self.images, self.error, self.where, self.raised = images, error, where, 0

    def forward(self, x):
        if self.where == "backward" and x.requires_grad:
            x.register_hook(lambda gradient: self.check(gradient))
        elif self.where == "forward":
            self.check(x)
        return x

    def check(self, x):
        if len(x) > self.images:
            self.raised += 1
            raise self.error


def network(*last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), *last, nn.Linear(8, 3))


def step(net, micro, images=10):
    """Loss and gradients of two steps."""
    torch.manual_seed(1)
    x, y = torch.randn(images, 4), torch.randint(0, 3, (images,))
    found = []
    for _ in range(2):
        net.zero_grad()
        loss = micro.loss(net, x, y, lambda a, b: F.cross_entropy(net(a), b))
        loss.backward()
        found += [loss.detach(), *(p.grad.clone() for p in net.parameters())]
    return [*found, *(b.clone() for b in net.buffers()), torch.rand(1)]


def test_parts_of_unequal_size_give_the_step_of_the_whole_batch():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    x, y = torch.randn(11, 4).double(), torch.randint(0, 3, (11,))
    grads, sizes = {}, []

    def loss(a, b):
        sizes.append(len(a))
        return F.cross_entropy(net(a), b, label_smoothing=0.1)

    for size in (11, 4):
        net.zero_grad()
        MicroBatch(size).loss(net, x, y, loss).backward()
        grads[size] = [p.grad.clone() for p in net.parameters()]
    assert sizes == [11, 4, 4, 3]
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(*grads.values(), strict=True))


def test_no_part_is_of_one_image():
    sizes = []
    net = network(nn.Identity())
    x, y = torch.randn(5, 4), torch.randint(0, 3, (5,))
    MicroBatch(2).loss(net, x, y, lambda a, b: sizes.append(len(a)) or F.cross_entropy(net(a), b)).backward()
    assert sizes == [3, 2]


@pytest.mark.parametrize("size", [2, 4])
def test_weights_that_share_a_gradient(size):
    """Autograd gives both of them the same tensor."""
    net = nn.ParameterList([nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))])
    images = torch.randn(4, 4)
    MicroBatch(size).loss(net, images, images, lambda a, _: ((net[0] + net[1]) * a).sum() / len(a)).backward()
    assert all(torch.allclose(weight.grad, images.mean(0)) for weight in net)


def test_a_batch_with_room_is_left_as_it_is():
    assert all(map(torch.equal, step(network(), MicroBatch()), step(network(), MicroBatch("auto"))))


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_auto_halves_and_makes_the_step_again(error, where, capsys):
    """From its beginning, random numbers and BatchNorm's statistics too: as if it had known from the start."""
    limited, micro = Limited(3, error, where), MicroBatch("auto")
    found = step(network(limited), micro)
    assert micro.size == 3 and limited.raised == 2  # 10, 5
    assert all(map(torch.equal, found, step(network(nn.Identity()), MicroBatch(3))))
    assert "out of memory with 5 images at a time" in capsys.readouterr().out


def test_other_errors_and_too_little_memory_are_told():
    for micro, limit, error in (("auto", 1, CPU), (4, 3, CPU), (None, 3, CPU), ("auto", 3, RuntimeError("a bug"))):
        with pytest.raises(RuntimeError, match=r"can't allocate|a bug"):
            step(network(Limited(limit, error)), MicroBatch(micro))
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(KeyError("out of memory"))


def test_evaluation_in_parts_gives_the_same():
    net, x = network(Limited(3, CPU)).eval(), torch.randn(10, 4)
    micro = MicroBatch("auto")
    with torch.no_grad():
        assert torch.allclose(micro.logits(net, x), network().eval()(x), atol=1e-6)
    assert micro.evaluated == 3 and micro.size is None


def test_a_network_that_writes_its_outputs_again_is_evaluated_right():
    """As CUDA graphs do."""
    stock, x, out = network().eval(), torch.randn(9, 4), torch.empty(3, 2)
    micro = MicroBatch(3)

    def again(part):
        out.resize_(len(part), stock(part).shape[1])
        return out.copy_(stock(part))

    with torch.no_grad():
        assert torch.allclose(micro.logits(again, x), stock(x), atol=1e-6)


CELL = (*TINY_EFFNET, "hardware.plan=fp32_fast", "trainer.max_epochs=2", "trainer.limit_train_batches=3")
CELL += ("trainer.limit_val_batches=1", "trainer.limit_test_batches=1")


def outcome(folder):
    result = json.loads((folder / "result.json").read_text())
    weights = torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]
    return result, weights


def test_a_cell_goes_on_in_parts_and_after_a_stop_too(tmp_path, monkeypatch):
    """Memory runs out above 4 images from the fifth step on; stopped after it, the run goes on with 4 at once."""
    loss, raised, steps = Classifier._loss, [], []

    def limited(self, images, labels):
        if len(images) > 4 and self.trainer.global_step == 4:
            raised.append(len(images))
            raise CPU
        return loss(self, images, labels)

    def run(name, stop_at=None):
        steps.clear()

        def begin(self, trainer, module, batch, index):
            steps.append(1)
            if len(steps) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", begin)
        return run_cell(cell_config(*CELL, "hardware.micro_batch=auto"), tmp_path / name, "a command")

    monkeypatch.setattr(Classifier, "_loss", limited)
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})
    run("whole")
    assert raised == [8]
    with pytest.raises(SystemExit):
        run("stopped", 5)
    assert raised == [8, 8]
    run("stopped")
    assert raised == [8, 8] and len(steps) == 1
    (result, weights), (again, other) = outcome(tmp_path / "whole"), outcome(tmp_path / "stopped")
    assert result["environment"]["micro_batch"] == again["environment"]["micro_batch"] == 4
    assert result["cell"]["micro_batch"] == "auto" and result["environment"]["batch_size"] == 8
    assert all(torch.equal(weights[k], other[k]) for k in weights)
    assert result["metrics"]["test/loss"] == again["metrics"]["test/loss"]


class Module(L.LightningModule):
    def __init__(self, micro):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.micro = (
            nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double(),
            MicroBatch(micro),
        )

    def training_step(self, batch, batch_idx):
        return self.micro.loss(self.net, *batch, lambda x, y: F.cross_entropy(self.net(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.forks_training
@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 2}, {"strategy": "ddp_fork", "devices": 2}], ids=str)
def test_ranks_and_accumulation_see_no_difference(settings, tmp_path):
    torch.manual_seed(1)
    data = TensorDataset(torch.randn(40, 4).double(), torch.randint(0, 3, (40,)))
    found = []
    for micro in (None, 2):
        module = Module(micro)
        trainer = L.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            **settings,
        )
        trainer.fit(module, DataLoader(data, batch_size=5))
        found.append(module.state_dict())
    assert all(torch.allclose(value, found[1][name]) for name, value in found[0].items())
    assert not torch.equal(found[0]["net.0.weight"], Module(None).net[0].weight)


def test_without_it_the_message_says_what_to_lower(tmp_path, monkeypatch):
    def limited(self, images, labels):
        raise CPU

    monkeypatch.setattr(Classifier, "_loss", limited)
    with pytest.raises(
        ConvzooError, match=r"out of memory with 8 images.*micro_batch=auto.*data.batch_size \(it was 8\)"
    ):
        run_cell(cell_config(*CELL), tmp_path, "a command")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed" and "can't allocate memory" in result["error"] and "traceback" not in result


REAL = """
import resource, torch
from lightning_modules.hardware.micro_batch import MicroBatch
torch.set_num_threads(1)
net = torch.nn.Sequential(*[torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(8)])
images, labels = torch.randn(64, 8, 64, 64), torch.randn(64, 8, 64, 64)  # 8 MiB a layer, forward
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (60 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
micro = MicroBatch("auto")
loss = micro.loss(net, images, labels, lambda a, b: (net(a) - b).square().mean())
loss.backward()
assert micro.size < 64 and loss.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())
print("size", micro.size)
"""


def test_memory_that_runs_out_for_real():
    """A process whose address space is limited: PyTorch's own allocator says so."""
    done = subprocess.run([sys.executable, "-c", REAL], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "out of memory with" in done.stdout
