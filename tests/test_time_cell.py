"""``task=time``: a cell measured without training it, and never taken for a trained one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import cache_with_kernels, cell_config, cell_spec

import zoo
from lightning_modules import run_cell, time_cell
from lightning_modules.config.identity import cell_id, recipe
from lightning_modules.results.result import read_result
from zoo.__main__ import main
from zoo.report import print_result
from zoo.speeds import roofline
from zoo.speeds.noise import MARK

SPEEDS = {
    f"speed/{name}{suffix}"
    for name in (
        *("train_images_per_s", "step_images_per_s", "infer_images_per_s", "latency_ms", "train_latency_ms"),
        *("forward_ms", "loss_ms", "backward_ms", "optimizer_ms", "data_ms"),
    )
    for suffix in ("", "_iqr", "_noisy")
}
SHARES = {f"speed/{what}_share_of_{roof}" for what in ("train", "infer") for roof in ("peak", "bound")}
MODEL = ("model=mobilenet", "model.variant=v3_small", "data.batch_size=8", "hardware=cpu", "logger=none")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time_cell, "SECONDS", 0.02)
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_with_kernels(tmp_path / "cache")))


@pytest.mark.parametrize("more", [(), ("trainer.precision=bf16-mixed", "optim=sgd"), ("trainer.precision=bf16-true",)])
def test_a_cell_is_measured_and_not_trained(more: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run_cell(cell_config("task=time", *MODEL, *more), folder, "python train.py task=time")
    assert result == read_result(folder)
    assert result["status"] == "completed" and result["checkpoint"] is None and result["cell"]["task"] == "time"
    metrics = result["metrics"]
    assert set(metrics) >= SPEEDS | SHARES | {"speed/data_wait", "speed/peak_memory_mb", "speed/train_memory_mb"}
    assert not [key for key in metrics if key.startswith(("test/", "val/", "train/", "time/"))]
    assert all(math.isfinite(value) and value >= 0 for value in metrics.values())
    net = zoo.build("mobilenetv3_small_100", num_classes=10, in_chans=1, stem="small")
    assert metrics["cost/macs"] == zoo.cost(net, 32, 1).macs
    assert 0 < metrics["speed/data_wait"] < 1
    assert not list(folder.glob("*.ckpt"))
    assert result["environment"]["infer_batch_size"] == 64


def test_it_shares_neither_name_nor_recipe_with_training() -> None:
    trained, timed = cell_spec(*MODEL), cell_spec("task=time", *MODEL)
    assert cell_id(trained) != cell_id(timed)
    assert recipe(timed) == recipe(trained) | {"task": "time"}
    # As before there was anything but training: runs of then are known again.
    before = replace(trained, given=tuple(key for key in trained.given if key != "task"))
    assert cell_id(before) == cell_id(trained) and recipe(before) == recipe(trained)


@pytest.mark.parametrize(
    ("choice", "hint"),
    [
        ("task=tiem", "task=tiem is not allowed. Allowed: train, time"),
        ("hardware.micro_batch=4", "task=time measures whole batches"),
        ("hardware=ddp", "task=time measures one device. Type hardware=cpu"),
        ("trainer.precision=64-true", "task=time cannot measure trainer.precision=64-true. Allowed: 32-true"),
    ],
)
def test_what_cannot_be_measured_is_told(choice: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(zoo.ConvzooError, match=hint):
        run_cell(cell_config("task=time", *MODEL, choice), tmp_path, "")


def write(folder: Path, iqr: float) -> dict:
    result = {
        "status": "completed",
        "id": "c0",
        "cell": {"task": "time", "model": "resnet", "conv": "spatial", "act": "relu", "hardware": "cpu", "seed": 0},
        "metrics": {"cost/params": 1000, "speed/train_images_per_s": 500.0, "speed/train_images_per_s_iqr": iqr}
        | {"speed/forward_ms": 3.0, "speed/forward_ms_iqr": 0.1, "speed/data_wait": 0.25},
        "environment": {"device": "cpu"},
        "recipe": {"task": "time", "data.name": "digits"},
        "command": "python train.py task=time",
        "checkpoint": None,
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    return result


@pytest.mark.parametrize(("iqr", "mark"), [(10.0, ""), (100.0, f" {MARK}")])
def test_the_report_shows_speed_noise_and_no_accuracy(iqr: float, mark: str, tmp_path: Path, capsys) -> None:
    result = write(tmp_path / "timed", iqr)
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"│ 500{mark} │" in " ".join(out.split()).replace("  ", " ")
    assert "such cells have no accuracy" in out and "seed=0,1,2" not in out
    assert ("noisy" in out) == bool(mark)
    print_result(result, tmp_path)
    out = capsys.readouterr().out
    assert "forward" in out and "25.0%" in out and f"500{mark}" in out


def test_trained_and_timed_cells_are_not_ranked_together(tmp_path: Path, capsys) -> None:
    timed = write(tmp_path / "timed", 1.0)
    trained = timed | {"recipe": {"data.name": "digits"}, "metrics": timed["metrics"] | {"test/acc": 0.9}}
    trained["cell"] = {k: v for k, v in timed["cell"].items() if k != "task"}
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "result.json").write_text(json.dumps(trained))
    assert main(["report", str(tmp_path)]) == 0
    assert "2 recipes" in capsys.readouterr().out
