"""A cell of rectangular images: trained, timed, stopped and resumed, exported; its figures are those of its images."""

import json

import pytest
import torch
from conftest import cell_config, cell_spec
from stopping import outcome, same, stop_at_batch
from tiny_cell import TINY

import zoo
from lightning_modules import run_cell
from lightning_modules.config.check import check
from lightning_modules.config.columns import columns
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from zoo.__main__ import main
from zoo.deploy.checkpoint import read_checkpoint

EVERY_AUGMENTATION = [
    f"data.augment.{key}"
    for key in (
        "crop_padding=2",
        "hflip=true",
        "rotate=10",
        "zoom=0.1",
        "shift=0.1",
        "cutout=4",
        "random_erasing=0.5",
        "mixup=0.2",
        "cutmix=1",
    )
]
CELL = (*TINY, "data.image_size=[12,20]", "scale=depth", "scale.factor=0.1", "conv=spatial", *EVERY_AUGMENTATION)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run_cell(cell_config(*CELL), folder, "python train.py"), folder


def test_the_result_says_what_the_network_saw(trained):
    result, folder = trained
    net = zoo.load(folder / "best.ckpt")
    assert result["cell"]["image_size"] == "12x20" and result["cell"]["stem"] == "small"
    assert result["metrics"]["cost/macs"] == zoo.cost(net, (12, 20), 1).macs
    assert read_checkpoint(folder / "best.ckpt").image_size == (12, 20)
    saved = torch.load(folder / "best.ckpt", weights_only=True)["datamodule_hyper_parameters"]["data"]
    assert saved["image_size"] == [12, 20]


def test_a_stopped_run_resumes(trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 2)
        with pytest.raises(SystemExit):
            run_cell(cell_config(*CELL), tmp_path, "a command")
    run_cell(cell_config(*CELL), tmp_path, "a command")
    same(outcome(tmp_path), outcome(trained[1]))


def test_task_time_measures_the_rectangle(trained, tmp_path):
    timed = run_cell(cell_config(*CELL, "task=time"), tmp_path, "a command")
    assert timed["metrics"]["cost/macs"] == trained[0]["metrics"]["cost/macs"]
    assert timed["metrics"]["speed/step_images_per_s"] > 0


def test_the_export_takes_the_runs_images_or_others(trained, tmp_path, capsys):
    path = trained[1] / "best.ckpt"
    for option, size in (([], (12, 20)), (["--image-size", "20x12"], (20, 12))):
        assert main(["export", str(path), "--format", "torch", "--output", str(tmp_path / "a.pt2"), *option]) == 0
        batch = torch.randn(3, 1, *size)
        with torch.no_grad():
            program = torch.export.load(tmp_path / "a.pt2").module()
            assert torch.allclose(program(batch), zoo.load(path)(batch), atol=1e-5)
    assert main(["export", str(path), "--image-size", "20,12"]) == 2
    assert "192x256" in capsys.readouterr().err


def test_the_report_names_the_size(trained, capsys):
    assert main(["report", str(trained[1])]) == 0
    assert json.loads((trained[1] / "result.json").read_text())["recipe"].get("data.image_size") is None


def test_a_square_is_a_square_however_it_is_typed():
    square, pair, text = (cell_spec(f"data.image_size={size}") for size in ("24", "[24,24]", "24x24"))
    assert square.plain() == pair.plain() == text.plain() and square.plain()["data"]["image_size"] == 24
    assert columns(square, "cpu")["image_size"] == 24
    rectangle, other = cell_spec("data.image_size=[24,40]"), cell_spec("data.image_size=[40,24]")
    assert len({cell_id(square), cell_id(rectangle), cell_id(other)}) == 3
    assert CellSpec.of(rectangle.plain()) == rectangle == cell_spec("data.image_size=24x40")


@pytest.mark.parametrize("size", ["[24]", "[24,7]", "[24,40,8]", "24x", "24x40x3", "[24.5,32]", "[9000,8]"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(zoo.ConvzooError, match="image_size"):
        check(cell_spec(f"data.image_size={size}"))


@pytest.mark.parametrize("size", [(0, 4), (3, -1), (3,), "3", "03x4", True, (2.0, 3), None, ("3", "4")])
def test_what_is_no_size_in_python(size):
    with pytest.raises(zoo.ConvzooError, match="image size"):
        zoo.ImageSize.of(size)
