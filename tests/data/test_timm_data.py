"""Data sets that timm opens: each image once, in an order that neither processes nor stops change."""

import os
from types import SimpleNamespace

import pytest
import torch
from conftest import cell_config
from stopping import SMALL, outcome, same, stop_at_batch
from timm_files import KINDS, TRAIN, VAL, picture, write_parquet, write_shards

os.environ["HF_HUB_OFFLINE"] = "1"

from lightning_modules import run_cell
from lightning_modules.cell import Cell
from lightning_modules.config.check import check
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.data import make_data
from zoo.errors import ConvzooError

STREAMS = ("hfids", "wds")
BATCH = 8


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The keys of each kind's data set, whose files are written once."""
    folder = tmp_path_factory.mktemp("timm")
    return {kind: write(folder / kind) for kind, write in KINDS.items()}


def made(keys, *more, workers=0, rank=0, world=1, seed=0):
    """The data module of one rank."""
    group = cell_config(
        "data=timm", *keys, f"data.batch_size={BATCH}", "data.image_size=8", f"data.workers={workers}", *more
    )["data"]
    data = make_data(group, seed)
    if world > 1:
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, num_devices=world, strategy=strategy)
    return data


def batches(data, epoch=0, split="train"):
    loader = getattr(data, f"{split}_dataloader")()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def numbers(batch):
    return batch[0][:, 0, 4, 4].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_images_and_classes(kind, written):
    data = made(written[kind])
    count, val = (40, 9) if kind == "torch" else (TRAIN, VAL)
    assert data.options.num_classes == (10 if kind == "torch" else 2)
    assert data.size("train") == count and data.size("val") == val
    train, evaluated = batches(data), batches(data, split="val")
    assert len(train) == count // BATCH
    for images, labels in [*train, *evaluated]:
        assert images.shape[1:] == (3, 8, 8) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert sum(len(labels) for _, labels in evaluated) == sum(len(b[1]) for b in batches(data, split="test")) == val
    if kind != "torch":
        seen = [n for batch in evaluated for n in numbers(batch)]
        assert sorted(seen) == list(range(VAL))
        seen = {n: int(label) for b in train for n, label in zip(numbers(b), b[1], strict=True)}
        assert len(seen) == len(train) * BATCH and all(label == n % 2 for n, label in seen.items())


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 2)])
def test_each_image_once_over_ranks_and_workers(kind, world, workers, written):
    """A batch of the whole job is the same for any number of processes; the end that fills no batch is left out."""
    whole = [batches(made(written[kind]), epoch) for epoch in (0, 1)]
    for epoch in (0, 1):
        shares = [batches(made(written[kind], workers=workers, rank=r, world=world), epoch) for r in range(world)]
        for rank, share in enumerate(shares):
            for batch, expected in zip(share, whole[epoch], strict=True):
                assert torch.equal(batch[0], expected[0][rank::world])
    first, second = ([n for batch in epoch for n in numbers(batch)] for epoch in whole)
    assert len(set(first)) == len(first) == len(set(second)) == TRAIN // BATCH * BATCH
    assert first != second and first != sorted(first)
    val = [batches(made(written[kind], workers=workers, rank=r, world=world), split="val") for r in range(world)]
    assert sorted(n for share in val for batch in share for n in numbers(batch)) == list(range(VAL))


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stream_goes_on_at_the_batch_where_it_stopped(kind, workers, rank, written):
    keys = {"workers": workers, "rank": rank, "world": 2}
    undisturbed, resumed = made(written[kind], **keys), made(written[kind], **keys)
    files = undisturbed._split("train").fingerprint
    resumed.load_state_dict({"epoch": 1, "batches": 2, "files": files})
    loader = resumed.train_dataloader()
    for epoch in (1, 2):
        loader.batch_sampler.set_epoch(epoch)
        left = batches(undisturbed, epoch)[2 if epoch == 1 else 0 :]
        for ours, theirs in zip(loader, left, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    with pytest.raises(ConvzooError, match="has changed since this run was stopped"):
        resumed.load_state_dict({"epoch": 1, "batches": 2, "files": "other files"})


@pytest.mark.parametrize(("kind", "workers", "then"), [("hfids", 0, 0), ("wds", 2, 2), ("wds", 2, 0)])
def test_a_stopped_run_ends_like_an_undisturbed_one(kind, workers, then, written, tmp_path, monkeypatch):
    """Also when it goes on with another number of worker processes."""
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})
    config, other = (
        cell_config(*SMALL, "data=timm", *written[kind], "data.batch_size=8", f"data.workers={n}")
        for n in (workers, then)
    )
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 7)
        with pytest.raises(SystemExit) as stopped:
            run_cell(config, tmp_path / "stopped", "a command")
    assert stopped.value.code == 143
    run_cell(other, tmp_path / "stopped", "a command")
    run_cell(other, tmp_path / "undisturbed", "a command")
    same(outcome(tmp_path / "stopped"), outcome(tmp_path / "undisturbed"))


def test_grey_and_colour_are_what_in_chans_says(written):
    for kind in ("wds", "torch"):
        grey, colour = (
            batches(made(written[kind], f"data.in_chans={n}", *means), split="val")[0][0]
            for n, means in ((1, ["data.mean=[0]", "data.std=[1]"]), (3, []))
        )
        assert grey.shape[1] == 1 and torch.equal(grey.expand_as(colour), colour)  # grey stays as it is


def test_labels_may_stand_in_json_and_the_number_of_images_in_the_split(tmp_path):
    keys = write_shards(tmp_path / "json", label="json")
    keys[2] = f'data.train_split="train-{{0..2}}.tar|{TRAIN}"'
    data = made(keys, "data.target_key=kind", "data.num_classes=2")
    assert data.size("train") == TRAIN and len(batches(data)) == TRAIN // BATCH
    with pytest.raises(ConvzooError, match=r"no label in its \.cls file\. Type data\.target_key=KEY"):
        made(keys)


def test_a_bad_image_of_a_stream_is_replaced_counted_once_and_named(tmp_path):
    keys = write_shards(tmp_path / "bad", image=lambda n: b"no image" if n == 5 else picture(n))
    data = made(keys, "data.max_bad_images=1")
    found = [batches(data, epoch) for epoch in (0, 1, 2)]
    assert all(len(batch[1]) == BATCH for epoch in found for batch in epoch)
    assert list(data.bad.found) == [f"{tmp_path}/bad/train-0.tar: image 5"]


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("hfds", ["data.val_split=valid"], r"data\.val_split=valid cannot be read: Unknown split.*'validation'"),
        ("hfids", ["data.val_split=valid"], r"data\.val_split=valid cannot be read: Bad split.*'validation'"),
        ("wds", ["data.val_split=validation"], r"data\.val_split=validation cannot be read.*Type data\.val_split="),
        ("wds", ["data.val_split=none.tar"], r"none\.tar is missing"),
        ("folder", ["data.val_split=val2"], r"has no folder val2"),
        ("torch", ["data.val_split=validation"], r"train and test images only\. Type data\.val_split=test"),
        ("torch", ["data.source=tfds/cifar10"], r"needs TensorFlow.*Type|type data\.source=hfds"),
        ("torch", ["data.source=tv/cifar10"], r"data\.source=tv"),
        ("torch", ["data.root=null"], r"Type data\.root=FOLDER"),
        ("wds", ["data.num_classes=2", "data.in_chans=4"], r"Allowed: 1, 3"),
        ("hfds", ["data.input_key=img"], r"data\.input_key=KEY"),
        ("hfds", ["data.target_key=labels"], r"data\.target_key=KEY"),
        ("hfids", ["data.input_key=img"], r"data\.input_key=KEY"),
        ("hfids", ["data.target_key=labels"], r"data\.target_key=KEY"),
    ],
)
def test_mistakes_are_named(kind, keys, message, written):
    with pytest.raises(ConvzooError, match=message):
        made(written[kind], *keys).size("val")


def test_a_missing_package_is_named(written, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConvzooError, match=r'webdataset must be installed.*pip install "convzoo\[streams\]"'):
        made(written["wds"])


def test_the_root_is_part_of_the_data_set_only_where_it_says_which(tmp_path):
    def identity(*keys):
        spec = CellSpec.of(cell_config("data=timm", *keys))
        check(spec)
        return cell_id(spec)

    for source, differs in (("wds", True), ("folder", True), ("hfds/a/b", False), ("torch/cifar10", False)):
        ids = {identity(f"data.source={source}", f"data.root={root}") for root in ("here", "there")}
        assert len(ids) == 1 + differs


def test_a_parquet_file_that_was_cut_off_is_named(tmp_path):
    keys = write_parquet(tmp_path / "cut")
    path = tmp_path / "cut" / "train-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConvzooError, match=r"train_split=train cannot be read.*[Pp]arquet"):
        made(keys)
