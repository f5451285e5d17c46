"""convzoo in another project: the wheel (and an editable install) in a fresh environment."""

import json
import os
import subprocess

import pytest
from conftest import ROOT, env_in
from installed import install


@pytest.fixture(scope="module", params=["wheel", "editable"])
def fresh(request, tmp_path_factory):
    """The Python of a new environment with convzoo installed; torch and the like are borrowed."""
    return install(tmp_path_factory.mktemp(request.param), editable=request.param == "editable")


@pytest.fixture(scope="module")
def folder(fresh):
    """Where their script lies."""
    (folder := fresh.parents[2] / "theirs").mkdir()
    return folder


@pytest.fixture(scope="module")
def run(fresh, folder):
    env = {k: v for k, v in env_in(folder).items() if k != "PYTHONPATH"}

    def script(code: str, *arguments: str) -> str:
        (folder / "theirs.py").write_text(code)
        done = subprocess.run(
            [fresh, "theirs.py", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return script


def test_the_page_of_the_report_is_in_the_package(run):
    assert "Pareto" in run("from zoo.report import page; print(page.render({}))")


THEIRS = """
import csv, importlib, json, os, pathlib, torch
from torch import nn

items = [{"image": torch.randn(3, 12, 12), "label": i % 2} for i in range(64)]
data = torch.utils.data.DataLoader(items, batch_size=8)

def fit(library, name, callbacks=(), data=data):
    L = importlib.import_module(library)
    loggers = importlib.import_module(library + ".loggers")

    class Theirs(L.LightningModule):
        def __init__(self):
            super().__init__()
            conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.body = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        def forward(self, x):
            return self.body(x)
        def training_step(self, batch, i):
            return nn.functional.cross_entropy(self(batch["image"]), batch["label"])
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    logger = loggers.CSVLogger(".", name=name)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=list(callbacks), logger=logger, enable_progress_bar=False
    )
    trainer.fit(Theirs(), data)
    rows = [row for path in pathlib.Path(name).rglob("metrics.csv") for row in csv.DictReader(path.open())]
    return {
        "callbacks": [type(c).__name__ for c in trainer.callbacks if "Logger" in type(c).__name__],
        "metrics": sorted(trainer.callback_metrics),
        "logged": {k: float(v) for row in rows for k, v in row.items() if v and k.startswith(("cost/", "speed/"))},
    }

libraries = ("lightning.pytorch", "pytorch_lightning")
found = {"off " + library: fit(library, "off " + library) for library in libraries}
os.environ["CONVZOO_CALLBACKS"] = "cost,speed"
found |= {"on " + library: fit(library, "on " + library) for library in libraries}
del os.environ["CONVZOO_CALLBACKS"]

from lightning_modules import CostLogger, SpeedLogger

found["both"] = fit(libraries[0], "both", [CostLogger(), SpeedLogger()])
found["speed"] = fit(libraries[0], "speed", [SpeedLogger()])

import zoo

net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
found["rewritten"] = len(zoo.rewrite(net, "spatial").rewritten)
found["logits"] = zoo.build("resnet18", "separable", num_classes=2)(torch.zeros(2, 3, 32, 32)).shape[1]
print(json.dumps(found))
"""
EXPECTED = {"cost/params": 8 * 27 + 18, "cost/macs": 144 * 8 * 27 + 16, "cost/activations": 144 * 8 + 2}


@pytest.fixture(scope="module")
def theirs(run):
    """What their script found, which imports Lightning once for all tests."""
    return json.loads(run(THEIRS).splitlines()[-1])


def check_logged(logged: dict[str, float]) -> None:
    assert {k: logged[k] for k in EXPECTED} == EXPECTED
    assert logged["speed/train_images_per_s"] > 0 and logged["speed/train_images_per_s_iqr"] >= 0


def test_callbacks_in_their_trainer(theirs):
    check_logged(theirs["both"]["logged"])
    assert "speed/train_images_per_s" in theirs["speed"]["metrics"]


@pytest.mark.parametrize("library", ["lightning.pytorch", "pytorch_lightning"])
def test_the_entry_point_is_off_unless_asked_for(theirs, library):
    assert theirs[f"off {library}"]["callbacks"] == [] and theirs[f"off {library}"]["logged"] == {}
    assert theirs[f"on {library}"]["callbacks"] == ["CostLogger", "SpeedLogger"]
    check_logged(theirs[f"on {library}"]["logged"])


def test_the_zoo_on_their_network(theirs):
    assert (theirs["rewritten"], theirs["logits"]) == (1, 2)


def test_the_installed_package_is_what_is_imported(run, fresh):
    out = run(
        "import zoo, lightning_modules, hydra_plugins.convzoo as plugin\n"
        "print(zoo.__file__, lightning_modules.__file__, plugin.__file__)"
    )
    assert str(ROOT) + os.sep not in out and str(fresh.parents[2]) in out


def test_their_hydra_application_has_the_groups_without_collisions(run, folder):
    theirs = folder / "theirs"
    (theirs / "model").mkdir(parents=True)
    (theirs / "model" / "resnet.yaml").write_text("mine: true\n")
    (theirs / "config.yaml").write_text(
        "defaults:\n  - model: resnet\n  - convzoo/model: effnet\n  - convzoo/conv: native\n"
        "  - convzoo/act@activation: swish\n  - _self_\n"
    )
    code = (
        "import hydra, json\nfrom omegaconf import OmegaConf\n"
        "@hydra.main(version_base='1.3', config_path='theirs', config_name='config')\n"
        "def main(cfg): print(json.dumps(OmegaConf.to_container(cfg)))\nmain()\n"
    )
    config = json.loads(run(code, "convzoo/conv=spatial", "convzoo.model.variant=b3"))
    assert config["model"] == {"mine": True}
    assert config["convzoo"]["model"]["name"] == "effnet" and config["convzoo"]["model"]["variant"] == "b3"
    assert config["convzoo"]["conv"]["name"] == "spatial" and config["activation"] == {"name": "swish"}
    assert "\nmodel: resnet\n" in run(code, "--help"), "their model group must hold their options only"
