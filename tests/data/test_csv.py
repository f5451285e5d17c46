"""`data=csv`, and the order of the classes."""

import csv

import pytest
from conftest import cell_config
from data_files import make_folder
from tiny_cell import TINY

from lightning_modules import run_cell
from lightning_modules.data import make_data
from zoo import ConvzooError
from zoo.__main__ import main


@pytest.fixture
def images(tmp_path):
    """Ten images of each of two classes, in tmp_path/train/CLASS."""
    make_folder(tmp_path, splits=("train",), n=10)
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))


def write(folder, rows, columns=("file", "label")):
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "labels.csv"


def module(file, *words, **changes):
    data = cell_config("data=csv", f"data.file={file}", "data.workers=0", *words)["data"]
    return make_data({**data, "image_size": 8, "batch_size": 4, **changes})


def of(path):
    return "bee" if "bee" in path else "ant"


def test_without_a_split_val_and_test_are_held_out(tmp_path, images):
    data = module(write(tmp_path, [(path, of(path)) for path in images]), "data.test_share=0.2")
    assert [(split.name, split.counts()) for split in data.splits] == [
        ("train", [7, 7]),
        ("val", [1, 1]),
        ("test", [2, 2]),
    ]
    assert len({path for split in data.splits for path, _ in split.images}) == 20
    pixels, labels = next(iter(data.train_dataloader()))
    assert pixels.shape == (4, 3, 8, 8) and set(labels.tolist()) <= {0, 1}


def test_a_split_and_another_root(tmp_path, images):
    names = ["train"] * 12 + ["val"] * 3 + ["test"] * 5
    rows = [(path, 10 if of(path) == "bee" else 9, name) for path, name in zip(images, names, strict=True)]
    (tmp_path / "elsewhere").mkdir()
    file = write(tmp_path / "elsewhere", rows, ("file", "label", "split"))
    data = module(file, f"data.root={tmp_path}")
    assert [len(split) for split in data.splits] == [12, 3, 5] and data.classes == ["9", "10"]
    more = module(file, f"data.root={tmp_path}", "data.val_share=0.25", "data.train_images=6")
    assert [len(split) for split in more.splits] == [6, 3, 5]
    assert {path for path, _ in more.splits[1].images}.isdisjoint(path for path, _ in data.splits[1].images)


@pytest.mark.parametrize(
    ("rows", "columns", "names"),
    [
        ([], ("file", "label"), "lists no images"),
        ([("a", 1)], ("path", "label"), "no column file.*path,label"),
        ([("a", 1), ("./a", 2)], ("file", "label"), r"line 3: \./a is in line 2 already, as 1"),
        ([("a", 1, "train"), ("b", 2, "dev")], ("file", "label", "split"), "line 3: split dev. Allowed: train, val"),
        ([("a", 1, "val")], ("file", "label", "split"), "no line whose split is train"),
        ([("a", "")], ("file", "label"), "line 2: no label"),
        ([("a", 1)], ("file", "label"), "only one class"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, rows, columns, names):
    with pytest.raises(ConvzooError, match=names):
        module(write(tmp_path, rows, columns))
    with pytest.raises(ConvzooError, match=r"Type data\.file"):
        module(tmp_path / "none.csv")


def test_the_check_names_missing_files(tmp_path, images, capsys):
    file = write(tmp_path, [*((path, of(path)) for path in images), ("gone.png", "ant")])
    assert main(["data-check", str(file), "--workers", "0"]) == 1
    assert "missing file" in (said := capsys.readouterr().out) and "gone.png" in said
    with pytest.raises(ConvzooError, match=r"gone\.png: missing file"):
        module(file, "data.max_bad_images=0").look()


def test_a_run(tmp_path, images):
    file = write(tmp_path, [(path, of(path)) for path in images])
    config = cell_config(*TINY, "data=csv", f"data.file={file}", "data.workers=0")
    assert run_cell(config, tmp_path / "run", "a command")["status"] == "completed"


def test_the_order_of_the_classes(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("bee\nant\n")

    def folder(classes):
        words = ("data=imagefolder", f"data.root={tmp_path}", f"data.classes={classes}")
        return make_data({**cell_config(*words)["data"], "image_size": 8})

    for given in ("[bee,ant]", tmp_path / "classes.txt"):
        assert folder(given).classes == ["bee", "ant"]
        assert all("bee" in path for path, label in folder(given).splits[1].images if label == 0)
    for wrong, text in [("[bee]", "Not in data.classes: ant"), ("[bee,ant,wasp]", "wasp"), ("[bee,ant,ant]", "twice")]:
        with pytest.raises(ConvzooError, match=text):
            folder(wrong)
    with pytest.raises(ConvzooError, match=r"none\.txt cannot be read"):
        folder(tmp_path / "none.txt")
