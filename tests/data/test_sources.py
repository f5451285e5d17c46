"""Torch Datasets and LightningDataModules of the user's: exact order, random numbers, shards and resume."""

import json
import random

import numpy as np
import pytest
import torch
from conftest import cell_config
from lightning.pytorch import LightningDataModule
from PIL import Image
from stopping import stop_at_batch
from tiny_cell import TINY
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from lightning_modules import run_cell
from lightning_modules.data import DATASETS, ImageData, Images, dataset, make_data
from zoo import ConvzooError


class Noisy(Dataset):
    """Small images with a label each, and noise from every source of random numbers that people use."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        noise = torch.rand(1, 8, 8) * 0.2 + random.random() * 0.2 + float(np.random.rand()) * 0.2
        return index / self.count * 0.4 + noise, index % 3


class Module(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Noisy(), batch_size=5, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Noisy(9), batch_size=4)

    test_dataloader = val_dataloader


def options(**changes):
    data = cell_config("data=digits")["data"]
    augment = {"hflip": True, "crop_padding": 1}
    return {**data, "image_size": 8, "batch_size": 6, "num_classes": 3, "workers": 0, "augment": augment, **changes}


@pytest.fixture
def given(monkeypatch):
    """Registers what `data=mine` returns; the data module of it."""
    monkeypatch.setattr(DATASETS, "_choices", dict(DATASETS._choices))

    def make(value, **changes) -> ImageData:
        dataset("mine", needs_root=False)(lambda options: value)
        module = make_data(options(name="mine", **changes), seed=3)
        module.setup()
        return module

    return make


def epoch(module, number=0, rank=0, world=1, done=(0, 0)):
    loader = module.train_dataloader()
    loader.batch_sampler.epoch = number
    loader.batch_sampler.rank, loader.batch_sampler.world, loader.batch_sampler.done = rank, world, done
    return list(loader)


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("value", [(Noisy(), Noisy(9), Noisy(9)), Module()], ids=["datasets", "module"])
def test_an_image_follows_seed_epoch_and_index_only(given, value):
    alone = given(value)
    assert (alone.size("train"), alone.size("val")) == (24, 9)
    before = torch.get_rng_state(), random.getstate()
    whole = epoch(alone)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert len(whole) == 4 and whole[0][0].shape == (6, 1, 8, 8)
    assert same(whole, epoch(given(value, workers=2)))
    assert not same(whole, epoch(alone, 1))
    assert same(whole[2:], epoch(alone, done=(0, 2)))
    shares = [epoch(alone, rank=rank, world=2) for rank in range(2)]
    assert same([(x[::2], y[::2]) for x, y in whole], shares[0])
    assert same([(x[1::2], y[1::2]) for x, y in whole], shares[1])
    assert same(list(alone.val_dataloader()), list(alone.val_dataloader()))


def test_pictures_of_any_size_become_batches(given):
    class Pictures(Noisy):
        def __getitem__(self, index):
            return Image.new("L", (9 + index, 12), index), torch.tensor(index % 3)

    images, labels = next(iter(given((Pictures(), Pictures(), Images(*[None] * 2)))._loader("val")))
    assert images.shape == (24, 1, 8, 8) and images.dtype == torch.uint8
    assert images.flatten(1).float().mean(1).tolist() == list(range(24)) and labels.tolist() == [0, 1, 2] * 8


def test_floats_are_normalised_like_bytes(given):
    module = given(Module())
    bytes_ = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    both = [module.finish(x, torch.zeros(2), False, torch.float32)[0] for x in (bytes_, bytes_ / 255)]
    assert torch.allclose(*both, atol=1e-5)


class Of(Noisy):
    def __init__(self, image, label=0):
        super().__init__()
        self.item = image, label

    def __getitem__(self, index):
        return self.item


class Bare(LightningDataModule):
    train_dataloader = Module.train_dataloader


class Weighted(Module):
    def train_dataloader(self):
        return DataLoader(Noisy(), sampler=WeightedRandomSampler([1.0] * 24, 24))


class Hooked(Module):
    def on_after_batch_transfer(self, batch, dataloader_idx): ...


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "data=mine returned a int"),
        ((Noisy(), Noisy(), [1]), "a list as test"),
        (Bare(), "no val_dataloader"),
        (Weighted(), "WeightedRandomSampler in its train_dataloader"),
        (Hooked(), "on_after_batch_transfer"),
        (Of(torch.zeros(3, 8, 8)), r"image 0 of train has 3 channels: type data\.in_chans=3"),
        (Of(torch.zeros(8, 8)), r"Tensor \(8, 8\)"),
        (Of(torch.zeros(1, 8, 8), 3), r"label 3.*0 to 2"),
        (Of(torch.zeros(1, 8, 8) - 1), r"-1 to -1.*data\.mean=\[0\] data\.std=\[1\]"),
        (Of(torch.zeros(1, 8, 8, dtype=torch.int32)), "int32"),
    ],
)
def test_mistakes_are_named(given, value, text):
    with pytest.raises(ConvzooError, match=text):
        given((value, Noisy(), Noisy()) if isinstance(value, Of) else value)


def test_a_stopped_run_ends_like_an_undisturbed_one(given, tmp_path, monkeypatch):
    given(Module())
    config = cell_config(*TINY, "trainer.max_epochs=2", "trainer.limit_train_batches=1.0", "checkpoint.every_s=0")
    config["data"] = options(name="mine")
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 6)
        with pytest.raises(SystemExit):
            run_cell(config, tmp_path / "stopped", "a command")
    for folder in ("stopped", "whole"):
        assert run_cell(config, tmp_path / folder, "a command")["status"] == "completed"
    ends = [(tmp_path / folder / "epochs.jsonl").read_text().splitlines()[-1] for folder in ("stopped", "whole")]
    losses = [{key: json.loads(end)[key] for key in ("train/loss", "val/loss")} for end in ends]
    assert losses[0] == losses[1]
