"""Hardware: what a choice means, and a distributed run in two processes."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, cell_config, cell_spec, lives
from ranks import end_ranks, start_ranks

from lightning_modules import run_cell
from lightning_modules.cell import Cell
from lightning_modules.hardware.devices import check_world_size, resolve_hardware
from lightning_modules.results.result import read_result
from zoo import ConvzooError

GPU = torch.cuda.is_available()


def resolve(*overrides):
    spec = cell_spec(*overrides)
    return resolve_hardware(spec.hardware, spec.trainer)


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_without_a_gpu():
    assert resolve("hardware=auto").name == "cpu"
    assert resolve("hardware=cpu").world_size == 1
    ddp = resolve("hardware=ddp")
    assert (ddp.accelerator, ddp.devices, ddp.strategy) == ("cpu", 2, "ddp")
    with pytest.raises(ConvzooError, match="hardware=cpu, or hardware=auto"):
        resolve("hardware=gpu")


def test_no_synchronized_batchnorm_on_cpus():
    cpus = ("hardware=ddp", "trainer.accelerator=cpu", "trainer.sync_batchnorm=true")
    with pytest.raises(ConvzooError, match=r"trainer\.sync_batchnorm=true needs GPUs"):
        resolve(*cpus)
    assert resolve(*cpus, "trainer.devices=1").world_size == 1


def test_the_trainers_own_arguments_win():
    assert resolve("hardware=ddp", "trainer.accelerator=cpu", "trainer.devices=3").world_size == 3
    with pytest.raises(ConvzooError, match="hardware=ddp for several"):
        resolve("hardware=cpu", "trainer.devices=2")


@pytest.mark.parametrize("key", ["trainer.devices", "hardware.devices"])
@pytest.mark.parametrize("value", ["0", "-2", "[0]", "[0,1]", "'0,'", "'0,1'", "'2'", "1.5", "true", "many"])
def test_devices_that_are_no_number_are_told_by_the_key_that_was_typed(key, value):
    with pytest.raises(ConvzooError, match=key.replace(".", r"\.") + "=") as error:
        resolve("hardware=ddp", f"{key}={value}")
    other = "hardware.devices" if key.startswith("trainer") else "trainer.devices"
    assert other not in str(error.value)
    assert ("CUDA_VISIBLE_DEVICES" in str(error.value)) == ("[" in value or "," in value)


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
@pytest.mark.parametrize("value", ["auto", "-1", "'-1'"])
def test_as_many_devices_as_there_are(value):
    assert resolve("hardware=ddp", f"trainer.devices={value}").devices == 2
    assert resolve("hardware=cpu", f"hardware.devices={value}", "trainer.accelerator=auto").devices == 1


@pytest.mark.parametrize(
    "name", ["ddp_spawn", "ddp_fork", "ddp_notebook", "fsdp", "deepspeed_stage_2", "dp", "xla", "x"]
)
def test_strategies_that_are_not_for_a_cell_are_refused_by_name(name):
    for hardware in ("cpu", "ddp"):
        with pytest.raises(ConvzooError, match=rf"trainer\.strategy={name} .*Allowed: auto, ddp"):
            resolve(f"hardware={hardware}", f"trainer.strategy={name}")


def test_ddp_by_its_other_names_waits_as_long_as_it_was_told():
    for name in ("auto", "ddp", "ddp_find_unused_parameters_true"):
        found = resolve("hardware=ddp", "trainer.accelerator=cpu", f"trainer.strategy={name}", "hardware.timeout_s=7")
        strategy = found.trainer_arguments["strategy"]
        assert strategy._timeout.total_seconds() == 7
        assert bool(strategy._ddp_kwargs) == name.endswith("_true")


def test_another_world_size_than_asked_for_is_an_error():
    with pytest.raises(ConvzooError, match=r"2 processes .* this job has 1"):
        check_world_size(resolve("hardware=ddp", "trainer.accelerator=cpu"), 1)


DDP = ("hardware=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "model=mobilenet", "model.variant=v3_small")


def test_a_distributed_run_is_one_run(train, tmp_path):
    """Two processes, one folder, one W&B run; 270 test images, an odd number a rank, each counted once."""
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=5", "data.image_size=8")
    done = train(*DDP, *short, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "completed" and result["cell"]["hardware"] == "ddp"
    assert result["environment"]["devices"] == 2
    assert result["metrics"]["test/images"] == 270
    assert len(list((tmp_path / "run").rglob("run-*.wandb"))) == 1
    assert done.stdout.count("test accuracy") == 1
    assert result["metrics"]["speed/train_images_per_s"] > 0


def test_two_ranks_train_like_one(forks, tmp_path, monkeypatch):
    """Same batches, same average gradient. LayerNorm, as BatchNorm would see half a batch on each rank."""
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})
    network = (
        "model=timm",
        "model.name=convnext_atto",
        "model.stem=imagenet",
        "logger=none",
        "hardware.plan=fp32_fast",
    )
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1")
    recipe = ("optim=sgd", "optim.lr=0.01", "hardware.threads=1", *short)
    plain = tuple(f"data.augment.{key}=0" for key in ("rotate", "zoom", "shift"))
    monkeypatch.chdir(ROOT)
    one = run_cell(cell_config("hardware=cpu", *network, *recipe, *plain), tmp_path / "one", "")["metrics"]
    started = start_ranks(forks, tmp_path / "two", cell_config(*DDP[:3], *network, *recipe, *plain))
    assert end_ranks(started, tmp_path / "two") == [0, 0]
    two = read_result(tmp_path / "two")["metrics"]
    assert one["test/loss"] == pytest.approx(two["test/loss"], rel=1e-5)
    assert one["test/acc"] == two["test/acc"]


def test_a_rank_that_fails_takes_the_job_down_with_its_error(tmp_path):
    with pytest.raises(ConvzooError, match=r"^[^:]*data\.batch_size=34"):
        run_cell(cell_config(*DDP, "data.batch_size=33", "logger=none"), tmp_path, "")
    result = read_result(tmp_path)
    assert result["status"] == "failed" and "data.batch_size=34" in result["error"]


LONG = (*DDP, "logger=none", "data.image_size=8", "data.batch_size=8", "trainer.max_epochs=5000")
LONG += ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1")


@pytest.mark.parametrize(
    ("rank", "how"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.fault),
        pytest.param(1, signal.SIGABRT, marks=pytest.mark.fault),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.fault),
    ],
)
def test_a_rank_that_dies_takes_the_job_down(rank, how, tmp_path):
    """Killed in the middle of training; one that is held (SIGSTOP) is given up after hardware.timeout_s."""
    ranks = []

    def kill():
        ranks.extend(_training(tmp_path))
        os.kill(ranks[rank], how)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises((ConvzooError, RuntimeError)) as error:
        run_cell(cell_config(*LONG, "hardware.timeout_s=5"), tmp_path, "")
    killer.join()
    expected = f"rank {rank} of 2 was killed by {how.name}"
    if how is signal.SIGSTOP:
        expected = "did not answer within hardware.timeout_s"
    result = read_result(tmp_path)
    assert result["status"] == "failed" and expected in result["error"] and expected in str(error.value)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def _training(folder) -> list[int]:
    """Waits until this process's job has trained for an epoch; the process numbers of its ranks, in order."""
    end = time.monotonic() + 240
    while not (folder / "epochs.jsonl").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    numbers = {}
    for pid in _children(os.getpid()):
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        numbers[next(int(line[5:]) for line in environment if line.startswith("RANK="))] = pid
    return [numbers[rank] for rank in sorted(numbers)]


@pytest.mark.skipif(shutil.which("ps") is None or not Path("/proc").exists(), reason="needs ps and /proc")
def test_ranks_end_with_the_process_that_started_them(start, tmp_path):
    """kill -9 of the parent frees the folder; ranks that went on would write into the next run's files."""
    long = ("model=mobilenet", "data.image_size=16", "trainer.max_epochs=500")
    parent = start("hardware=ddp", "logger=none", *long, f"hydra.run.dir={tmp_path / 'run'}")
    parent.until((tmp_path / "run" / "epochs.jsonl").exists)
    ranks = _children(parent.pid)
    assert len(ranks) >= 2
    parent.send(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 60
    while any(map(lives, ranks)):
        assert time.monotonic() < end
        time.sleep(0.1)


def _children(parent: int) -> list[int]:
    shown = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in shown.splitlines() if "lightning_modules.rank" in line]
