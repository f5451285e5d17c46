"""W&B never costs a run: what happens without an account, a server or a service, and what is in the files then."""

import json
import os
import runpy
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
import wandb.sdk.launch  # its import is no part of what is timed
from conftest import ROOT, cell_config, cell_spec, lives
from unmeasured import unmeasured  # noqa: F401
from wandb_file import read_run
from wandb_peer import KEY, server

from lightning_modules import run_cell
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.config.secrets import check_secrets
from lightning_modules.results.result import read_result
from lightning_modules.tracking import wandb_service, wandb_thread
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.loggers import entries, finish_loggers, make_loggers
from lightning_modules.tracking.wandb_files import STEP, has_end, rows, run_files
from lightning_modules.tracking.wandb_logger import GRACE_S, WandbLogger
from lightning_modules.tracking.wandb_upload import upload_command

pytestmark = pytest.mark.usefixtures("unmeasured")

SHORT_S = 2.0
"""Not enough for any server."""

TIMEOUT_S = 4.0
"""Enough for a server that answers, on a busy machine too."""

SLACK_S = 8.0
"""Starting and ending W&B's service on a busy machine. W&B itself waits 10 s longer than it is told to."""


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb_service.kill_service()
    wandb_service.stop_service()


@pytest.fixture
def peer(monkeypatch):
    with server() as peer:
        for name, value in peer.environment.items():
            monkeypatch.setenv(name, value)
        yield peer


@pytest.fixture
def begin(tmp_path):
    """Starts tracking a run in ``tmp_path/run``."""

    def begin(resumed=False, **settings):
        defaults = {"name": "wandb", "mode": "auto", "project": "p", "entity": None, "group": None, "tags": None}
        (tmp_path / "run").mkdir(exist_ok=True)
        cell = {"model": "m", "seed": 0}
        spec = cell_spec()
        options = spec.logger.having(**defaults | {"timeout_s": 30} | settings)
        return Tracked(make_loggers(replace(spec, logger=options), tmp_path / "run", cell, "plain", resumed))

    return begin


class Tracked:
    """The loggers of a run."""

    def __init__(self, loggers):
        self.loggers = loggers

    @property
    def logger(self):
        (logger,) = self.loggers
        return logger

    @property
    def wandb(self):
        return entries(self.loggers)["wandb"]

    def finish(self, *outcome):
        finish_loggers(self.loggers, Outcome(*outcome))


def log(tracking, steps):
    """Logs rows as a training loop does, which must not wait for anything."""
    took = []
    for step in steps:
        before = time.perf_counter()
        tracking.logger.log_metrics({"train/loss": 1 / (1 + step), "epoch": step // 4}, step)
        took.append(time.perf_counter() - before)
    assert statistics.median(took) < 0.05


def steps(history):
    return [row[STEP] for row in history if STEP in row]


def finish(tracking, status="completed", code=0, requeued=False):
    tracking.finish({"test/acc": 0.5, "val/acc": 0.25}, status, code, requeued)


def misbehave(peer, fault):
    if fault == "gone":
        peer.stop()
    else:
        peer.fault = fault


def last_file(tracking):
    return read_run(Path(tracking.wandb["dir"]))


@pytest.mark.parametrize("fault", ["gone", "hang", 500, 401, "cut"])
def test_a_server_that_fails_at_the_start_costs_seconds_and_the_run_is_offline(peer, begin, capsys, tmp_path, fault):
    misbehave(peer, fault)
    start = time.monotonic()
    tracking = begin(timeout_s=SHORT_S)
    log(tracking, range(8))
    finish(tracking)
    assert time.monotonic() - start < SHORT_S + SLACK_S
    assert tracking.wandb["mode"] == "offline" and tracking.wandb["lost_rows"] == 0
    run = last_file(tracking)
    assert steps(run["history"]) == list(range(8)) and run["exit_code"] == 0 and run["summary"]["val/acc"] == 0.25
    out, err = capsys.readouterr()
    assert err == "" and len(out.splitlines()) == 2 and "is offline" in out
    assert out.splitlines()[1].endswith(f"Upload it with: wandb sync {tracking.wandb['dir']}")
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or KEY not in path.read_text(errors="replace"), f"the key is in {path}"


@pytest.mark.parametrize("fault", ["gone", "hang", 1.5, 401])
def test_a_server_that_fails_in_the_middle(peer, begin, capsys, fault):
    tracking = begin(timeout_s=TIMEOUT_S)
    log(tracking, range(4))
    peer.wait(lambda: peer.runs and peer.runs[tracking.wandb["id"]].count("wandb-events.jsonl"))
    misbehave(peer, fault)
    log(tracking, range(4, 8))
    start = time.monotonic()
    finish(tracking, "failed", 1)
    assert time.monotonic() - start < TIMEOUT_S + SLACK_S
    assert tracking.wandb["mode"] == "online" and tracking.wandb["lost_rows"] == 0
    run = last_file(tracking)
    assert steps(run["history"]) == list(range(8)) and run["exit_code"] == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert f"Upload it with: wandb sync --no-skip-online {tracking.wandb['dir']}" in line
    taken = len(peer.runs[tracking.wandb["id"]].history)
    exact = f"not uploaded: {9 - taken} of 9 rows" if taken < 9 else "not uploaded: the end of the run"
    # What is answered too late was not taken, as far as W&B knows.
    assert exact in line or fault == 1.5


def test_a_warning_of_w_and_b_is_no_missing_upload(peer, begin, capsys):
    """Advice to upload again what the server has would double each row."""
    tracking = begin(timeout_s=TIMEOUT_S)
    log(tracking, range(4))
    tracking.logger._thread.opened.wait()
    wandb.termwarn("something else")
    finish(tracking)
    assert tracking.wandb["upload"] is None and capsys.readouterr().out == ""
    assert [len(run.history) for run in peer.runs.values()] == [5]


def test_a_row_that_w_and_b_refuses_costs_only_that_row(begin, capsys):
    tracking = begin(mode="offline")
    for step in range(8):
        tracking.logger.log_metrics({3: 0.5} if step in (2, 5) else {"train/loss": 0.5}, step)
    finish(tracking)
    assert tracking.wandb["mode"] == "offline" and tracking.wandb["lost_rows"] == 2
    assert steps(last_file(tracking)["history"]) == [0, 1, 3, 4, 6, 7]
    *_, refused, upload = capsys.readouterr().out.splitlines()
    assert "refuses a row" in refused and "not uploaded: 7 of 7 rows" in upload


def test_rows_that_are_in_the_file_leave_the_memory(begin, monkeypatch):
    monkeypatch.setattr(wandb_thread, "MANY", 20)
    tracking = begin(mode="offline")
    thread, most = tracking.logger._thread, 0
    for part in range(0, 200, 20):
        log(tracking, range(part, part + 20))
        time.sleep(0.15)
        most = max(most, len(thread._rows) + len(thread._sent))
    finish(tracking)
    assert most < 150 and tracking.wandb["lost_rows"] == 0
    assert steps(last_file(tracking)["history"]) == list(range(200))


@pytest.fixture
def service():
    """The process of W&B's service."""
    return wandb_service.service


@pytest.mark.parametrize("fault, online", [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, True)])
def test_w_and_bs_own_service_dies_or_stands_still(begin, request, capsys, service, fault, online):
    """What it had not written yet is written by the next one; where it only hangs, it is ended when the run ends."""
    peer = request.getfixturevalue("peer") if online else None
    tracking = begin(timeout_s=30 if fault == signal.SIGKILL else TIMEOUT_S)
    log(tracking, range(4))
    os.kill(service().pid, fault)
    log(tracking, range(4, 6))
    time.sleep(1.5 if fault == signal.SIGKILL else 0)
    log(tracking, range(6, 8))
    start = time.monotonic()
    finish(tracking)
    # Nobody can tell a service that hangs from one that is busy but by waiting.
    assert time.monotonic() - start < TIMEOUT_S + GRACE_S + SLACK_S
    done = tracking.wandb
    history = [row for d in done["dirs"] for row in read_run(Path(d))["history"]]
    assert steps(history) == list(range(8)) and [row["_step"] for row in history] == list(range(9))
    assert last_file(tracking)["exit_code"] == 0 and done["lost_rows"] == 0
    if online and fault == signal.SIGKILL:
        (run,) = peer.runs.values()
        assert steps(run.history) == list(range(8)) and run.exit_codes == [0] and done["upload"] is None
        assert capsys.readouterr().out == ""
    else:
        assert all(d in done["upload"] for d in done["dirs"])


def test_w_and_b_cannot_be_started(begin, capsys, monkeypatch):
    def start(_):
        raise OSError("no such program")

    # Not a program that ends at once: W&B 0.31 locks itself up for good over the first such failure in a process.
    monkeypatch.setattr("wandb.sdk.lib.service.service_process.start", start)
    tracking = begin()
    log(tracking, range(4))
    finish(tracking)
    assert tracking.wandb["mode"] is None and tracking.wandb["dirs"] == []
    (line, lost) = capsys.readouterr().out.splitlines()
    assert "W&B" in line and tracking.wandb["lost_rows"] == 5 and "5 of 5" in lost


CANNOT_START = """
import atexit, sys, time
import wandb
from lightning_modules.tracking.base import Outcome
from lightning_modules.tracking.wandb_logger import WandbLogger
from wandb.sdk.lib.service import service_process
service_process.get_core_path = lambda: "false"
start = time.monotonic()
logger = WandbLogger({"id": "abc", "dir": sys.argv[1], "project": "p"}, True, 2)
opened = time.monotonic() - start
logger.log_metrics({"train/loss": 1.0}, 1)
start = time.monotonic()
logger.finish(Outcome({}, "failed", 7))
print(opened, time.monotonic() - start, time.monotonic(), flush=True)
sys.exit(7)
"""


def test_a_service_that_ends_at_once_costs_only_the_time_allowed(tmp_path):
    """W&B 0.31 locks itself up for good over it: neither the run nor the end of the process waits for that lock."""
    run = subprocess.run([sys.executable, "-c", CANNOT_START, str(tmp_path)], capture_output=True, text=True)
    *lines, times = run.stdout.splitlines()
    opened, finished, end = map(float, times.split())
    assert run.returncode == 7 and opened < 2 + 1 and finished < 2 * GRACE_S + 1
    assert time.monotonic() - end < SLACK_S
    assert len(lines) == 1 and "it did not start" in lines[0]


def test_w_and_b_cannot_be_imported(begin, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracking = begin()
    log(tracking, range(4))
    finish(tracking)
    assert tracking.wandb["mode"] is None and tracking.wandb["lost_rows"] == 5
    assert capsys.readouterr().out.startswith("W&B")


def test_the_service_is_killed_as_the_run_ends(peer, begin, service):
    tracking = begin(timeout_s=TIMEOUT_S)
    log(tracking, range(4))
    peer.wait(lambda: peer.runs)
    time.sleep(0.3)
    peer.fault = "hang"
    threading.Timer(0.5, lambda: service().kill()).start()
    finish(tracking, "failed", 1)
    done = tracking.wandb
    history = [row for d in done["dirs"] for row in read_run(Path(d))["history"]]
    assert steps(history) == list(range(4)) and last_file(tracking)["exit_code"] == 1
    assert all(d in done["upload"] for d in done["dirs"])


@pytest.mark.parametrize("starts", [True, False], ids=["space", "no-space"])
def test_a_full_disk(begin, capsys, tmp_path, starts):
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)]).returncode:
        pytest.skip("needs a root that may mount")
    try:
        (tmp_path / "run" / "wandb").mkdir(parents=True)
        fill = tmp_path / "fill"
        if not starts:
            with suppress(OSError), fill.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        start = time.monotonic()
        tracking = begin(mode="offline", timeout_s=10)
        for step in range(1000):
            tracking.logger.log_metrics({f"train/{i}": step / 7 for i in range(20)}, step)
        finish(tracking)
        assert time.monotonic() - start < 3 * GRACE_S + SLACK_S
        assert tracking.wandb["lost_rows"] > 100
        out, err = capsys.readouterr()
        assert err == "" and "rows are not in its file: is the disk full?" in out
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def upload(tracking, output):
    """Types the command that was printed."""
    command = output.strip().rpartition("Upload it with: ")[2]
    words = shlex.split(command)
    assert words[:2] == ["wandb", "sync"] and command == tracking.wandb["upload"]
    # W&B writes a log of its own where it is typed.
    subprocess.run([sys.executable, "-m", *words], cwd=Path(words[-1]), check=True, capture_output=True, text=True)


@pytest.mark.parametrize("code, requeued", [(1, False), (140, True)])
@pytest.mark.parametrize("modes", ["offline offline", "online online", "offline online"])
def test_a_stopped_run_goes_on_with_its_rows_and_each_end_is_the_truth(
    peer, begin, capsys, tmp_path, code, requeued, modes
):
    """A start goes on from the last checkpoint: it takes steps again that an earlier one logged already."""
    before, after = modes.split()
    first = begin(mode=before)
    log(first, range(8))
    finish(first, "failed" if code == 1 else "interrupted", code, requeued)
    file = last_file(first)
    assert file["exit_code"] == code and file.get("preempting", False) == requeued
    capsys.readouterr()
    second = begin(resumed=True, mode=after)
    log(second, range(4, 12))
    finish(second)
    assert second.wandb["id"] == first.wandb["id"] and len(second.wandb["dirs"]) == 2
    if after == "offline":
        assert peer.runs == {}
        upload(second, capsys.readouterr().out)
    (run,) = peer.runs.values()
    assert steps(run.history) == list(range(12))
    if modes == "offline online":  # of the first start the server gets the rows; its end is past
        assert run.exit_codes == [0]
    else:
        assert run.exit_codes == [code, 0] and run.preempting == requeued
    assert [row["_step"] for row in run.history] == list(range(14))
    assert run.summary["status"] == "completed" and run.summary["val/acc"] == 0.25
    starts = run_files(tmp_path / "run", second.wandb["id"])
    # `wandb sync` skips what has this mark; what it uploads twice is there twice.
    assert upload_command(starts) is None and all(path.with_suffix(".wandb.synced").exists() for path in starts)


def test_what_the_server_missed_is_sent_by_the_next_start(peer, begin):
    first = begin(timeout_s=TIMEOUT_S)
    log(first, range(4))
    peer.wait(lambda: peer.runs)
    time.sleep(0.3)
    peer.fault = 500
    finish(first, "interrupted", 130)
    (run,) = peer.runs.values()
    assert len(run.history) < 4 and first.wandb["upload"]
    peer.fault = None
    second = begin(resumed=True)
    log(second, range(2, 8))
    finish(second)
    assert steps(run.history) == list(range(8)) and run.exit_codes == [0]
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert second.wandb["upload"] is None


def test_a_run_that_starts_anew_is_another_run(peer, begin):
    ids = []
    for _ in range(3):
        tracking = begin()
        log(tracking, range(2))
        finish(tracking)
        ids.append(tracking.wandb["id"])
    assert len(set(ids)) == 3 and [len(run.history) for run in peer.runs.values()] == [3, 3, 3]


FEED = """
import sys, time
from lightning_modules.tracking.wandb_service import service
from lightning_modules.tracking.wandb_thread import WandbThread
from zoo.log import log
log.setLevel("WARNING")
thread = WandbThread({"id": "abc", "dir": sys.argv[1], "project": "p"}, sys.argv[2] == "online", 10)
thread.start()
thread.opened.wait()
print(service().pid, flush=True)
for step in range(100000):
    thread.add({"train/loss": 1.0, "epoch": 0, "trainer/global_step": step})
    print(step, flush=True)
    time.sleep(0.02)
"""


@pytest.mark.parametrize("mode, alone", [("online", True), ("offline", False)], ids=["only-the-run", "all"])
def test_rows_survive_kill_9_up_to_the_last_second(peer, tmp_path, mode, alone):
    feed = subprocess.Popen([sys.executable, "-c", FEED, str(tmp_path), mode], stdout=subprocess.PIPE, text=True)
    service = int(feed.stdout.readline())
    logged = []
    while len(logged) < 150:
        logged.append((int(feed.stdout.readline()), time.monotonic()))
    if not alone:
        os.kill(service, signal.SIGKILL)
    feed.kill()
    killed = time.monotonic()
    feed.wait()
    (path,) = run_files(tmp_path, "abc")
    safe = [step for step, at in logged if at < killed - 1.5]
    assert len(safe) > 50
    if alone:
        peer.wait(lambda: not lives(service))
        assert mode == "offline" or peer.runs["abc"].exit_codes != [0], "it did not succeed"
    found = steps(read_run(path.parent)["history"])
    assert found[: len(safe)] == safe and found == list(range(len(found)))
    # The next start brings the server what it has not got.
    logger = WandbLogger({"id": "abc", "dir": tmp_path, "project": "p"}, True, 10)
    for step in range(len(found) // 2, len(found) + 5):
        logger.log_metrics({"train/loss": 1.0, "epoch": 0}, step)
    logger.finish(Outcome({}, "completed"))
    history = peer.runs["abc"].history
    assert steps(history) == list(range(len(found) + 5)) == [row["_step"] for row in history]
    assert peer.runs["abc"].exit_codes[-1] == 0 and logger.entry["wandb"]["upload"] is None


@pytest.mark.parametrize(
    "argument",
    [
        "+logger.api_key=hello",
        "WANDB_API_KEY=hello",
        "+logger={api_key: hello, name: x}",
        "++a.b.password='hello'",
        f"logger.project={KEY}",
        f"logger.tags=[a,{KEY}]",
        f"{KEY}",
        "logger.entity=wandb_v1_abcDEF123_xyz",
        "data.root=s3://me:hello@host/x",
        "+hf=hf_" + "aB3" * 11,
    ],
)
@pytest.mark.parametrize("sweep", [(), ("-m",)], ids=["run", "sweep"])
def test_a_secret_on_the_command_line_is_refused_and_nothing_is_written(argument, sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *sweep, "seed=1,2", argument])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert refused.value.code == 2 and "wandb login" in err and "WANDB_API_KEY" in err
    assert "hello" not in out + err and KEY not in out + err and "abcDEF" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argument",
    [
        "logger.project=tokens",
        "init.checkpoint=/hub/snapshots/" + "0a" * 20 + "/best.ckpt",
        "logger.group=" + "0a" * 19,
        "+a.token=null",
        "data.root=s3://bucket/a@b:c",
        "model.key_dim=3",
    ],
)
def test_what_is_no_secret(argument):
    check_secrets([argument])


SMALL = (
    "model=mobilenet",
    "model.variant=v3_small",
    "data.image_size=8",
    "data.batch_size=8",
    "hardware=cpu",
    "hardware.threads=1",
    "hardware.plan=fp32_fast",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=1",
)


def outcome(result):
    """What W&B must not change."""
    return {k: v for k, v in result["metrics"].items() if k.startswith(("test/", "val/", "train/", "cost/"))}


@pytest.fixture(scope="module")
def untracked(tmp_path_factory, unmeasured):  # noqa: F811
    return outcome(run_cell(cell_config(*SMALL, "logger=none"), tmp_path_factory.mktemp("untracked"), ""))


def test_a_run_whose_server_and_service_fail_has_the_same_metrics(peer, tmp_path, monkeypatch, untracked, service):
    """The server answers 500 in the middle, then the service is killed, then the server is gone."""
    config = cell_config(*SMALL, f"logger.timeout_s={TIMEOUT_S}")
    batches = []

    def disturb(self, trainer, module, images, index):
        batches.append(index)
        if len(batches) == 2:
            peer.fault = 500
        if len(batches) == 4:
            service().kill()
        if len(batches) == 5:
            peer.stop()

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", disturb)
    result = run_cell(config, tmp_path, "")
    assert outcome(result) == untracked and result["status"] == "completed"
    assert result == read_result(tmp_path)
    known = result["wandb"]
    assert known["lost_rows"] == 0 and len(known["dirs"]) == 2 and all(d in known["upload"] for d in known["dirs"])
    logged = [row for d in known["dirs"] for row in read_run(Path(d))["history"]]
    assert [row["train/loss"] for row in logged if "train/loss" in row]
    assert [row["_step"] for row in logged] == list(range(len(logged)))
    assert last_file_of(result)["exit_code"] == 0


def last_file_of(result):
    return read_run(Path(result["wandb"]["dir"]))


@pytest.mark.parametrize(
    "ending, scheduler",
    [("SIGINT", False), ("SIGUSR2", False), ("SIGUSR2", True), ("SIGTERM", True), ("an error", True)],
)
def test_w_and_b_knows_how_a_run_ended(tmp_path, monkeypatch, ending, scheduler):
    if scheduler:
        monkeypatch.setenv("CONVZOO_REQUEUES", "1")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        scontrol = tmp_path / "scontrol"
        scontrol.write_text("#!/bin/sh\necho JobId=7 PreemptTime=None\n")
        scontrol.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def stop(*_):
        if ending == "an error":
            raise ValueError("a bug")
        os.kill(os.getpid(), getattr(signal, ending))

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", stop)
    with pytest.raises((SystemExit, ValueError)):
        run_cell(cell_config(*SMALL), tmp_path, "")
    result = json.loads((tmp_path / "result.json").read_text())
    run = last_file_of(result)
    code = 1 if ending == "an error" else 128 + getattr(signal, ending)
    assert (run["exit_code"], run["summary"]["status"]) == (code, "failed" if code == 1 else "interrupted")
    assert run.get("preempting", False) == (scheduler and ending == "SIGUSR2")


def test_switched_off(begin, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracking = begin()
    finish(tracking)
    assert tracking.wandb == {"id": None, "mode": "disabled", "dir": None} and not (tmp_path / "run" / "wandb").exists()


@pytest.mark.parametrize("host, mode", [("127.0.0.1", "online"), ("other.example.org", "offline"), (None, "offline")])
def test_a_key_in_netrc_counts(peer, begin, monkeypatch, tmp_path, host, mode):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "mine"))
    if host:
        (tmp_path / "mine").write_text(f"machine {host}:{peer.port}\n  login user\n  password {KEY}\n")
    tracking = begin()
    finish(tracking)
    assert tracking.wandb["mode"] == mode and bool(peer.runs) == (mode == "online")


def test_a_file_that_was_cut_or_damaged_is_read_up_to_there(begin, tmp_path):
    tracking = begin(mode="offline")
    log(tracking, range(20))
    finish(tracking)
    (path,) = run_files(tmp_path / "run", tracking.wandb["id"])
    whole = path.read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], whole[:5], b"", whole[:3000] + b"\xff" + whole[3001:]):
        path.write_bytes(content)
        found = steps(rows(path))
        assert found == list(range(len(found))) and len(found) <= 20 and not has_end(path)
