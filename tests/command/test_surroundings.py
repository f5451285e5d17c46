"""Where a run takes place: strange names, no home, no reader, no locale, folders that cannot be written."""

import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from tiny_cell import TINY

from lightning_modules.hardware.process import _Output

STRANGE = 'ü名 "quoted" it\'s a=b,c%d $x'
TRAIN = [sys.executable, str(ROOT / "train.py")]


def quoted(path):
    """A text that Hydra takes as it is."""
    return "'" + str(path).replace("'", r"\'") + "'"


def test_a_run_needs_no_home_no_locale_no_input_and_no_reader(clean_env, tmp_path):
    """All at once: each start of the command takes seconds."""
    environment = clean_env | {"HOME": "/proc/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    overrides = [o for o in TINY if not o.startswith("logger")]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*TRAIN, *overrides, f"hydra.run.dir={quoted(tmp_path / STRANGE)}"],
        env={k: v for k, v in environment.items() if k != "XDG_CACHE_HOME"} | {"TMPDIR": str(tmp_path / "none")},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o077,
    )
    os.close(writing)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / STRANGE / "result.json").exists() and (tmp_path / STRANGE / "best.ckpt").exists()
    report = subprocess.run(
        [sys.executable, "-m", "zoo", "report", STRANGE, "--html", "ü.html"],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
    )
    assert report.returncode == 0 and b"1 completed" in report.stdout, report.stderr
    assert (tmp_path / "ü.html").stat().st_size > 10_000


@pytest.mark.parametrize("module", ["train.py", "-m zoo report"])
def test_closed_streams_and_a_folder_that_has_gone(tmp_path, module):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd '{gone}' && rmdir '{gone}' && PYTHONPATH={ROOT} '{sys.executable}' "
    command += f"{ROOT / module} seed=1" if module == "train.py" else f"{module} ."
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], cwd=tmp_path).returncode != 0


def test_a_folder_that_cannot_be_used_is_one_line(clean_env, tmp_path):
    (tmp_path / "file").touch()
    long = "a" * 300
    for folder, says in (("file", "file: File exists."), (long, "File name too long."), ("/proc/x/y", "No such file")):
        done = subprocess.run(
            [*TRAIN, f"hydra.run.dir={folder}"], env=clean_env, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and says in done.stderr and "hydra.run.dir=FOLDER" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("where", ["a full disk", "a pipe that nobody reads"])
def test_what_cannot_be_printed_stops_nothing(where):
    if where == "a full disk":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, end = os.pipe()
        os.close(reading)
    with io.TextIOWrapper(io.BufferedWriter(_Output(end, "wb"))) as stream:
        print("a line" * 10_000, file=stream, flush=True)
