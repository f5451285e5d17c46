"""A data set of the user's, registered by a plugin: `data=NAME` without a YAML, in memory or not."""

import sys

import pytest
from conftest import cell_config, cell_spec
from hydra.core.config_store import ConfigStore

from hydra_plugins.convzoo._plugins import load_named
from lightning_modules.data import DATASETS
from zoo import plugins

PLUGIN = """
import torch
import lightning_modules
from lightning_modules.data import Images, Splits


@lightning_modules.dataset("crops", needs_root=False, num_classes=2, in_chans=1, augment={"hflip": True})
def crops(options) -> Splits:
    def make(n):
        return Images(torch.zeros(n, 1, 9, 9, dtype=torch.uint8), torch.arange(n) % 2)

    return Splits(make(64), make(16), make(16))


@lightning_modules.dataset("tiles")
def tiles(options): ...
"""


@pytest.fixture
def crops(tmp_path, monkeypatch):
    """A folder with the plugin `crops_zoo`, as the working directory; nothing stays registered afterwards."""
    (tmp_path / "crops_zoo.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(DATASETS, "_choices", dict(DATASETS._choices))
    store = ConfigStore.instance().repo
    before = {group: dict(store.get(group, {})) for group in ("data", "convzoo")}
    yield tmp_path
    store |= before
    sys.modules.pop("crops_zoo", None)


def test_what_the_decorator_leaves_out_is_usual(crops):
    load_named(["plugins=[crops_zoo]"])
    data = cell_spec("plugins=[crops_zoo]", "data=crops", "data.epochs=5").data
    assert (data.num_classes, data.epochs, data.mean, data.augment.hflip, data.root) == (2, 5, [0.5], True, None)
    assert data.augment.given == cell_spec("data=digits").data.augment.given
    assert cell_config("data=tiles", "data.root=x", "data.num_classes=4")["data"]["std"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["data=crop"], ["data=crop does not exist", "data=crops"]),
        (["data=crops", "data.epoch=3"], ["data.epoch", "data.epochs"]),
        (["data=crops", "data.images=3"], ["data.images belongs to data=synthetic"]),
        (["data=tiles"], ["data.root=VALUE"]),
        (["data=tiles", "data.root=x"], ["data.num_classes=VALUE"]),
    ],
)
def test_mistakes_get_the_messages_of_our_data_sets(crops, train, words, names):
    done = train("plugins=[crops_zoo]", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in names), done.stderr


def test_a_file_of_the_users_wins(crops, train):
    (crops / "conf/data").mkdir(parents=True)
    (crops / "conf/data/crops.yaml").write_text("defaults: [digits, _self_]\nname: crops\nepochs: 7\n")
    done = train("plugins=[crops_zoo]", "data=crops", "--config-dir=conf", "--cfg=job", "--package=data")
    assert done.returncode == 0 and "epochs: 7" in done.stdout and "rotate: 10" in done.stdout, done.stderr
