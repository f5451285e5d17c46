"""One run from configuration to result: every cell of the mission's grid, in this process."""

import gc
import itertools
import json
import math
import weakref
from functools import partial

import pytest
import torch
from conftest import QUICK, cell_config
from tiny_cell import TINY
from torch import nn
from wandb_file import read_run

import zoo
from hydra_plugins.convzoo._cli import open_keys
from lightning_modules import run_cell
from lightning_modules.classifier import Classifier
from lightning_modules.config.schema import CellSpec
from lightning_modules.optimizer import check_optimizer, make_optimizer
from lightning_modules.results.result import read_result
from zoo import ConvzooError

MODELS, CONVS, ACTS = (
    ("resnet", "effnet", "mobilenet"),
    ("native", "standard", "separable", "spatial"),
    ("native", "relu", "swish"),
)
METRICS = {
    "test/acc",
    "test/loss",
    "val/acc",
    "cost/params",
    "cost/macs",
    "cost/activations",
    "speed/train_images_per_s",
    "speed/train_images_per_s_iqr",
    "speed/infer_images_per_s",
    "speed/infer_images_per_s_iqr",
    "speed/latency_ms",
    "speed/latency_ms_iqr",
    "speed/peak_memory_mb",
    "time/fit_s",
}
COMMAND = "python train.py model=effnet"


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    """What is measured is tested, not how well: a tenth of the time."""
    monkeypatch.setattr(zoo, "speed", partial(zoo.speed, seconds=0.1))


@pytest.fixture(autouse=True)
def no_account(clean_env, monkeypatch):
    monkeypatch.setenv("HOME", clean_env["HOME"])
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.mark.parametrize(("model", "conv", "act"), list(itertools.product(MODELS, CONVS, ACTS)))
def test_every_cell_builds_trains_and_is_logged(model, conv, act, tmp_path):
    small = ("scale=width", "scale.factor=0.25", "data.image_size=16", "data.batch_size=8", *QUICK)
    # W&B takes longer than the rest; what it gets does not depend on the kind of convolution.
    logged = conv == "native"
    logger = "logger=wandb" if logged else "logger=none"
    config = cell_config(f"model={model}", f"conv={conv}", f"act={act}", logger, *small, "trainer.limit_test_batches=1")
    result = run_cell(config, tmp_path, COMMAND)
    assert result == read_result(tmp_path)
    assert result["status"] == "completed" and result["command"] == COMMAND
    assert result["cell"] | {"model": model, "conv": conv, "act": act, "data": "digits", "seed": 0} == result["cell"]
    assert all(isinstance(v, (str, int, float)) for v in result["cell"].values())
    assert set(result["metrics"]) >= METRICS
    assert all(math.isfinite(v) for v in result["metrics"].values())
    # The counts are those of the network that was trained.
    net = zoo.load(result["checkpoint"])
    cost = zoo.cost(net, 16, 1)
    assert (result["metrics"]["cost/params"], result["metrics"]["cost/macs"]) == (cost.params, cost.macs)
    assert result["metrics"]["cost/activations"] == cost.activations
    if not logged:
        return
    # W&B has the same, record by record.
    run = read_run(tmp_path)
    assert run["id"] == result["wandb"]["id"] and run["exit_code"] == 0
    assert {k: run["summary"][k] for k in result["metrics"]} == result["metrics"]
    assert {k: run["config"][k] for k in result["cell"]} == result["cell"]
    assert run["config"]["settings"]["model"]["name"] == model
    assert run["config"]["plan"] == result["environment"]["plan"]


def test_a_trained_network_comes_back_from_its_checkpoint(tmp_path):
    choices = ("model=mobilenet", "conv=spatial", "act=gelu", "hardware.plan=fp32_fast")
    config = cell_config(*choices, "model.variant=v3_small", "logger=none", "optim.lr=1e-4", *QUICK)
    result = run_cell(config, tmp_path, COMMAND)
    content = torch.load(result["checkpoint"], weights_only=True)
    assert content["hyper_parameters"]["network"]["conv"] == "spatial"
    net = zoo.load(result["checkpoint"])
    from lightning_modules import make_data

    data = make_data(config["data"])
    data.setup("test")
    images, labels = data._splits.test
    with torch.no_grad():
        logits = net(data.prepare(images, training=False))
    assert result["metrics"]["test/images"] == len(labels) == 270
    assert (logits.argmax(1) == labels).float().mean().item() == pytest.approx(result["metrics"]["test/acc"])
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(
        result["metrics"]["test/loss"], rel=1e-4
    )


def test_loading_what_is_no_checkpoint(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(zoo.ConvzooError, match="not a checkpoint of convzoo's"):
        zoo.load(tmp_path / "other.ckpt")


def test_csv_and_no_logger(tmp_path):
    result = run_cell(cell_config(*TINY, "logger=csv"), tmp_path / "csv", COMMAND)
    text = (tmp_path / "csv" / "metrics.csv").read_text()
    assert "test/acc" in text.splitlines()[0] and "speed/infer_images_per_s" in text.splitlines()[0]
    assert result["wandb"] == {"id": None, "mode": None, "dir": None}
    run_cell(cell_config(*TINY), tmp_path / "none", COMMAND)
    names = {p.name for p in (tmp_path / "none").iterdir()}
    assert names == {"best.ckpt", "config.json", "result.json", "epochs.jsonl", "job.lock"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=effnet", "model.phi=0.5"],
        ["model=effnet", "model.variant=b1"],
        ["model=mobilenet", "model.variant=v1"],
        ["model=mobilenet", "model.variant=v3_small"],
        ["model=resnet", "model.variant=34"],
        ["model=timm", "model.name=regnetx_002"],
        ["model=mobilenet", "model.stem=imagenet", "data=synthetic", "data.image_size=64", "data.images=64"],
        ["model=mobilenet", "trainer.limit_val_batches=0"],
        ["model=mobilenet", "trainer.fast_dev_run=true"],
        ["model=mobilenet", "trainer.precision=bf16-mixed", "optim=sgd"],
        ["model=mobilenet", "trainer.precision=bf16-true"],
        ["model=mobilenet", "trainer.max_epochs=-1", "trainer.max_steps=3"],
        ["model=mobilenet", "trainer.check_val_every_n_epoch=2"],
        ["model=mobilenet", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"],
        ["model=resnet", "conv=blueprint", "conv.between=bn_act", "act=swish"],
        ["model=resnet", "conv=grouped", "conv.groups=4"],
    ],
    ids=" ".join,
)
def test_other_choices(overrides, tmp_path):
    names = {o.partition("=")[0] for o in overrides}
    quick = [
        q for q in (*QUICK, "data.image_size=16", "trainer.limit_test_batches=1") if q.partition("=")[0] not in names
    ]
    result = run_cell(cell_config(*overrides, "logger=none", "data.batch_size=8", *quick), tmp_path, COMMAND)
    assert result["status"] == "completed" and 0 <= result["metrics"]["test/acc"] <= 1
    zoo.load(result["checkpoint"])
    assert result["environment"]["infer_batch_size"] == 64


def test_divergence_is_a_failure(tmp_path):
    config = cell_config("model=mobilenet", "logger=none", "optim.lr=1e20", *QUICK)
    config["trainer"]["limit_train_batches"] = 4
    with pytest.raises(zoo.ConvzooError, match="diverged"):
        run_cell(config, tmp_path, COMMAND)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"


def test_the_same_seed_gives_the_same_run(tmp_path):
    def accuracy_and_weights(name, seed):
        config = cell_config(*TINY, f"seed={seed}")
        result = run_cell(config, tmp_path / name, COMMAND)
        return result["metrics"]["test/loss"], zoo.load(result["checkpoint"]).state_dict()

    (loss, first), (again, second), (other, _) = (accuracy_and_weights(*a) for a in (("a", 1), ("b", 1), ("c", 2)))
    assert loss == again != other
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_a_failing_run_says_so_everywhere(tmp_path, monkeypatch):
    def explode(*_):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("lightning_modules.classifier.Classifier.training_step", explode)
    with pytest.raises(RuntimeError, match="on fire"):
        run_cell(cell_config("model=mobilenet", *QUICK), tmp_path, COMMAND)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "failed" and result["error"] == "the disk is on fire"
    assert "training_step" in result["traceback"]
    assert read_run(tmp_path)["exit_code"] == 1


def test_throughput_leaves_out_warm_up_and_evaluation(tmp_path, monkeypatch):
    """Slow first batches and slow validation must not show in the rate; slow batches must."""
    import time

    from lightning_modules.classifier import Classifier

    step, validate, seen = Classifier.training_step, Classifier.validation_step, []

    def slow_step(self, *args):
        seen.append(1)
        time.sleep(1.0 if len(seen) == 1 else 0.1)
        return step(self, *args)

    monkeypatch.setattr(Classifier, "training_step", slow_step)
    monkeypatch.setattr(Classifier, "validation_step", lambda *a: (time.sleep(0.5), validate(*a))[1])
    config = cell_config("model=mobilenet", "model.variant=v3_small", "logger=none", "data.batch_size=4", *QUICK)
    config["trainer"]["limit_train_batches"] = 10
    metrics = run_cell(config, tmp_path, COMMAND)["metrics"]
    # At 0.1 s asleep for 4 images there are less than 40 images/s, and more than with the slow parts in.
    with_the_slow_parts = 10 * 4 / metrics["time/fit_s"]
    assert with_the_slow_parts < metrics["speed/train_images_per_s"] < 40
    assert metrics["time/fit_s"] > 2.4
    assert 0 <= metrics["speed/data_wait"] < 0.5


def test_validation_counts_batches_over_epochs_where_asked_to(tmp_path):
    small = ["model=mobilenet", "model.variant=v3_small", "logger=none", "data.image_size=8", "hardware.plan=fp32"]
    short = ["trainer.max_epochs=4", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
    with pytest.raises(ConvzooError, match=r"val_check_interval=3 .* 2 batches .*check_val_every_n_epoch=null"):
        run_cell(cell_config(*small, *short, "trainer.val_check_interval=3"), tmp_path / "refused", "")
    over = ["trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=null"]
    result = run_cell(cell_config(*small, *short, *over), tmp_path, "")
    epochs = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert ["val/acc" in epoch for epoch in epochs] == [False, True, True, False]
    assert result["metrics"]["val/acc"] == max(epoch.get("val/acc", 0) for epoch in epochs)


class TestOptimizerOptions:
    """Further keys of the optim group are arguments of timm's optimizer of that name."""

    @staticmethod
    def check(**optim):
        config = cell_config()
        config["optim"] |= optim
        check_optimizer(CellSpec.of(config).optim)
        return make_optimizer(nn.Linear(2, 2), config["optim"])

    def test_taken(self):
        assert self.check(betas=[0.8, 0.95], eps=1e-6).defaults["betas"] == (0.8, 0.95)
        assert self.check(name="sgd").defaults["momentum"] == 0.9
        assert self.check(name="sgd", momentum=0.5).defaults["momentum"] == 0.5
        assert self.check(name="lion", betas=[0.8, 0.95]).defaults["betas"] == (0.8, 0.95)

    @pytest.mark.parametrize(
        "optim",
        [
            {"betas": 0.9},
            {"betas": [0.9, 1.9]},
            {"eps": "x"},
            {"beta": [0.9, 0.9]},
            {"name": "sgd", "betas": [0.9, 0.9]},
            {"params": 1},
            {"name": "lyon"},
        ],
        ids=str,
    )
    def test_refused(self, optim):
        with pytest.raises(ConvzooError, match=f"optim.*{[*optim][-1]}|refuses"):
            self.check(**optim)

    def test_typed_without_a_plus(self):
        words = ["optim.betas=[0.9,0.95]", "optim.lr=1", "+optim.eps=1", "model=resnet"]
        assert open_keys(words) == ["++optim.betas=[0.9,0.95]", *words[1:]]


def test_a_classifier_is_freed_with_its_last_reference():
    gc.collect()
    gc.disable()
    try:
        module = Classifier({"backbone": "test_resnet", "num_classes": 2}, {"label_smoothing": 0.1})
        freed = weakref.ref(module)
        del module
        assert freed() is None
    finally:
        gc.enable()
