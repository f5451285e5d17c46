"""The ranks of a job: one that fails takes the others down, with its own error, and leaves nothing behind."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from lightning_modules.hardware import ddp as launch
from lightning_modules.hardware import oom_watch as killed
from lightning_modules.hardware.ddp import launch_ranks
from lightning_modules.hardware.oom_watch import OomWatch
from lightning_modules.hardware.signals import StopSignals
from zoo import ConvzooError

RANK = """
import json, os, signal, subprocess, sys, time
how, folder, rank = sys.argv[1], sys.argv[2], int(os.environ["RANK"])
child = subprocess.Popen(["sleep", "300"])
open(f"{folder}/{rank}", "w").write(f"{os.getpid()} {child.pid}")
while len([name for name in os.listdir(folder) if len(name) == 1]) < 2:
    time.sleep(0.01)

def tell(text, code=1):
    json.dump({"message": {"message": text}}, open(os.environ["TORCHELASTIC_ERROR_FILE"], "w"))
    sys.exit(code)

if how == "well":
    sys.exit(0)
if how == "stop":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    time.sleep(300)
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)
failing = int(how[-1])
if rank != failing:
    if how.startswith(("noticed", "aborted")):
        while not os.path.exists(folder + "/pid"):
            time.sleep(0.01)
        while os.path.exists(f"/proc/{json.load(open(folder + '/pid'))}/fd"):
            time.sleep(0.01)
        tell("RuntimeError: Connection closed by peer")
    time.sleep(300)
json.dump(os.getpid(), open(folder + "/pid.tmp", "w")); os.rename(folder + "/pid.tmp", folder + "/pid")
time.sleep(0.2)
if how.startswith("hanging"):  # says its error, and waits for the others at its exit
    try:
        tell("RuntimeError: the disk is on fire")
    except SystemExit:
        time.sleep(300)
if how.startswith(("gave-up", "aborted")):
    os.kill(os.getpid(), signal.SIGABRT)
if how.startswith("error"):
    tell("RuntimeError: the disk is on fire")
if how.startswith("mistake"):
    tell("UnfitError: type something else", 2)
if how.startswith("exit"):
    os._exit(7)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Starts two processes that end as told, with the shortest patience."""
    (tmp_path / "a_rank.py").write_text(RANK)
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("FAILED_S", "STOPPED_S"):
        monkeypatch.setattr(launch, name, 0.5)

    def start(how):
        try:
            launch_ranks(2, StopSignals(), "a_rank", how, files)
        finally:
            pids = [pid for rank in "01" for pid in (files / rank).read_text().split()]
            deadline = time.monotonic() + 20
            while left := [pid for pid in pids if alive(pid)]:
                assert time.monotonic() < deadline, left

    return start


def alive(pid: str) -> bool:
    try:
        return re.search(r"\) (\w)", Path(f"/proc/{pid}/stat").read_text())[1] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("error", RuntimeError, "rank {} of 2 failed: RuntimeError: the disk is on fire"),
        ("hanging", RuntimeError, "rank {} of 2 failed: RuntimeError: the disk is on fire"),
        ("gave-up", RuntimeError, "rank {} of 2 gave up"),
        ("aborted", ConvzooError, "rank {} of 2 was killed by SIGABRT"),
        ("mistake", ConvzooError, "type something else"),
        ("exit", ConvzooError, "rank {} of 2 ended with exit code 7"),
        ("killed", ConvzooError, "rank {} of 2 was killed by SIGKILL: out of memory"),
        ("noticed", ConvzooError, "rank {} of 2 was killed by SIGKILL: out of memory"),
    ],
)
def test_a_rank_that_fails_takes_the_others_down_with_its_own_error(how, kind, message, rank, ranks):
    """``noticed``: the other rank fails too, because of the first one, and says so."""
    with pytest.raises(kind, match=re.escape(message.format(rank))):
        ranks(f"{how}{rank}")


def test_ranks_that_end_well(ranks):
    ranks("well")


@pytest.mark.parametrize("how", ["stop", "deaf"])
def test_a_signal_reaches_the_ranks_and_ends_those_that_do_not_listen(how, ranks, tmp_path):
    def terminate():
        while not all((tmp_path / "files" / rank).exists() for rank in "01"):
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(SystemExit) as stopped:
        ranks(how)
    assert stopped.value.code == 143


def test_the_kernels_own_count_says_why_a_process_was_killed(tmp_path, monkeypatch):
    events, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    monkeypatch.setattr(killed, "CONTAINER", (str(events), str(tmp_path / "none")))
    monkeypatch.setattr(killed, "MACHINE", str(machine))
    events.write_text("low 0\nmax 31\noom 2\noom_kill 2\n")
    machine.write_text("nr_free_pages 5\noom_kill 2\n")
    watch = OomWatch()
    assert "or kill -9" in watch.why()
    machine.write_text("nr_free_pages 5\noom_kill 3\n")
    assert "probably" in watch.why()
    events.write_text("low 0\nmax 31\noom 2\noom_kill 3\n")
    assert "this container" in watch.why()
