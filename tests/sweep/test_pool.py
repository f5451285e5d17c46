"""Processes from the pool: like fresh ones in all that a job can see, and each for itself."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, lives

from lightning_modules.hardware.process import server_environment
from lightning_modules.sweep.pool import Forked, Pool

FACTS = """
import json, os, random, signal, sys
import torch
print(json.dumps({
    "argv": sys.argv, "name": __name__, "path": sys.path[0], "file": __file__, "cwd": os.getcwd(),
    "main": sys.modules["__main__"].__dict__["__name__"], "environment": dict(os.environ),
    "leads a session": os.getsid(0) == os.getpid(), "parent": os.getppid(), "threads": torch.get_num_threads(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    "terminate": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    "input": sys.stdin.read(), "files": sorted(os.listdir("/proc/self/fd"))[:3], "drawn": random.random(),
}))
print("to stderr", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def pool():
    """A pool whose server imports nothing in advance."""
    pool = Pool(True)
    if not pool.forks:
        pytest.skip("this system cannot adopt processes")
    yield pool
    pool.close()


def run(pool, tmp_path, code, *arguments, **environment):
    """Runs code as a script; the exit code, what it printed, and the process."""
    script, log = tmp_path / "script.py", tmp_path / "log.txt"
    script.write_text(code)
    with log.open("wb") as out, open(os.devnull, "rb") as nothing:
        words = [sys.executable, str(script), *arguments]
        process = pool.popen(words, os.environ | environment, nothing, out, out)
    return process.wait(), log.read_text(), process


def test_a_forked_process_sees_what_a_fresh_one_sees(pool, forks, tmp_path):
    found = []
    for starter in (Pool(False), forks, forks):
        code, log, process = run(starter, tmp_path, FACTS, "a=1", "b c", OMP_NUM_THREADS="2", MARK="x")
        assert code == 0 and "to stderr" in log, log
        found.append(json.loads(log.splitlines()[0] if log.startswith("{") else log.splitlines()[1]))
        assert isinstance(process, Forked) == (starter is forks)
    fresh, first, second = found
    assert fresh["threads"] == 2 and fresh["leads a session"] and fresh["parent"] == os.getpid()
    assert first.pop("drawn") != second.pop("drawn")
    for variables in (fresh["environment"], first["environment"]):
        # Intel's OpenMP library, where it is there, writes its own state into the environment.
        for key in [key for key in variables if key.startswith(("KMP_", "__KMP"))]:
            del variables[key]
    assert first == {key: value for key, value in fresh.items() if key != "drawn"}


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("import sys; sys.exit('words')", 1, "words"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import os; os._exit(5)", 5, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV, ""),
        ("import atexit; atexit.register(print, 'at exit')", 0, "at exit"),
        ("import threading; threading.Thread(target=print, args=['a thread']).start()", 0, "a thread"),
    ],
)
def test_how_a_process_ends_is_told_and_harms_no_other(pool, tmp_path, code, ends, says):
    ended, log, process = run(pool, tmp_path, code)
    assert ended == ends and says in log and isinstance(process, Forked)
    assert "leaked" not in log
    assert run(pool, tmp_path, "print('the next one')")[:2] == (0, "the next one\n")


def test_a_module_runs_as_with_m(pool, tmp_path):
    log = tmp_path / "log.txt"
    with log.open("wb") as out, open(os.devnull, "rb") as nothing:
        words = [sys.executable, "-m", "zoo", "report", "--help"]
        assert pool.popen(words, os.environ, nothing, out, out).wait() == 0
    assert "usage: python -m zoo report" in log.read_text()


def test_without_the_server_a_job_starts_python_by_itself(tmp_path, capsys):
    pool = Pool(True)
    if not pool.forks:
        pytest.skip("this system cannot adopt processes")
    assert run(pool, tmp_path, "")[0] == 0
    os.kill(pool._server.pid, signal.SIGKILL)
    code, log, process = run(pool, tmp_path, "print('all the same')")
    assert (code, log) == (0, "all the same\n") and not isinstance(process, Forked) and not pool.forks
    assert "pool" in capsys.readouterr().out
    run(pool, tmp_path, "")
    assert not capsys.readouterr().out


ORPHAN = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"]).pid)
"""


def test_what_a_job_leaves_behind_is_no_zombie(pool, tmp_path):
    orphan = int(run(pool, tmp_path, ORPHAN)[1])
    (tmp_path / "seven.py").write_text("raise SystemExit(7)")
    with (tmp_path / "log.txt").open("w") as out:
        running = pool.popen([sys.executable, str(tmp_path / "seven.py")], os.environ, out, out, out)
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{orphan}") and time.monotonic() < end:
        pool.reap()
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{orphan}")
    assert running.wait() == 7, "a job's exit code is the launcher's to read"


LAUNCHER = """
import os, signal, sys
from lightning_modules.sweep.pool import Pool
pool = Pool(True)
with open(os.devnull, "r+b") as nothing:
    code = "import time; time.sleep(100)"
    open("sleep.py", "w").write(code)
    process = pool.popen([sys.executable, "sleep.py"], os.environ, nothing, nothing, nothing)
print(pool._server.pid, process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_when_the_launcher_is_killed_its_jobs_go_on_and_the_server_ends(pool, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-c", LAUNCHER]
    done = subprocess.run(launcher, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    server, job = map(int, done.stdout.split())
    try:
        end = time.monotonic() + 30
        while lives(server) and time.monotonic() < end:
            time.sleep(0.05)
        assert not lives(server) and lives(job)
    finally:
        os.kill(job, signal.SIGKILL)


def test_what_scikit_learn_finds_installed_does_not_keep_the_pool_from_forking():
    pytest.importorskip("pyarrow")
    count = "import os, pyarrow; print(len(os.listdir('/proc/self/task')))"
    said = subprocess.check_output([sys.executable, "-c", count], env=server_environment(os.environ), text=True)
    assert said.strip() == "1"
