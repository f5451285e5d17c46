"""`data.train_images` and `data.val_share`: the same images in every run, in proportion to the classes."""

import itertools
from collections import Counter

import pytest
import torch
from conftest import cell_config, cell_spec
from data_files import make_folder, write_fashion

from lightning_modules.config.identity import cell_id, recipe
from lightning_modules.data import DATASETS, dataset, make_data
from lightning_modules.data.subset import hold_out, stratified
from zoo import ConvzooError

LABELS = [0] * 500 + [1] * 250 + [2] * 50 + [3]


def test_every_class_has_its_share_and_a_smaller_subset_is_part_of_a_larger_one():
    sizes = [4, 40, 100, 400, 801]
    subsets = [stratified(LABELS, n) for n in sizes]
    assert [len(set(subset)) for subset in subsets] == sizes
    assert all(set(small) < set(large) for small, large in itertools.pairwise(subsets))
    assert Counter(LABELS[i] for i in subsets[0]) == dict.fromkeys(range(4), 1)
    counts = Counter(LABELS[i] for i in subsets[2])
    assert all(abs(counts[kind] - LABELS.count(kind) / 8.01) <= 1 for kind in range(4))
    assert subsets[1] == stratified(LABELS, 40) != list(range(40))


def test_what_is_held_out_leaves_each_class_an_image():
    kept, held_out = hold_out(LABELS, 0.25)
    assert sorted([*kept, *held_out]) == list(range(801)) and len(held_out) == 200
    assert {LABELS[i] for i in kept} == {0, 1, 2, 3}


def splits(*words, **changes):
    module = make_data({**cell_config(*words)["data"], **changes}, seed=7)
    module.setup()
    return [part.labels for part in module._splits]


def test_of_arrays():
    usual, part = splits("data=digits"), splits("data=digits", "data.train_images=100", "data.val_share=0.2")
    assert [len(labels) for labels in part] == [100, 305, 270] and torch.equal(usual[2], part[2])
    assert torch.bincount(part[0]).min() >= 9
    with pytest.raises(ConvzooError, match=r"train_images=1258 .* 1,257 training images of 10 classes"):
        splits("data=digits", "data.train_images=1258")
    with pytest.raises(ConvzooError, match=r"Allowed: 10 to 1257"):
        splits("data=digits", "data.train_images=9")


def test_of_a_published_set(tmp_path):
    write_fashion(tmp_path)
    found = splits("data=fashion_mnist", f"data.root={tmp_path}", "data.val_share=0.5", "data.train_images=12")
    assert [len(labels) for labels in found] == [12, 20, 9]


def test_of_a_dataset_that_lists_its_labels(monkeypatch):
    class Listed(torch.utils.data.Dataset):
        targets = [0, 1] * 10

        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.zeros(1, 8, 8), index % 2

    monkeypatch.setattr(DATASETS, "_choices", dict(DATASETS._choices))
    dataset("listed", needs_root=False)(lambda options: (Listed(), Listed(), Listed()))
    options = {**cell_config("data=digits")["data"], "name": "listed", "image_size": 8}
    assert make_data({**options, "train_images": 6}).size("train") == 6
    monkeypatch.delattr(Listed, "targets")
    with pytest.raises(ConvzooError, match="`targets`"):
        make_data({**options, "train_images": 6}).size("train")


@pytest.mark.parametrize(("others", "sizes"), [((), [8, 2]), (("val",), [8, 2, 10]), (("val", "test"), [8, 2, 10])])
def test_of_a_folder_whose_val_is_then_tested(tmp_path, others, sizes):
    make_folder(tmp_path, splits=("train", *others))
    words = ("data=imagefolder", f"data.root={tmp_path}", "data.val_share=0.2", "data.train_images=8")
    module = make_data({**cell_config(*words)["data"], "image_size": 8})
    assert [len(split) for split in module.splits] == sizes
    paths = [{path for path, _ in split.images} for split in module.splits]
    assert not paths[0] & paths[1] and module.splits[1].name == "val" and module.splits[-1].name in ("val", "test")
    assert module._split("test") is module.splits[-1] and module.splits[1].counts() == [1, 1]


def test_both_belong_to_what_was_trained_and_at_null_change_no_id():
    usual = cell_spec("data=digits")
    older = cell_config("data=digits")
    for key in ("train_images", "val_share"):
        del older["data"][key]
    assert cell_id(usual) == cell_id(type(usual).of(older))
    part = cell_spec("data=digits", "data.train_images=100", "data.val_share=0.1")
    assert cell_id(part) != cell_id(usual) and recipe(part)["data.train_images"] == 100
