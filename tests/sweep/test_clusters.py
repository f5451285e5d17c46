"""The launchers of clusters where there is none, and Ray on this machine. test_slurm.py has a real Slurm."""

import importlib.util
import json

import pytest
from conftest import QUICK, cell_spec

from lightning_modules.hardware.devices import check_world_size, resolve_hardware
from zoo import ConvzooError

NET = ("model=mobilenet", "model.variant=v3_small", "data.batch_size=8", "logger=none", "sweep.name=mine")
RAY = importlib.util.find_spec("ray") is not None


def test_without_slurm_it_says_what_to_type(train, tmp_path):
    pytest.importorskip("submitit")
    done = train("-m", *NET, "hydra/launcher=slurm", "seed=0,1", env={"PATH": str(tmp_path)})
    assert done.returncode == 2 and "hydra/launcher=local" in done.stderr and "Traceback" not in done.stderr


def resolved(node_gpus, **options):
    spec = cell_spec()
    return resolve_hardware(spec.hardware.having(**options), spec.trainer, node_gpus)


@pytest.mark.parametrize(
    ("name", "devices", "node_gpus", "shape"),
    [
        ("cpu", 1, 4, ("cpu", 1)),
        ("gpu", 1, 4, ("gpu", 1)),
        ("auto", 1, 4, ("gpu", 1)),
        ("auto", 1, 0, ("cpu", 1)),
        ("ddp", "auto", 4, ("gpu", 4)),
        ("ddp", 2, 4, ("gpu", 2)),
        ("ddp", "auto", 0, ("cpu", 2)),
    ],
)
def test_hardware_of_a_clusters_node(name, devices, node_gpus, shape):
    found = resolved(node_gpus, name=name, devices=devices)
    assert (found.accelerator, found.world_size) == shape


def test_more_gpus_than_a_node_has():
    with pytest.raises(ConvzooError, match="gpus_per_node=0"):
        resolved(0, name="gpu")
    with pytest.raises(ConvzooError, match="8 GPUs"):
        resolved(4, name="ddp", devices=8)


def test_another_number_of_tasks_than_processes(monkeypatch):
    one = resolved(0, name="cpu")
    two = resolved(0, name="ddp", devices="auto")
    # An allocation that could hold two is not yet two processes: the job starts its ranks itself.
    monkeypatch.setenv("SLURM_NTASKS", "2")
    check_world_size(one), check_world_size(two)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    check_world_size(two)
    with pytest.raises(ConvzooError, match=r"1 processes .* this job has 2"):
        check_world_size(one)


@pytest.mark.skipif(RAY, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(train):
    done = train("-m", *NET, "hydra/launcher=ray", "seed=0,1")
    assert done.returncode == 2 and "convzoo[ray]" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not RAY, reason='Ray is not installed: pip install "convzoo[ray]"')
def test_a_sweep_on_ray(train, tmp_path):
    ray = ("-m", *NET, *QUICK, "hydra/launcher=ray", "hydra.launcher.address=local")
    done = train(*ray, "hardware=cpu", "seed=0,1")
    assert done.returncode == 0 and "2 of 2 jobs completed" in done.stdout, done.stderr
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "mine").glob("*/result.json")]
    assert [result["status"] for result in results] == ["completed"] * 2
    refused = train(*ray, "hardware=ddp", "seed=0,1")
    assert refused.returncode == 2 and "hydra/launcher=slurm" in refused.stderr
