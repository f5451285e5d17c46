"""Faults, injected for real: cut and changed files, a full disk, signals and limits of time at any moment."""

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

import pytest
import torch
from conftest import ROOT, cell_config, cell_spec
from small_disk import fill, full_for_a_while, small_disk  # noqa: F401
from stopping import SMALL, outcome, same, stop_at_batch

import zoo
from lightning_modules import run_cell
from lightning_modules.cell import Cell
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.checkpoint.resume import find_last
from lightning_modules.classifier import Classifier
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.signals import Stopped, StopSignals
from lightning_modules.results.files import UNFINISHED
from lightning_modules.results.result import read_result
from zoo.deploy.verify_checkpoint import DamagedError, read_checked
from zoo.errors import ConvzooError
from zoo.report.runs import read_run
from zoo.rules import seconds_of

CONFIG = (*SMALL, "checkpoint.every_s=0", "hardware.plan=fp32")


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    """Speeds are not what is tested here, and take more time than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cell, "_inference_speed", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_cell(cell_config(*CONFIG), folder, "a command")
    return outcome(folder)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        stop_at_batch(patch, 7)
        run_cell(cell_config(*CONFIG), folder, "a command")
    return folder


def flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def test_no_bit_of_a_checkpoint_changes_unseen(tmp_path):
    content = {"weights": torch.arange(5.0), "step": 3, "name": "a name"}
    path = tmp_path / "a.ckpt"
    torch.save(content, path)
    whole, draw = path.read_bytes(), random.Random(0)
    seen = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            read = read_checked(path)
        except DamagedError:
            seen += 1
            continue
        # Padding, dates and the like: what is read is what was written.
        assert torch.equal(read.pop("weights"), content["weights"])
        assert read == {"step": 3, "name": "a name"}
    assert seen > len(whole) / 4
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"a\.ckpt is damaged"):
            read_checked(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"last.ckpt": flip, "epochs.jsonl": cut}, r"last\.ckpt is damaged.*\n.* last-previous\.ckpt, .*6"),
        ({"last.ckpt": os.unlink}, r"last-previous\.ckpt, .*6"),
        ({"last.ckpt": cut, "last-previous.ckpt": flip}, r"last\.ckpt is damaged(.*\n)+.*from scratch"),
        ({"best.ckpt": flip}, r"best\.ckpt is damaged(.*\n)+.*from scratch"),
        ({"best.ckpt": os.unlink, "result.json": cut}, r"best\.ckpt.* is missing(.*\n)+.*from scratch"),
    ],
    ids=["last", "no-last", "both", "best", "no-best"],
)  # fmt: skip
def test_a_damaged_file_is_said_and_costs_time_only(damage, says, stopped, expected, tmp_path, capsys):
    # Elsewhere: a folder may be moved.
    folder = shutil.copytree(stopped, tmp_path / "moved")
    for name, how in damage.items():
        how(folder / name)
    if "best.ckpt" in damage:
        with pytest.raises(ConvzooError, match=r"best\.ckpt is"):
            zoo.load(folder / "best.ckpt")
    (folder / f"last.ckpt{UNFINISHED}").write_text("half")
    run_cell(cell_config(*CONFIG), folder, "a command")
    assert re.search(says, capsys.readouterr().out)
    same(outcome(folder), expected)
    assert not list(folder.glob(f"*{UNFINISHED}")) and not list(folder.glob("last*"))


def test_no_byte_of_a_result_changes_unseen(stopped, tmp_path):
    whole, draw = (stopped / "result.json").read_bytes(), random.Random(0)
    result, seen = read_result(stopped), 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        (tmp_path / "result.json").write_bytes(changed)
        try:
            # White space, or the checksum's own name.
            assert read_result(tmp_path).items() >= result.items()
        except ValueError:
            seen += 1
            assert read_run(tmp_path).status == "unreadable"
    assert seen > 0.8 * len(whole)


def test_a_best_checkpoint_that_is_newer_than_the_last_one(stopped, expected, tmp_path, monkeypatch):
    """kill -9 after best.ckpt was written and before last.ckpt was."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    last = (folder / "last.ckpt").read_bytes()
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)  # in the next epoch
        with pytest.raises(SystemExit):
            run_cell(cell_config(*CONFIG), folder, "a command")
    (folder / "last.ckpt").write_bytes(last)
    run_cell(cell_config(*CONFIG), folder, "a command")
    same(outcome(folder), expected)


def test_a_full_disk_that_gets_room_again_costs_nothing(small_disk, expected, capsys, monkeypatch):  # noqa: F811
    folder = small_disk / "run"
    full_for_a_while(small_disk, monkeypatch)
    run_cell(cell_config(*CONFIG), folder, "a command")
    said = capsys.readouterr().out
    assert said.count("could not be written (No space left on device: 0 MB free") >= 1
    assert said.count("ckpt could not be written") == 1 and said.count("ckpt was written") == 1
    same(outcome(folder), expected)


def test_a_full_disk_ends_with_a_message_and_goes_on_later(small_disk, expected, capsys, monkeypatch):  # noqa: F811
    folder = small_disk / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_start", lambda *_: fill(small_disk))
        with pytest.raises(ConvzooError, match=r"best\.ckpt could not be written \(No space .* needed"):
            run_cell(cell_config(*CONFIG), folder, "a command")
    assert not list(folder.glob(f"*{UNFINISHED}"))
    assert "result.json could not be written" in capsys.readouterr().out
    (small_disk / "others").unlink()
    run_cell(cell_config(*CONFIG), folder, "a command")
    same(outcome(folder), expected)


def test_a_log_on_a_full_disk_costs_its_lines_only(small_disk):  # noqa: F811
    """Where a sweep's jobs print is where their files are."""
    code = "from lightning_modules.hardware.process import keep_output; keep_output(); "
    code += "print('x' * 9999, flush=True); print('y')"
    with (small_disk / "log.txt").open("wb") as log:
        fill(small_disk)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=log, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("where", "name", "signum"),
    [
        (Cell, "_choose_plan", signal.SIGUSR1),
        (Classifier, "validation_step", signal.SIGUSR2),
        (Classifier, "test_step", signal.SIGINT),
        (Cell, "_inference_speed", signal.SIGTERM),
    ],
)
def test_a_signal_at_any_time_interrupts(where, name, signum, expected, tmp_path, monkeypatch, capsys):
    method = getattr(where, name)

    def stopped(*arguments):
        os.kill(os.getpid(), signum)
        return method(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, stopped)
        with pytest.raises(SystemExit) as end:
            run_cell(cell_config(*CONFIG), tmp_path, "python train.py seed=0")
    assert end.value.code == 128 + signum
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["error"]) == ("interrupted", f"stopped by {signal.Signals(signum).name}")
    assert "python train.py seed=0 hydra.run.dir=" in capsys.readouterr().out
    # A validation is waited for: its epoch is not lost.
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True) if name == "validation_step" else {"epoch": 0}
    assert saved["epoch"] == 0 and (name != "validation_step" or saved["global_step"] == 4)
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_long_validation_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.checkpoint.last.PATIENCE_S", 0)
    validate = Classifier.validation_step

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*arguments)

    monkeypatch.setattr(Classifier, "validation_step", stopped)
    with pytest.raises(SystemExit):
        run_cell(cell_config(*CONFIG), tmp_path, "a command")
    # The last batch before it is not yet in it.
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_limit_of_time_interrupts(expected, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_start", lambda *_: time.sleep(1))
        with pytest.raises(SystemExit) as end:
            run_cell(cell_config(*CONFIG, "trainer.max_time=00:00:02"), tmp_path, "a command")
    result = json.loads((tmp_path / "result.json").read_text())
    assert end.value.code == 124 and result["status"] == "interrupted" and "trainer.max_time" in result["error"]
    # The limit is no part of the recipe.
    run_cell(cell_config(*CONFIG), tmp_path, "a command")
    same(outcome(tmp_path), expected)


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:10", 10), ("90:00", 5400), ("01:00:00", 3600), ("02:00:00:01", 172801), (None, None)]
)
def test_how_a_limit_of_time_is_written(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["10", 10, "1:2", "00:00", "a:00", "-1:00", ""])
def test_what_is_no_time_is_refused(text):
    from lightning_modules.config.check import check

    config = cell_config(*CONFIG)
    config["trainer"]["max_time"] = text
    with pytest.raises(ConvzooError, match=r"trainer\.max_time=.* HH:MM:SS"):
        check(CellSpec.of(config))


def test_two_deterministic_runs_have_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "")
    config = cell_config(*SMALL, "trainer.deterministic=true", "trainer.max_epochs=1", "data.augment.mixup=0.2")
    try:
        for name in "ab":
            torch.rand(3)
            run_cell(config, tmp_path / name, "a command")
    finally:
        torch.use_deterministic_algorithms(False)
    same(outcome(tmp_path / "a"), outcome(tmp_path / "b"))
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["environment"]["plan_why"] == "not measured: trainer.deterministic"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    "error", [OSError(116, "Stale file handle"), MemoryError(), RuntimeError("can't allocate memory")]
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(error, tmp_path, monkeypatch):
    """The run must not start anew, and write over it, because a network file system has a bad moment."""
    path = tmp_path / "last.ckpt"
    torch.save({"convzoo": {}}, path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ConvzooError, match=r"cannot be read|not enough memory"):
        find_last(tmp_path, cell_spec())
    assert path.exists()


def test_a_rank_that_crashes_after_the_result_is_written_costs_nothing(tmp_path, monkeypatch, capsys):
    config = cell_config(*SMALL, "hardware=ddp")

    def ranks(*_):
        result = {
            "status": "completed",
            "id": cell_id(CellSpec.of(config)),
            "cell": {},
            "metrics": {},
            "environment": {},
        }
        (tmp_path / "result.json").write_text(json.dumps(result))
        raise ConvzooError("rank 1 of 2 was killed by SIGSEGV.")

    monkeypatch.setattr("lightning_modules.run.launch_ranks", ranks)
    assert run_cell(config, tmp_path, "a command")["status"] == "completed"
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "completed"
    assert "SIGSEGV" in capsys.readouterr().out


@pytest.mark.parametrize("wait", [True, False])
def test_the_same_signal_twice_at_once_counts_once(wait):
    signals = StopSignals(wait=wait)
    signals.install()
    try:
        with contextlib.nullcontext() if wait else pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.pending == signal.SIGTERM
    finally:
        signals.restore()
