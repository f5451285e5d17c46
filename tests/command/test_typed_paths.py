"""What a message says to type can be typed, whatever the folders are called."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lightning_modules.outcome import resume_hint
from lightning_modules.tracking.wandb_upload import upload_command
from zoo.text import typed

NAMES = [
    "plain",
    "sw eep ü",
    "it's",
    "ü",
    "a$b",
    "a;b",
    "-flag",
    "(1)",
    "a&b",
    "100%",
    "a=b",
    'say "so"',
    "~",
    "#1",
    "*",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_one_word(name):
    (word,) = shlex.split(typed(Path(name)), comments=True)
    assert Path(word) == Path(name) and not word.startswith("-")
    assert typed("runs/2026-01-01/a_b.c") == "runs/2026-01-01/a_b.c"


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_stopped_goes_on_in_its_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = resume_hint(tmp_path / name, "python train.py seed=1")
    *_, override = shlex.split(told.removeprefix("Resume with: "), comments=True)
    assert OverridesParser.create().parse_override(override).value() == name


@pytest.mark.parametrize("name", NAMES)
def test_an_upload_is_a_command(name, tmp_path):
    folder = tmp_path / name / "wandb" / "offline-run-1"
    folder.mkdir(parents=True)
    (folder / "run-1.wandb").touch()
    assert shlex.split(upload_command([folder / "run-1.wandb"])) == ["wandb", "sync", str(folder)]


def test_a_sweep_in_a_folder_with_a_blank(train, tmp_path):
    quick = ("task=time", "model=mobilenet", "model.variant=v3_small", "data.image_size=16", "logger=none")
    done = train("-m", *quick, "seed=0,1", "hydra.sweep.dir='sw eep ü'")
    assert done.returncode == 0, done.stderr
    command = next(line for line in done.stdout.splitlines() if "zoo report" in line)
    command = command[command.index("python") :]
    assert shlex.split(command) == ["python", "-m", "zoo", "report", "sw eep ü"]
    again = train("-m", *quick, "seed=0,1", "hydra.sweep.dir='sw eep ü'")
    assert "2 done already" in again.stdout and "in 'sw eep ü'" in again.stdout
