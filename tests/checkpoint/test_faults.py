"""Faults by the hundred, each printed: ``CONVZOO_FAULTS=100 pytest -m fault -n 0 tests/checkpoint/test_faults.py``."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cell_config
from PIL import Image
from ranks import end_ranks, start_ranks
from stopping import RECIPES, SMALL, outcome, same, stop_at_batch

from lightning_modules import run_cell
from lightning_modules.cell import Cell
from lightning_modules.sweep.pool import Pool
from zoo.errors import ConvzooError

pytestmark = pytest.mark.fault
FAULTS = int(os.environ.get("CONVZOO_FAULTS", 20))
LONG = (*SMALL, "trainer.max_epochs=6", "checkpoint.every_s=0")
AUGMENTED = RECIPES["adamw"]
RUNS = {
    "augmented": AUGMENTED,
    "own kernels": ("hardware.plan=bf16_fast", *AUGMENTED),
    "accumulated": ("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3", "optim=sgd"),
    "folder": ("data=imagefolder", "data.workers=2", "data.augment.mixup=0.2", "data.augment.random_erasing=0.5"),
}


@pytest.fixture(scope="module")
def pool():
    pool = Pool(True, "hydra_plugins.convzoo._cli:warm_up")
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def start(pool, folder, overrides):
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("ab") as log, open(os.devnull, "rb") as nothing:
        words = [sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"]
        return pool.popen(words, os.environ | {"OMP_NUM_THREADS": "1"}, nothing, log, log)


def run_with_kills(begin, folder, draw, took_s):
    """Starts a run again and again, and kills it with all of its processes, until it ends by itself.

    One in four dies while it starts, the others some time after their first checkpoint.

    Args:
        begin: Starts its processes, each of which leads a session.
        folder: The run's.
        draw: Random numbers.
        took_s: How long a run takes that nothing disturbs.

    Returns:
        How many times it was killed.
    """
    last = folder / "last.ckpt"
    for kills in range(FAULTS + 1):
        processes, before = begin(), written(last)
        if draw.random() < 0.25:
            until = time.monotonic() + draw.uniform(0, 0.5 * took_s)
        else:
            while work(processes) and written(last) in (before, None):
                time.sleep(0.001)
            until = time.monotonic() + draw.uniform(0, 0.2 * took_s / FAULTS)
        until += 600 * (kills == FAULTS)
        while work(processes) and time.monotonic() < until:
            time.sleep(0.001)
        if not work(processes):
            assert all(process.poll() == 0 for process in processes)
            return kills
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        while work(processes):
            time.sleep(0.001)
    raise AssertionError("it does not end")


def work(processes):
    return any(process.poll() is None for process in processes)


def written(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_again_and_again(name, pool, images, tmp_path):
    overrides = [*LONG, *RUNS[name], *([f"data.root={images}", "data.num_classes=2"] if name == "folder" else [])]
    begun = time.monotonic()
    assert start(pool, tmp_path / "undisturbed", overrides).wait() == 0
    took = time.monotonic() - begun
    draw = random.Random(f"{name} {os.environ.get('CONVZOO_SEED', 0)}")
    folder = tmp_path / "killed"
    kills = run_with_kills(lambda: [start(pool, folder, overrides)], folder, draw, took)
    print(f"\n{name}: {kills} kills, an undisturbed run takes {took:.1f} s")
    same(outcome(folder), outcome(tmp_path / "undisturbed"))
    assert not list(folder.glob("*.unfinished"))


def test_ranks_that_are_killed_again_and_again(pool, tmp_path):
    os.chdir(ROOT)
    config = cell_config(*LONG, *AUGMENTED, "hardware=ddp", "trainer.accelerator=cpu")
    begun = time.monotonic()
    assert end_ranks(start_ranks(pool, tmp_path / "undisturbed", config), tmp_path) == [0, 0]
    took, folder, draw = time.monotonic() - begun, tmp_path / "killed", random.Random(0)
    kills = run_with_kills(lambda: start_ranks(pool, folder, config), folder, draw, took)
    print(f"\nranks: {kills} kills, an undisturbed run takes {took:.1f} s")
    same(outcome(folder), outcome(tmp_path / "undisturbed"))


def test_a_sweep_whose_launcher_and_jobs_are_killed(tmp_path):
    draw, kills = random.Random(0), {"launcher": 0, "job": 0}
    longer = ("trainer.max_epochs=20", "checkpoint.every_s=0.2")
    axes = ["seed=0,1,2,3", "hydra.launcher.jobs=2", "hydra.job.chdir=false", *LONG, *longer, *AUGMENTED]

    def begin(name):
        command = [sys.executable, str(ROOT / "train.py"), "-m", *axes, f"hydra.sweep.dir={tmp_path / name}"]
        out = (tmp_path / f"{name}.txt").open("ab")
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environment, start_new_session=True)

    def jobs():
        return [pid for lock in (tmp_path / "killed").glob("*/job.lock") if (pid := running(lock))]

    begun = time.monotonic()
    assert begin("undisturbed").wait() == 0
    took = time.monotonic() - begun
    lines = (tmp_path / "undisturbed").glob("*/epochs.jsonl")
    job_s = max(json.loads(path.read_text().splitlines()[-1])["seconds"] for path in lines)
    process = begin("killed")
    while True:
        last = sum(kills.values()) >= FAULTS
        while process.poll() is None and (last or not jobs()):
            time.sleep(0.01)
        until = time.monotonic() + draw.uniform(0, 0.3 * job_s)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        if process.poll() is not None:
            if process.returncode == 0:
                break
            # A job of its was killed: the same command runs that one again.
            process = begin("killed")
        elif (found := jobs()) and draw.random() < 0.6:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
                kills["job"] += 1
        else:
            process.kill()
            process.wait()
            kills["launcher"] += 1
            process = begin("killed")
    print(f"\nsweep: {kills}, an undisturbed one takes {took:.1f} s, a job {job_s:.1f} s")
    folders = sorted(p.name for p in (tmp_path / "undisturbed").iterdir() if p.is_dir() and p.name[0] != ".")
    assert len(folders) == 4
    for name in folders:
        same(outcome(tmp_path / "killed" / name), outcome(tmp_path / "undisturbed" / name))


def running(lock):
    """The process that holds a run's lock; None for none."""
    found = re.match(r"process (\d+) ", lock.read_text())
    if not found or not Path(f"/proc/{found[1]}").exists():
        return None
    return int(found[1])


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr(Cell, "_inference_speed", lambda *_: {})


def test_what_is_damaged_at_random_ends_right_or_with_one_error(unmeasured, tmp_path):
    config, seen = cell_config(*SMALL, "checkpoint.every_s=0", "hardware.plan=fp32"), {}
    expected = tmp_path / "undisturbed"
    run_cell(config, expected, "")
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        stop_at_batch(patch, 7)
        run_cell(config, stopped, "")
    names = [p.name for p in stopped.iterdir() if p.stat().st_size]  # the lock says nothing any more
    assert {"last.ckpt", "last-previous.ckpt", "best.ckpt", "result.json", "epochs.jsonl", "config.json"} <= {*names}
    draw = random.Random(os.environ.get("CONVZOO_SEED", "0"))
    for number in range(FAULTS):
        folder = shutil.copytree(stopped, tmp_path / f"damaged{number}")
        path = folder / names[number % len(names)]
        content = bytearray(path.read_bytes())
        if cut := draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        else:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            run_cell(config, folder, "")
        except ConvzooError as error:
            how = f"error: {error}"
        else:
            same(outcome(folder), outcome(expected))
            how = "right"
        seen[path.name, "cut" if cut else "flipped", how] = (
            seen.get((path.name, "cut" if cut else "flipped", how), 0) + 1
        )
        shutil.rmtree(folder)
    print("\n" + "\n".join(f"{count} × {' '.join(what)}" for what, count in sorted(seen.items())))
