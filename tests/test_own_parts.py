"""A user's own callbacks, module, loss and augmentation: chosen by name or by ``_target_`` in a file."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import QUICK, cell_config, cell_spec
from stopping import SMALL, outcome, same, stop_at_batch
from tiny_cell import TINY

import lightning_modules
import zoo
from lightning_modules import run_cell
from lightning_modules.config.check import check
from lightning_modules.config.columns import columns
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.data.augmentations import AUGMENTATIONS
from lightning_modules.losses import LOSSES, check_loss
from lightning_modules.optimizer import make_optimizer
from lightning_modules.resolve import resolve
from zoo import plugins

UNSMOOTHED = "optim.label_smoothing=0"
READY = ("early_stopping", "lr_monitor", "model_checkpoint", "rich_progress", "ema", "swa")


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The plugin, and nothing of it afterwards."""
    monkeypatch.setattr(plugins, "_loaded", {})
    for registry in (LOSSES, AUGMENTATIONS):
        monkeypatch.setattr(registry, "_choices", dict(registry._choices))
    import sys

    sys.modules.pop("own_parts", None)
    zoo.load_plugins(["own_parts"])


def config(*overrides, **groups):
    """A tiny cell, with some groups as a user's files would have them."""
    return cell_config(*TINY, *overrides) | groups


COUNT = {"count": {"_target_": "own_parts.CountSteps", "path": "{folder}/steps", "every": 2}}


@pytest.mark.parametrize(
    ("groups", "wrong"),
    [
        ({"callbacks": {"count": {"_target_": "own_parts.CountSteps", "path": "x", "evry": 2}}}, "every"),
        ({"callbacks": {"count": {"_target_": "own_parts.Count"}}}, r"callbacks\.count\._target_=own_parts\.Count"),
        ({"callbacks": {"count": {"_target_": "no_such_module.Count"}}}, "no_such_module"),
        ({"callbacks": {"count": {"every": 2}}}, "_target_"),
        ({"callbacks": {"count": 3}}, "callbacks="),
        ({"module": {"_target_": "own_parts.Distilled", "temprature": 3}}, r"module\.temperature"),
        ({"module": {"temperature": 3}}, "_target_"),
    ],
)
def test_a_wrong_node_is_refused_before_anything_starts(groups, wrong):
    with pytest.raises(zoo.ConvzooError, match=wrong):
        check(CellSpec.of(config(**groups)))


@pytest.mark.parametrize(
    ("groups", "wrong"),
    [
        ({"callbacks": {"count": {"_target_": "own_parts.CountSteps"}}}, "path"),
        ({"callbacks": {"count": {"_target_": "collections.OrderedDict"}}}, "no Callback"),
        ({"callbacks": {"ema": {"_target_": "lightning_modules.callbacks.averaging.Ema", "decay": 2}}}, "decay=2"),
        ({"module": {"_target_": "own_parts.NoNet"}}, r"self\.net = zoo\.build"),
        ({"module": {"_target_": "own_parts.NoForward"}}, "no forward"),
        ({"module": {"_target_": "torch.nn.Identity"}}, "no LightningModule"),
    ],
)
def test_what_cannot_be_made_is_one_message(groups, wrong, tmp_path):
    with pytest.raises(zoo.ConvzooError, match=wrong):
        run_cell(config(**groups), tmp_path, "a command")


@pytest.mark.parametrize("asked", ["hardware.micro_batch=4", "loss"])
def test_a_module_is_asked_for_what_it_takes_only(asked):
    settings = config(*([asked] if "=" in asked else []), module={"_target_": "own_parts.Distilled"})
    settings |= {"loss": {"name": "focal"}} if asked == "loss" else {}
    with pytest.raises(zoo.ConvzooError, match=asked.partition("=")[0]):
        check(CellSpec.of(settings))


def test_the_usual_choices_are_in_no_identity():
    usual, before = cell_config(), cell_config()
    for group in ("callbacks", "loss", "augment", "module"):
        del before[group]
    assert cell_id(CellSpec.of(usual)) == cell_id(CellSpec.of(before))


def test_choices_are_columns_and_identity():
    spec = CellSpec.of(config(callbacks=COUNT, loss={"name": "focal", "gamma": 1.5}, augment={"name": "noise"}))
    chosen = {"callbacks": "count", "loss": "focal", "loss_gamma": 1.5, "augment": "noise"}
    assert chosen.items() <= columns(spec, "cpu").items()
    assert cell_id(spec) != cell_id(cell_spec(*TINY))


@pytest.mark.parametrize(
    ("groups", "wrong"),
    [
        ({"loss": {"name": "focl"}}, "focal"),
        ({"loss": {"name": "focal", "gama": 1}}, r"loss\.gamma"),
        ({"loss": {"name": "focal", "gamma": -1}}, r"loss\.gamma=-1"),
        ({"augment": {"name": "noice"}}, "noise"),
        ({"augment": {"name": "noise", "sigma": "much"}}, r"augment\.sigma"),
    ],
)
def test_wrong_losses_and_augmentations(groups, wrong):
    with pytest.raises(zoo.ConvzooError, match=wrong):
        resolve(CellSpec.of(config(**groups)), "cpu")


def test_smoothing_needs_a_loss_that_has_it():
    with pytest.raises(zoo.ConvzooError, match=r"optim\.label_smoothing=0"):
        check_loss("focal", {}, 0.1)
    check_loss("cross_entropy", {}, 0.1)


def test_a_loss_and_an_augmentation_are_used(tmp_path):
    plain = run_cell(config(UNSMOOTHED), tmp_path / "plain", "")
    for number, groups in enumerate(({"loss": {"name": "focal", "gamma": 0.5}}, {"augment": {"name": "noise"}})):
        run_cell(config(UNSMOOTHED, **groups), tmp_path / str(number), "")
        assert losses(tmp_path / str(number)) != losses(tmp_path / "plain")
    same_loss = config(UNSMOOTHED, loss={"name": "focal", "gamma": 0.0})
    assert run_cell(same_loss, tmp_path / "same", "")["metrics"]["test/loss"] == plain["metrics"]["test/loss"]


def losses(folder):
    return [json.loads(line)["train/loss"] for line in (folder / "epochs.jsonl").read_text().splitlines()]


def test_losses_and_augmentations_may_be_classes(tmp_path):
    @lightning_modules.loss("scaled")
    class Scaled(torch.nn.Module):
        def __init__(self, by: float = 2.0) -> None:
            super().__init__()
            self.by = by

        def forward(self, logits, labels):
            return self.by * torch.nn.functional.cross_entropy(logits, labels)

    @lightning_modules.augmentation("negative")
    class Negative:
        def __call__(self, images):
            return -images

    settings = config(UNSMOOTHED, loss={"name": "scaled", "by": 3.0}, augment={"name": "negative"})
    assert run_cell(settings, tmp_path, "")["status"] == "completed"
    assert zoo.load(tmp_path / "best.ckpt")


@pytest.mark.parametrize("choice", READY)
def test_every_ready_callback_runs(choice, tmp_path):
    logger = ["logger=csv"] if choice == "lr_monitor" else []
    result = run_cell(config(f"callbacks={choice}", *logger), tmp_path, "")
    assert result["status"] == "completed" and result["cell"]["callbacks"] == choice


def test_early_stopping_ends_a_run_that_has_its_result(tmp_path):
    settings = config("callbacks=[early_stopping,model_checkpoint]", "trainer.max_epochs=9", "optim.lr=1e-12")
    settings["callbacks"]["early_stopping"]["patience"] = 1
    result = run_cell(settings, tmp_path, "")
    assert result["status"] == "completed" and result["metrics"]["time/epochs"] == 2
    assert len([*(tmp_path / "top").glob("*.ckpt")]) == 2


@pytest.mark.parametrize("average", [["ema"], ["swa"], ["lightning"]])
def test_best_holds_the_weights_that_were_validated(average, tmp_path):
    """Their accuracy on the validation set is that of result.json."""
    settings = config(*(["callbacks=" + average[0]] if average != ["lightning"] else []), "trainer.max_epochs=4")
    if average == ["lightning"]:
        settings["callbacks"] = {"mean": {"_target_": "lightning.pytorch.callbacks.WeightAveraging"}}
    settings["trainer"] |= {"limit_train_batches": 20, "limit_val_batches": 1.0}
    result = run_cell(settings, tmp_path, "")
    data = resolve(CellSpec.of(settings), "cpu").data
    data.setup("fit")
    net, right, count = zoo.load(tmp_path / "best.ckpt"), 0, 0
    with torch.no_grad():
        for batch in data.val_dataloader():
            images, labels = data.finish(*batch, False, torch.float32)
            right, count = right + (net(images).argmax(1) == labels).sum().item(), count + len(labels)
    assert right / count == pytest.approx(result["metrics"]["val/acc"])


def test_the_mean_begins_when_it_should(tmp_path):
    """Until then the weights themselves are validated."""
    plain = config("trainer.max_epochs=4")
    late = config("trainer.max_epochs=4", "callbacks=swa")
    run_cell(plain, tmp_path / "plain", "")
    run_cell(late, tmp_path / "late", "")
    plain, late = (
        [json.loads(line)["val/loss"] for line in (tmp_path / name / "epochs.jsonl").read_text().splitlines()]
        for name in ("plain", "late")
    )
    assert late[:3] == plain[:3]


OWN = {
    "averages": {"callbacks": ["ema"]},
    "counts": {"callbacks": COUNT},
    "module": {"module": {"_target_": "own_parts.Distilled", "temperature": 2.0}},
    "noise": {"augment": {"name": "noise", "sigma": 0.3}, "loss": {"name": "focal"}},
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("batch", [3, 6])
def test_a_stopped_run_with_own_parts_goes_on_bit_for_bit(name, batch, tmp_path, monkeypatch):
    groups = dict(OWN[name])
    choice = ["callbacks=[ema]"] if name == "averages" else []
    groups = {} if name == "averages" else groups
    settings = cell_config(*SMALL, *choice, UNSMOOTHED, "checkpoint.every_s=1000") | groups
    run_cell(settings, tmp_path / "whole", "")
    with monkeypatch.context() as patch:
        stop_at_batch(patch, batch)
        with pytest.raises(SystemExit):
            run_cell(settings, tmp_path / "stopped", "")
    run_cell(settings, tmp_path / "stopped", "")
    same(outcome(tmp_path / "whole"), outcome(tmp_path / "stopped"))
    if name == "counts":
        assert (tmp_path / "stopped" / "steps").read_text() == "12"


LION = {"name": "lion", "_target_": "timm.optim.Lion", "lr": 1e-4, "weight_decay": 0.1, "betas": [0.9, 0.95]}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [({"beta": 1}, r"optim\.betas"), ({"_target_": "torch.nn.ReLU"}, "optim"), ({"betas": 3}, "optim")],
)
def test_a_wrong_optimizer_of_ones_own(change, wrong):
    optim = cell_config()["optim"] | LION | change
    with pytest.raises(zoo.ConvzooError, match=wrong):
        resolve(CellSpec.of(config(optim=optim)), "cpu")


def test_an_optimizer_of_ones_own_decays_no_biases():
    spec = CellSpec.of(config(optim=cell_config()["optim"] | LION))
    resolve(spec, "cpu")
    made = make_optimizer(torch.nn.Linear(2, 2), spec.optim.plain())
    assert type(made).__name__ == "Lion" and [g["weight_decay"] for g in made.param_groups] == [0, 0.1]
    assert made.param_groups[0]["betas"] == [0.9, 0.95] and columns(spec, "cpu")["optim_target"] == "timm.optim.Lion"


def test_an_own_module_is_a_cell_like_any_other(tmp_path):
    result = run_cell(config(module=OWN["module"]["module"]), tmp_path, "")
    assert result["status"] == "completed" and result["cell"]["module"] == "own_parts.Distilled"
    assert {"test/acc", "val/acc", "cost/macs", "speed/train_images_per_s"} <= result["metrics"].keys()
    assert list(result["environment"]["plugins"]) == ["own_parts"]
    assert zoo.load(tmp_path / "best.ckpt")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


class TestCommand:
    """Files name code, the command line does not."""

    @pytest.fixture
    def conf(self, tmp_path):
        for path, text in {
            "conf/callbacks/count.yaml": 'count:\n  _target_: my_parts.Count\n  path: "{folder}/steps"\n',
            "conf/module/mine.yaml": "_target_: my_parts.Mine\ntemperature: 1.0\n",
            "my_parts.py": "from own_parts import CountSteps as Count, Distilled as Mine\n",
        }.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    def test_a_folder_of_ones_own(self, conf, train):
        from conftest import ROOT

        words = [f"--config-dir={conf / 'conf'}", *TINY, *QUICK, "callbacks=[count,ema]", "callbacks.ema.decay=0.9"]
        words += ["module=mine", "module.temperature=3", "hydra.run.dir=run"]
        done = train(*words, env={"PYTHONPATH": str(ROOT / "tests" / "support")}, forked=False)
        assert done.returncode == 0, done.stderr
        assert (conf / "run" / "steps").read_text() == "2"

    @pytest.mark.parametrize(
        "word",
        [
            "+callbacks.x._target_=os.getcwd",
            "+callbacks.x={_target_:os.getcwd}",
            "+callbacks.x=${oc.decode:'{_tar${oc.decode:get}_:os.getcwd}'}",
            "++module._target_=os.getcwd",
            "module=${oc.env:HOME}",
        ],
    )
    def test_no_code_on_the_command_line(self, word, train):
        done = train(*TINY, word)
        assert done.returncode == 2 and "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "word", ["callbacks=[ema,swaa]", "callbacks=emma", "callbacks.ema.decay=1", "callbacks=null"]
    )
    def test_typing_errors(self, word, train):
        done = train(*TINY, word)
        assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
