"""Data sets in their real formats (small ones, made here), exact batches, augmentation."""

import itertools

import pytest
import torch
from conftest import cell_config
from data_files import TEN, make_folder, publish, write_cifar, write_fashion
from torchvision.datasets import CIFAR10, CIFAR100

from lightning_modules.data import make_data
from lightning_modules.data.batches import ShardedBatches
from lightning_modules.data.store import Store, TensorLoader
from zoo import ConvzooError

__all__ = ["publish"]


def loaders(data, seed=0):
    module = make_data(data, seed)
    module.prepare_data()
    module.setup("fit")
    return module, module.train_dataloader(), module.val_dataloader(), module.test_dataloader()


def count(loader):
    return sum(len(labels) for _, labels in loader)


def test_digits_are_split_once_and_stratified():
    data = cell_config("data=digits")["data"]
    module, _, val, test = loaders(data)
    sizes = [len(split.labels) for split in module._splits]
    assert sizes == [1257, 270, 270]
    assert count(val) == count(test) == 270
    for split in module._splits:
        shares = torch.bincount(split.labels, minlength=10) / len(split.labels)
        assert (shares - 0.1).abs().max() < 0.01
    assert module._splits.train.images.shape[1:] == (1, 32, 32)
    again = make_data(data, seed=5)
    again.setup()
    assert torch.equal(again._splits.test.images, module._splits.test.images), (
        "the split must not follow the run's seed"
    )


def test_cifar10_in_its_real_format(tmp_path, publish):
    write_cifar(tmp_path, "cifar-10-batches-py", TEN, "labels", 10)
    publish(CIFAR10, tmp_path / "cifar-10-batches-py")
    data = cell_config("data=cifar10", f"data.root={tmp_path}", "data.batch_size=16")["data"]
    module, train, val, test = loaders(data)
    assert (len(module._splits.train.labels), count(val), count(test)) == (80, 20, 15)
    images, _ = next(iter(train))
    assert images.shape == (16, 3, 32, 32) and images.dtype == torch.uint8


def test_cifar100_in_its_real_format(tmp_path, publish):
    write_cifar(tmp_path, "cifar-100-python", {"train": 50, "test": 7}, "fine_labels", 100)
    publish(CIFAR100, tmp_path / "cifar-100-python")
    _, train, val, test = loaders(cell_config("data=cifar100", f"data.root={tmp_path}", "data.batch_size=8")["data"])
    assert (count(train), count(val), count(test)) == (40, 10, 7)


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_in_its_real_format(tmp_path, packed):
    write_fashion(tmp_path, packed)
    data = cell_config("data=fashion_mnist", f"data.root={tmp_path}", "data.batch_size=8")["data"]
    module, train, val, test = loaders(data)
    assert (count(train), count(val), count(test)) == (32, 8, 9)
    assert module._splits.train.images.shape[1:] == (1, 28, 28)


def test_imagefolder(tmp_path):
    make_folder(tmp_path)
    data = cell_config("data=imagefolder", f"data.root={tmp_path}", "data.batch_size=4", "data.workers=0")["data"]
    module, train, val, test = loaders({**data, "image_size": 24})
    assert module.options.num_classes == 2
    assert (count(train), count(val), count(test)) == (8, 10, 10)
    images, labels = next(iter(train))
    assert images.shape == (4, 3, 24, 24) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    make_folder(tmp_path, splits=("test",), n=3)
    assert count(make_data({**data, "image_size": 24}).test_dataloader()) == 6


def test_imagefolder_mistakes_are_named(tmp_path):
    def start(root, **changes):
        data = cell_config("data=imagefolder", f"data.root={root}", "data.workers=0")["data"]
        return loaders({**data, "image_size": 24, **changes})

    with pytest.raises(ConvzooError, match=r"data\.root=ROOT"):
        start(tmp_path)
    make_folder(tmp_path, splits=("train",))
    with pytest.raises(ConvzooError, match="val is missing"):
        start(tmp_path)
    make_folder(tmp_path, splits=("val",), classes=("ant", "wasp"))
    with pytest.raises(ConvzooError, match=r"Missing: bee\. Not in train: wasp"):
        start(tmp_path)
    with pytest.raises(ConvzooError, match=r"num_classes=1000\b.* 2 "):
        start(tmp_path, num_classes=1000)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_a_missing_data_set_says_what_to_type(tmp_path, name):
    module = make_data(cell_config(f"data={name}", f"data.root={tmp_path}")["data"])
    with pytest.raises(ConvzooError, match=r"data\.download=true"):
        module.setup("fit")


def test_synthetic():
    data = cell_config("data=synthetic", "data.image_size=16", "data.images=64", "data.num_classes=3")["data"]
    module, train, val, test = loaders(data)
    assert (count(train), count(val), count(test)) == (64, 8, 8)
    assert module._splits.train.labels.max() == 2


# Batches


def lists(batches):
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("n", [7, 64, 101])
def test_training_batches_are_the_same_images_on_any_number_of_ranks(n, world):
    alone = ShardedBatches(n, 8, True, seed=3)
    ranks = [ShardedBatches(n, 8, True, seed=3, rank=r, world=world) for r in range(world)]
    for epoch in (0, 1):
        for batches in (alone, *ranks):
            batches.set_epoch(epoch)
        whole = lists(alone)
        assert len(whole) == len(alone) and all(len(set(b)) == len(b) for b in whole)
        for i, batch in enumerate(whole):
            shares = [lists(r)[i] for r in ranks]
            assert sorted(itertools.chain(*shares)) == sorted(batch)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    first = lists(ShardedBatches(n, 8, True, seed=3))
    assert first == lists(ShardedBatches(n, 8, True, seed=3)), "the order follows the seed"
    assert first != lists(alone), "the second epoch has another order"
    assert first != lists(ShardedBatches(n, 8, True, seed=4))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 11, 64])
def test_evaluation_sees_every_image_exactly_once(n, world):
    seen = []
    for rank in range(world):
        batches = ShardedBatches(n, 4, False, rank=rank, world=world)
        mine = lists(batches)
        assert len(mine) == len(batches)
        seen += itertools.chain(*mine)
    assert sorted(seen) == list(range(n))


def test_a_batch_that_cannot_be_shared_out_is_refused():
    class FakeTrainer:
        global_rank, world_size, training = 0, 3, True

    module = make_data(cell_config("data=digits")["data"])
    module.trainer = FakeTrainer()
    module.setup("fit")
    with pytest.raises(ConvzooError, match=r"data\.batch_size=33"):
        module.train_dataloader()


def test_tensor_loader_pairs_images_with_their_labels():
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    for x, y in TensorLoader(Store(images), torch.arange(20), ShardedBatches(20, 6, True)):
        assert torch.equal(x.flatten().long(), y)
