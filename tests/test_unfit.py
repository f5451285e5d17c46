"""A cell whose network does not take its images is left out of a sweep by name; alone it is one message."""

import json

import pytest
from conftest import QUICK, cell_spec

import zoo
from lightning_modules.cell import Cell
from lightning_modules.sweep.planner import Planner
from zoo.errors import UnfitError

UNFIT = {
    "vgg11_bn": ("data.image_size=28", "32×32 pixels"),
    "inception_v3": ("data.image_size=28", "pixels"),
    "vit_tiny_patch16_224": ("data.image_size=96", "224×224 pixels"),
    "convnext_atto": ("data.image_size=28", "model.stem=imagenet"),
    "swin_tiny_patch4_window7_224": ("data.image_size=100", "224×224 pixels"),
    "sam2_hiera_tiny": ("data.image_size=224", "sam2_hiera_tiny"),
}
COMMON = ("model=timm", "data=synthetic", "data.num_classes=4", "logger=none", "hardware=cpu")


def configured(name, *more):
    return cell_spec(*COMMON, f"model.name={name}", UNFIT[name][0], *QUICK, *more)


@pytest.mark.parametrize("name", [name for name in UNFIT if name != "sam2_hiera_tiny"])
def test_a_sweep_leaves_it_out(name):
    answer = Planner().describe(configured(name))
    assert UNFIT[name][1] in answer["excluded"] and "\n" not in answer["excluded"]


def test_a_rewritten_network_and_a_batch_of_one():
    describer = Planner()
    assert "vgg11_bn takes no images" in describer.describe(configured("vgg11_bn", "conv=separable"))["excluded"]
    answer = describer.describe(
        cell_spec(*COMMON, "model.name=resnet18", "model.stem=imagenet", "data.image_size=32", "data.batch_size=1")
    )
    assert "Expected more than 1 value per channel" in answer["excluded"]
    fits = cell_spec(*COMMON, "model.name=vgg11_bn", "data.image_size=32")
    assert describer.describe(fits).get("excluded") is None


def test_alone_it_is_one_message(tmp_path):
    from lightning_modules.hardware.devices import resolve_hardware

    spec = configured("vgg11_bn")
    with pytest.raises(UnfitError, match="32×32 pixels"):
        Cell(spec, tmp_path, resolve_hardware(spec.hardware, spec.trainer))


def test_a_network_that_cannot_be_built_is_unfit():
    with zoo.meta_init(), pytest.raises(UnfitError, match=r"resnet18 cannot be built with .*no_such_option"):
        zoo.build("resnet18", no_such_option=3)


def test_a_bug_of_ours_is_not_taken_for_an_unfit_cell(monkeypatch):
    def broken(net):
        raise RuntimeError("a bug")

    monkeypatch.setattr("lightning_modules.sweep.planner.fingerprint", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        Planner().describe(cell_spec(*COMMON, "model.name=resnet18", "data.image_size=32"))


@pytest.mark.parametrize("pool", ["true", "false"])
def test_the_others_of_a_sweep_run(train, tmp_path, pool):
    names = "model.name=vgg11_bn,resnet10t"
    command = ("-m", *COMMON, names, *QUICK, "data.image_size=28", "data.images=64", "sweep.name=s")
    done = train(*command, f"hydra.launcher.pool={pool}")
    assert done.returncode == 0, done.stderr
    assert "#0 model.name=vgg11_bn: left out: vgg11_bn takes no images of image_size=28" in done.stdout
    assert "1 of 1 jobs completed" in done.stdout and "Traceback" not in done.stderr
    jobs = json.loads((tmp_path / "runs" / "s" / "sweep.json").read_text())["jobs"]
    assert [bool(job["excluded"]) for job in jobs] == [True, False]


def test_a_search_goes_on_past_batches_of_unfit_cells(train, tmp_path):
    pytest.importorskip("optuna", reason="the search extra is not installed")
    search = ("hydra/sweeper=search", "hydra.sweep.dir=s", "hydra.sweeper.trials=3", "hydra.sweeper.batch=1")
    names = "model.name=choice(vgg11_bn,resnet10t)"
    done = train(
        "-m", *search, "hydra.sweeper.sampler=random", *COMMON, names, *QUICK, "data.image_size=28", "data.images=64"
    )
    assert done.returncode == 0, done.stderr
    assert "left out: vgg11_bn takes no images" in done.stdout and "of 3 trials completed" in done.stdout
