"""How many jobs run at a time: cores, memory, GPUs. With numbers that no machine has to have."""

from pathlib import Path

import pytest
from conftest import cell_spec

from lightning_modules.sweep import resources as room
from lightning_modules.sweep.jobs import Job
from lightning_modules.sweep.local import LocalEngine, _Running
from lightning_modules.sweep.pool import Pool
from lightning_modules.sweep.resources import MIB, Gpus, Memory, find_gpus
from zoo.errors import ConvzooError

GIB = 1024 * MIB


def job(params=11e6, activations=5e5, batch=128, **more):
    cost = {"cost/params": int(params), "cost/macs": 0, "cost/activations": int(activations)}
    spec = cell_spec(f"data.batch_size={batch}", "trainer.max_epochs=1")
    return Job(0, [], spec, Path("nowhere"), cost=cost, **more)


SMALL, LARGE = job(gpus=1), job(25e6, 11e6, 256, gpus=1)
"""ResNet-18 at 32 pixels, and ResNet-50 at 224."""


@pytest.mark.parametrize(
    ("per_gpu", "free", "running", "wanted", "gets"),
    [
        (1, {"0": None}, [], SMALL, ["0"]),
        (1, {"0": None}, [(SMALL, ["0"])], SMALL, []),
        (2, {"0": None}, [(LARGE, ["0"])], LARGE, ["0"]),
        (1, {"0": None, "1": None}, [(SMALL, ["0"])], SMALL, ["1"]),
        ("auto", {"0": 24 * GIB}, [(SMALL, ["0"])], SMALL, ["0"]),
        ("auto", {"0": 24 * GIB, "1": 24 * GIB}, [(SMALL, ["0"])], SMALL, ["1"]),
        ("auto", {"0": 24 * GIB}, [(LARGE, ["0"])], SMALL, []),
        ("auto", {"0": 24 * GIB}, [(SMALL, ["0"])], LARGE, []),
        ("auto", {"0": 2 * GIB}, [], LARGE, ["0"]),  # alone it may try
        ("auto", {"0": None}, [(SMALL, ["0"])], SMALL, []),  # nobody says how much memory there is
        ("auto", {"0": 999 * GIB}, [(SMALL, ["0"])] * room.SHARED_AT_MOST, SMALL, []),
        ("auto", {"0": 99 * GIB, "1": 99 * GIB}, [(SMALL, ["0"])], job(gpus=2, processes=2), []),
        ("auto", {"0": 99 * GIB, "1": 99 * GIB}, [], job(gpus=2, processes=2), ["0", "1"]),
        ("auto", {"0": 99 * GIB, "1": 99 * GIB}, [(job(gpus=2), ["0", "1"])], SMALL, []),
    ],
)
def test_which_gpu_a_job_gets(per_gpu, free, running, wanted, gets):
    assert Gpus(per_gpu, free).pick(wanted, running) == gets


def test_as_many_as_are_promised_run_on_the_gpus():
    gpus = Gpus("auto", {"0": 24 * GIB, "1": 8 * GIB})
    for wanted in (SMALL, LARGE):
        running = []
        while mine := gpus.pick(wanted, running):
            running.append((wanted, mine))
        assert len(running) == gpus.at_once(wanted, 100)
    assert gpus.at_once(SMALL, 100) > gpus.at_once(LARGE, 100) == 2


def test_the_driver_is_asked_for_free_memory(tmp_path, monkeypatch):
    told = "0, GPU-aa, 80000\n1, GPU-bb, 1000"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{told}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,1,MIG-cc")
    # CUDA may number the GPUs in another order than the driver does.
    assert find_gpus() == {"GPU-aa": 80000 * MIB, "1": 1000 * MIB, "MIG-cc": None}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_gpus() == {}


def test_gpus_are_found_without_the_drivers_folder(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '%s' '0, GPU-aa, 80000\n1, GPU-bb, 1000'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    assert find_gpus() == {"0": 1000 * MIB, "1": 1000 * MIB}


def test_a_job_waits_for_memory_that_the_others_have_not_taken_yet(monkeypatch):
    memory, big = Memory(), job(25e6, 11e6, 16)
    need = room.PYTHON_BYTES + room.tensor_bytes(big)
    resident = {1: 0}
    monkeypatch.setattr(room, "_resident_bytes", resident.get)
    monkeypatch.setattr(room, "free_bytes", lambda: int(1.5 * need))
    assert memory.fits(big, {}) and not memory.fits(big, {1: big})
    resident[1] = need
    assert memory.fits(big, {1: big})
    monkeypatch.setattr(room, "free_bytes", lambda: None)
    assert memory.fits(big, {1: big})


def test_a_job_that_took_more_teaches_the_next_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "free_bytes", lambda: 4 * GIB)
    monkeypatch.setattr(room, "_resident_bytes", lambda pid: 4 * GIB)
    memory, done = Memory(), job()
    assert memory.fits(done, {1: done})
    monkeypatch.setattr(Job, "result", lambda self: {"metrics": {"speed/peak_memory_mb": 6000}})
    memory.learn(done)
    assert not memory.fits(done, {1: done})


@pytest.mark.parametrize(
    ("cores", "running", "waiting", "threads"),
    [(4, 0, 8, 1), (4, 0, 2, 2), (4, 0, 1, 4), (4, 3, 1, 1), (4, 1, 1, 3), (2, 0, 3, 1), (1, 0, 1, 1)],
)
def test_cores_without_a_job_become_threads(monkeypatch, cores, running, waiting, threads):
    monkeypatch.setattr("lightning_modules.sweep.local.cores", lambda: cores)
    engine = LocalEngine("auto", "auto", 0, "sweep", Pool(False))
    engine._running = [_Running(job(), None, [], 1) for _ in range(running)]
    assert engine._threads_for([job()] * waiting) == threads


@pytest.mark.parametrize(
    ("waiting", "threads"),
    [([job(gpus=1)] * 8, 8), ([job(gpus=1), *[job()] * 15], 1), ([job(), job(gpus=1)], 8), ([job(gpus=1)], 16)],
)
def test_gpus_that_are_few_leave_their_jobs_more_cores(monkeypatch, waiting, threads):
    monkeypatch.setattr("lightning_modules.sweep.local.cores", lambda: 16)
    engine = LocalEngine("auto", 1, 0, "sweep", Pool(False))
    engine.gpus = Gpus(1, {"0": 80 * GIB, "1": 80 * GIB})
    assert engine._threads_for(waiting) == threads


def test_a_quota_counts_as_cores(monkeypatch):
    monkeypatch.setattr(room, "_read", lambda path: "150000 100000")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    assert room.cores() == 2
    monkeypatch.setattr(room, "_read", lambda path: "max 100000")
    assert room.cores() == 64


def test_what_is_timed_runs_alone():
    timed = job()
    timed.spec = timed.spec.having(task="time")
    engine = LocalEngine(4, "auto", 0, "s", Pool(False))
    assert engine.at_once([timed] * 3) == 1 and engine.at_once([job()] * 3) == 3
    engine._running = [_Running(job(), None, [], 1)]
    assert engine._fits(job()) and not engine._fits(timed)
    engine._running = [_Running(timed, None, [], 1)]
    assert not engine._fits(job())


@pytest.mark.parametrize("value", [-1, "soon", True, float("nan")])
def test_a_wrong_time_between_starts_is_refused(value):
    with pytest.raises(ConvzooError, match=r"stagger_s=.* a number from 0"):
        LocalEngine("auto", "auto", value, "s", Pool(False))
