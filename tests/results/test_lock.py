"""One process at a time in a folder, wherever the other one runs."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from lightning_modules.results import lock
from lightning_modules.results.lock import Lock
from zoo.errors import ConvzooError
from zoo.report.lock_state import is_locked


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.1)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    code = (
        "import sys; from pathlib import Path; from lightning_modules.results.lock import Lock\n"
        "with Lock(Path(sys.argv[1]), 'a run'): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "job.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_and_told_who_the_first_is(tmp_path, holder):
    assert is_locked(tmp_path / "job.lock")
    with pytest.raises(ConvzooError, match=f"process {holder.pid} on {socket.gethostname()}"):
        Lock(tmp_path / "job.lock", "a run").__enter__()


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_what_a_dead_process_left_is_taken_at_once(tmp_path, holder, how, capsys):
    holder.kill() if how == "killed" else holder.communicate()
    holder.wait()
    assert bool((tmp_path / "job.lock").read_text()) == (how == "killed")
    with Lock(tmp_path / "job.lock", "a run"):
        assert str(os.getpid()) in (tmp_path / "job.lock").read_text()
    assert capsys.readouterr().out == "" and (tmp_path / "job.lock").read_text() == ""


def beating(path, until):
    while not until.wait(0.05):
        os.utime(path)


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("locks", ["of each machine", "none"])
def test_a_holder_that_no_lock_shows_is_seen_by_its_signs_of_life(tmp_path, monkeypatch, alive, locks):
    path, end, host = tmp_path / "job.lock", threading.Event(), "elsewhere"
    if locks == "none":

        def no_locks(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "lockf", no_locks)
        host = socket.gethostname()
    path.write_text(f"process 7 on {host}")
    thread = threading.Thread(target=beating, args=(path, end if alive else threading.Event()), daemon=True)
    if alive:
        thread.start()
    try:
        if alive:
            with pytest.raises(ConvzooError, match=f"process 7 on {host}"):
                Lock(path, "a run").__enter__()
        else:
            with Lock(path, "a run"):
                if locks == "of each machine":
                    # In another process: to close a file gives up the locks that this one has on it.
                    code = (
                        "import sys, pathlib as p, zoo.report.lock_state as l; print(l.is_locked(p.Path(sys.argv[1])))"
                    )
                    seen = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
                    assert seen.stdout.strip() == "True"
                assert f"process {os.getpid()}" in path.read_text()
    finally:
        end.set()


@pytest.mark.parametrize(
    ("left", "age", "seen"),
    [("", 0, False), ("elsewhere", 0, True), ("elsewhere", 60, False), ("elsewhere", -7200, False)],
)
def test_a_report_sees_a_holder_on_another_machine_by_its_signs_of_life(tmp_path, left, age, seen):
    path = tmp_path / "job.lock"
    path.write_text(left and f"process 7 on {left}")
    os.utime(path, (time.time() - age,) * 2)
    assert is_locked(path) == seen
    if left:
        path.write_text(f"process 7 on {socket.gethostname()}")
        assert not is_locked(path)


def test_a_held_lock_shows_signs_of_life(tmp_path):
    path = tmp_path / "job.lock"
    with Lock(path, "a run"):
        first = path.stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while path.stat().st_mtime_ns == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime_ns > first
    time.sleep(0.3)
    assert path.stat().st_mtime_ns == (time.sleep(0.3), path.stat().st_mtime_ns)[1]
