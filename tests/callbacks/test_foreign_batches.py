"""Number of images in any batch, and cost of any network: what reaches the network counts."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import UserDict
from dataclasses import dataclass
from itertools import pairwise

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lightning_modules import CostLogger, SpeedLogger
from lightning_modules.callbacks import speed_logger

SIZES = (4, 5, 4, 6, 4, 4, 3, 2)
"""Batches of several sizes, the last one small."""

CONV = 3 * 9 * 2
"""MACs of the convolution for each pixel."""


class Custom:
    def __init__(self, pixels, label) -> None:
        self.pixels, self.label = pixels, label

    def to(self, device):
        return Custom(self.pixels.to(device), self.label.to(device))


class Slots:
    __slots__ = ("label", "pixels")

    def __init__(self, pixels, label) -> None:
        self.pixels, self.label = pixels, label


@dataclass
class Sample:
    boxes: torch.Tensor
    pixels: torch.Tensor


class Module(L.LightningModule):
    def __init__(self, step, forward=None, manual=False) -> None:
        super().__init__()
        self.step, self.how = step, forward
        self.automatic_optimization = not manual
        self.net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.other = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.flat = nn.Linear(3 * 64, 2, bias=False)
        self.make = nn.Sequential(nn.Linear(5, 3 * 64), nn.Unflatten(1, (3, 8, 8)))
        self.judge = copy.deepcopy(self.net).requires_grad_(False)
        self.words = nn.Embedding(9, 2)
        self.criterion, self.augment = nn.MSELoss(), nn.Upsample(scale_factor=2)

    def forward(self, *arguments, **named):
        return (self.how or (lambda self, x: self.net(x)))(self, *arguments, **named)

    def training_step(self, batch, batch_idx):
        return self.step(self, batch)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.01)
        return optimizer if self.automatic_optimization else [optimizer, torch.optim.SGD(self.other.parameters(), 0.01)]


def image(n, size=8, channels=3):
    return torch.randn(n, channels, size, size)


def several(n):
    return [torch.randn(3, 8 + 2 * i, 8) for i in range(n)]


def gan(self, batch):
    for optimizer, real in zip(self.optimizers(), (True, False), strict=True):
        made = self(torch.randn(len(batch[0]), 5))
        score = self.other(made.detach() if real else made).mean()
        loss = score - self.other(batch[0]).mean() if real else score
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def views(self, batch):
    (one, other), _ = batch
    return self.criterion(self(one), self(other))


def logs(self, batch):
    self.log("loss", 0.0, batch_size=10 * len(batch[0]), on_epoch=True)
    self.log("boxes", 0.0, batch_size=99)
    return self(batch[0]).mean()


KINDS = {
    # How a batch of n is made, what the step does, images for each n, MACs for one image.
    "tensor": (image, lambda self, b: self(b).mean(), 1, CONV * 64),
    "pair": (lambda n: (image(n), torch.zeros(n)), lambda self, b: self(b[0]).mean(), 1, CONV * 64),
    "label first": (lambda n: (torch.zeros(n), image(n)), lambda self, b: self(b[1]).mean(), 1, CONV * 64),
    "dictionary": (lambda n: {"image": image(n)}, lambda self, b: self(b["image"]).mean(), 1, CONV * 64),
    "named": (lambda n: {"x": image(n)}, lambda self, b: self(**b).mean(), 1, CONV * 64),
    "super-resolution": (
        lambda n: {"hr": image(n, 16), "lr": image(n)},
        lambda self, b: self(b["lr"]).mean() + self.judge(b["hr"]).mean(),
        1,
        CONV * 64,
    ),
    "segmentation": (
        lambda n: {"mask": image(n, 4, 1), "image": image(n)},
        lambda self, b: self.criterion(self(b["image"]).mean((0, 1)), b["mask"].mean()),
        1,
        CONV * 64,
    ),
    "detection": (
        lambda n: tuple(zip(*((x, {"boxes": torch.zeros(7, 4)}) for x in several(n)), strict=True)),
        lambda self, b: sum(self.net(x[None]).mean() for x in b[0]),
        1,
        CONV * 64,
    ),
    "detection network": (
        lambda n: tuple(zip(*((x, {"boxes": torch.zeros(7, 4)}) for x in several(n)), strict=True)),
        (lambda self, b: self(list(b[0]), list(b[1])), lambda self, x, y: sum(self.net(i[None]).mean() for i in x)),
        1,
        CONV * 64,
    ),
    "images": (
        lambda n: [torch.randn(3, 8, 8) for _ in range(n)],
        lambda self, b: self(torch.stack(b)).mean(),
        1,
        CONV * 64,
    ),
    "dataclass": (
        lambda n: Sample(torch.zeros(9 * n, 4), image(n)),
        lambda self, b: self(b.pixels).mean(),
        1,
        CONV * 64,
    ),
    "UserDict": (
        lambda n: UserDict(pixels=image(n), n=torch.zeros(1)),
        lambda self, b: self(b["pixels"]).mean(),
        1,
        CONV * 64,
    ),
    "object": (lambda n: Custom(image(n), torch.zeros(n)), lambda self, b: self(b.pixels).mean(), 1, CONV * 64),
    "slots": (lambda n: Slots(image(n), torch.zeros(n)), lambda self, b: self(b.pixels).mean(), 1, CONV * 64),
    "whole batch": (
        lambda n: {"meta": torch.zeros(1), "image": image(n)},
        (lambda self, b: self(b).mean(), lambda self, batch: self.net(batch["image"])),
        1,
        CONV * 64,
    ),
    "two views": (lambda n: ([image(n), image(n)], torch.zeros(n)), views, 2, CONV * 64),
    "views together": (
        lambda n: ([image(n), image(n)], torch.zeros(n)),
        lambda self, b: self(torch.cat(b[0])).mean(),
        2,
        CONV * 64,
    ),
    "teacher": (
        lambda n: (image(n),),
        lambda self, b: self.criterion(self.net(b[0]), self.other(b[0])),
        1,
        2 * CONV * 64,
    ),
    "volume": (
        lambda n: torch.randn(n, 5, 3, 8, 8),
        (lambda self, b: self(b).mean(), lambda self, x: self.net(x.flatten(0, 1))),
        1,
        5 * CONV * 64,
    ),
    "channels last": (
        lambda n: torch.zeros(n, 8, 8, 3, dtype=torch.uint8),
        (lambda self, b: self(b).mean(), lambda self, x: self.net(x.permute(0, 3, 1, 2) / 255)),
        1,
        CONV * 64,
    ),
    "channels moved": (
        lambda n: torch.zeros(n, 8, 8, 3, dtype=torch.uint8),
        lambda self, b: self(b.permute(0, 3, 1, 2) / 255).mean(),
        1,
        CONV * 64,
    ),
    "augmented": (image, lambda self, b: self(self.augment(b)).mean(), 1, CONV * 256),
    "flat": (lambda n: (image(n), torch.zeros(n)), lambda self, b: self.flat(b[0].flatten(1)).mean(), 1, 3 * 64 * 2),
    "probe": (
        lambda n: (image(n),),
        lambda self, b: self.criterion(self.judge(b[0]), self.flat(b[0].flatten(1))),
        1,
        CONV * 64 + 3 * 64 * 2,
    ),
    "log": (lambda n: (image(n),), logs, 10, CONV * 64),
    "GAN": (
        lambda n: (image(n), torch.zeros(n)),
        (gan, lambda self, z: self.make(z), True),
        1,
        5 * 3 * 64,
    ),
    "labelled and not": (
        lambda n: CombinedLoader,
        lambda self, b: self(b["a"][0]).mean() + self(b["b"][0]).mean(),
        2,
        CONV * 64,
    ),
}


class Given:
    """A loader of these batches."""

    def __init__(self, batches) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def loader(make):
    if make(1) is CombinedLoader:
        one, other = (Given([(image(n), torch.zeros(n)) for n in SIZES]) for _ in range(2))
        return CombinedLoader({"a": one, "b": other})
    return Given([make(n) for n in SIZES])


def fit(module, data, *callbacks, **settings):
    settings = {"max_epochs": 1, **settings}
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trainer.fit(module, data)
    return [str(w.message) for w in warned if "Logger" in str(w.message) and "no logger" not in str(w.message)]


class Counted(SpeedLogger):
    """Writes down how many images it counts in each batch."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.counted = []

    def _read(self, batches):
        self.counted += [images for _, images in self._unread[:batches]]
        return super()._read(batches)


def build(step) -> Module:
    return Module(*step) if isinstance(step, tuple) else Module(step)


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_macs_are_what_the_network_is_given(kind) -> None:
    make, step, factor, macs = KINDS[kind]
    cost, speed = CostLogger(), Counted()
    warned = fit(module := build(step), loader(make), cost, speed)
    assert speed.counted == [n * factor for n in SIZES] and not warned
    assert cost.metrics["cost/macs"] == macs and cost.metrics["cost/params"] == sum(
        p.numel() for p in module.parameters()
    )
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


class Graph:
    """As torch_geometric's: nodes of all graphs in one tensor."""

    def __init__(self, n) -> None:
        self.x, self.edge_index = torch.randn(30, 5), torch.zeros(2, 60, dtype=torch.long)
        self.batch, self.num_graphs = torch.zeros(30, dtype=torch.long), n


NO_IMAGES = {
    "text": (lambda n: torch.zeros(n, 7, dtype=torch.long), lambda self, b: self.words(b).mean()),
    "table": (lambda n: (torch.randn(n, 5), torch.zeros(n)), lambda self, b: self.make(b[0]).mean()),
    "graph": (Graph, lambda self, b: self.make(b.x).mean()),
    "sequences": (lambda n: (torch.randn(n, 7, 5), torch.randn(n, 7, 5)), lambda self, b: self.make[0](b[0]).mean()),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_where_there_are_no_images_one_line_says_so(kind) -> None:
    make, step = NO_IMAGES[kind]
    cost, speed = CostLogger(), SpeedLogger()
    warned = fit(Module(step), loader(make), cost, speed, max_epochs=3)
    assert speed.metrics == {} and list(cost.metrics) == ["cost/params"]
    assert sorted(line.split()[0] for line in warned) == ["CostLogger", "SpeedLogger"]
    speed = Counted(images=lambda batch: 17)
    assert fit(Module(step), loader(make), speed) == [] and set(speed.counted) == {17}


def test_what_is_said_has_the_last_word() -> None:
    make, step, _, _ = KINDS["pair"]
    module = Module(step)
    module.example_input_array = image(2, 12)
    cost, speed = CostLogger(), Counted(images=lambda batch: 3 * len(batch[0]))
    fit(module, loader(make), cost, speed)
    assert cost.metrics["cost/macs"] == CONV * 144 and speed.counted == [3 * n for n in SIZES]
    for cost, size in (
        (CostLogger(20), 20),
        (CostLogger(inputs=image(1, 6)), 6),
        (CostLogger(inputs=(image(1, 5),)), 5),
    ):
        fit(module, loader(make), cost)
        assert cost.metrics["cost/macs"] == CONV * size**2
    fit(module, loader(make), cost := CostLogger(inputs={"x": image(1, 5)}))
    assert cost.metrics["cost/macs"] == CONV * 25


def compile_whole(module):
    return torch.compile(module, backend="eager")


def compile_in_place(module):
    module.compile(backend="eager")
    return module


def compile_part(module):
    module.net = torch.compile(module.net, backend="eager")
    return module


def compile_part_in_place(module):
    module.net.compile(backend="eager")
    return module


def compile_step(module):
    module.training_step = torch.compile(module.training_step, backend="eager")
    return module


COMPILED = (compile_whole, compile_in_place, compile_part, compile_part_in_place, compile_step)


@pytest.mark.parametrize("kind", ["pair", "dictionary", "super-resolution", "two views", "dataclass", "log"])
@pytest.mark.parametrize("how", COMPILED)
def test_compiled_modules_are_counted_as_others(how, kind) -> None:
    make, step, factor, macs = KINDS[kind]
    cost, speed = CostLogger(), Counted()
    torch.compiler.reset()
    module = build(step)
    warned = fit(how(module), loader(make), cost, speed)
    assert speed.counted == [n * factor for n in SIZES] and not warned
    assert cost.metrics["cost/macs"] == macs and cost.metrics["cost/params"] == sum(
        p.numel() for p in module.parameters()
    )


@pytest.mark.parametrize("how", ["module", "step"])
def test_a_compiled_step_is_compiled_once(how) -> None:
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    def count(*callbacks):
        torch.compiler.reset()
        compiled.clear()
        module = Module(lambda self, b: self(b[0]).mean())
        if how == "module":
            given = torch.compile(module, backend=backend)
        else:
            module.training_step, given = torch.compile(module.training_step, backend=backend), module
        fit(given, Given([(image(4),)] * 12), *callbacks)
        return len(compiled)

    assert count(CostLogger(), SpeedLogger()) <= count() + 1


class Copies(L.Callback):
    """What others do with a module while it is trained."""

    def on_train_batch_start(self, trainer, module, *_):
        self.copy = copy.deepcopy(module.net)
        pickle.dumps(module.net)

    on_train_batch_end = on_train_batch_start


def test_a_module_can_be_copied_and_pickled_meanwhile() -> None:
    fit(Module(lambda self, b: self(b).mean()), Given([image(4)] * 5), CostLogger(), SpeedLogger(), Copies())
    pickle.dumps((CostLogger(), SpeedLogger()))


def test_two_loggers_count_alike() -> None:
    """One of the project's own, and one that was asked for by the environment."""
    make, step, factor, _ = KINDS["log"]
    loggers = Counted(), Counted(), CostLogger(), CostLogger()
    fit(module := Module(step), loader(make), *loggers)
    assert all(speed.counted == [n * factor for n in SIZES] for speed in loggers[:2]) and "log" not in vars(module)
    assert loggers[2].metrics == loggers[3].metrics


def test_ranks_that_wrap_the_module_count_alike() -> None:
    make, step, _, macs = KINDS["pair"]
    cost, speed = CostLogger(), Counted()
    fit(Module(step), loader(make), cost, speed, strategy="ddp_find_unused_parameters_true", devices=1)
    assert speed.counted == list(SIZES) and cost.metrics["cost/macs"] == macs


def test_a_window_of_a_gpu_is_read_when_the_next_is_full(monkeypatch) -> None:
    speed = Counted(window=3)
    start = SpeedLogger.on_train_start

    def on_train_start(self, trainer, module):
        start(self, trainer, module)
        self._batches = self.window

    monkeypatch.setattr(SpeedLogger, "on_train_start", on_train_start)
    fit(Module(lambda self, b: self(b).mean()), Given([image(4)] * (speed_logger.WARMUP + 7)), speed)
    assert len(speed._samples) == 2 and all(a != b for a, b in pairwise(speed._samples))


def test_scripted_parts_do_not_end_their_training() -> None:
    make, step, _, _ = KINDS["pair"]
    module = Module(step)
    module.net = torch.jit.script(module.net)
    cost, speed = CostLogger(), Counted()
    fit(module, loader(make), cost, speed)
    assert speed.counted == list(SIZES) and cost.metrics["cost/params"]
