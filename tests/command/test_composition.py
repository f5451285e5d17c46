"""A user's own configuration: the printed command, and every job of a sweep, composes the very same cell again."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import runpy
import shlex
import sys
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any

import pytest
import wandb.sdk.launch  # noqa: F401 (each fork would import it)
from conftest import QUICK, ROOT, cell_spec
from PIL import Image

import lightning_modules.hardware.devices  # noqa: F401 (likewise, with torch)
from hydra_plugins.convzoo._cli import load_configuration
from lightning_modules.config.identity import cell_id
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.process import prepare
from lightning_modules.sweep.jobs import Job
from lightning_modules.sweep.jobs import command as job_command

FILES = {
    "cn/small.yaml": "defaults: [config, override model: mobilenet, _self_]\noptim: {lr: 0.0123}\n",
    "cn/experiment/mine.yaml": "# @package _global_\ndefaults: [override /act: relu]\noptim: {weight_decay: 0.017}\n",
    "cn/data/mine.yaml": "defaults: [synthetic, _self_]\nimages: 48\nimage_size: 24\n",
    "cn/data/augment/strong.yaml": "hflip: true\nshift: 0.3\n",
    "cn/recipe/fast.yaml": "# @package _global_\noptim: {lr: 0.5}\n",
    "cn/optim/slow.yaml": "defaults: [sgd, _self_]\nlr: 0.0001\n",
    "cn/many.yaml": "defaults: [small, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '3,4'}}}\n",
    "cn/found.yaml": "defaults: [config, override data: lab, _self_]\nhydra: {searchpath: ['file://more dirs']}\n",
    "more dirs/data/lab.yaml": "defaults: [synthetic, _self_]\nimages: 80\n",
    "cn/own.yaml": "defaults: [small, _self_]\noptim: {weight_decay: '${hydra:job.num}'}\n"
    "data: {root: '${hydra:runtime.cwd}'}\n",
    "whole/base.yaml": "defaults: [config, _self_]\nhydra: {searchpath: ['pkg://zoo.conf.convzoo']}\nseed: 11\n",
}
CELL = ("data.batch_size=8", "model.variant=v3_small", "logger=none", *QUICK)
"""Trained in a moment."""

ASKED = {
    "name": ["--config-dir", "cn", "-cn", "small", "data=mine"],
    "absolute": ["-cd={here}/cn", "--config-name=small", "optim.weight_decay=0.3"],
    "experiment": ["--config-d", "cn", "+experiment=mine"],
    "searchpath": ["hydra.searchpath=['file://more dirs',file://cn]", "data=lab", "+experiment=mine"],
    "in the file": ["--config-dir", "cn", "-cn", "found"],
    "path": ["-cp", "{here}/cn", "-cn", "small", "hydra.searchpath=[file://{root}/conf]", "+experiment=mine"],
    "whole": ["--config-path={here}/whole", "--config-name=base", "seed=4"],
    "hydra's values": ["--config-dir=cn", "-cn=own", "hydra.job.num=7"],
    "group": ["--config-dir=cn", "+recipe=fast", "+data/augment=strong"],
    "package": ["--config-dir=cn", "+data/augment@data.augment=strong", "+experiment@_global_=mine"],
    "environment": ["--config-dir=cn", "+hydra.job.env_set.LR=0.25", "optim.lr='${{oc.decode:${{oc.env:LR}}}}'"],
    "ours": ["act=relu"],
}


@pytest.fixture(scope="module", autouse=True)
def warm():
    load_configuration()
    prepare("wandb")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with configurations of a user's own."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def asked(name: str, here: Path) -> list[str]:
    return [word.format(here=here, root=ROOT) for word in ASKED[name]]


def hydra_calls(replaced: str, words: list[str], folder: Path, env: dict[str, str]) -> tuple[Any, ...]:
    """What train.py calls a function with, in place of which it ends; in a process of its own."""
    told, tell = Pipe(duplex=False)

    def program() -> None:
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        module, _, name = replaced.rpartition(".")
        setattr(importlib.import_module(module), name, lambda *given, **_: (tell.send(given), os._exit(0)))
        sys.argv = [str(ROOT / "train.py"), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")

    process = get_context("fork").Process(target=program)
    process.start()
    tell.close()
    try:
        return told.recv()
    finally:
        process.join()


def compose(words: list[str], folder: Path, env: dict[str, str]) -> tuple[CellSpec, str]:
    """The cell that these words mean, and its printed command."""
    settings, _, command, _ = hydra_calls("lightning_modules.run_cell", words, folder, env)
    return settings, command


def jobs_of(words: list[str], folder: Path, env: dict[str, str], multirun: Any = ("-m",)) -> tuple[list[Job], Path]:
    """The jobs of a sweep, and its folder."""
    words = [*multirun, *words, "hydra.launcher.pool=false"]
    jobs, _, _, where, _ = hydra_calls("lightning_modules.sweep.driver.run_sweep", words, folder, env)
    return jobs, where


@pytest.mark.parametrize("name", ASKED)
def test_the_printed_command_composes_the_same_cell(name, here, clean_env):
    settings, command = compose(asked(name, here), here, clean_env)
    again = shlex.split(command)
    assert (here / again[1]).samefile(ROOT / "train.py")
    assert compose(again[2:], here, clean_env) == (settings, command)
    assert cell_id(settings) != cell_id(cell_spec())


@pytest.mark.parametrize("name", ASKED)
def test_every_job_of_a_sweep_composes_its_cell(name, here, clean_env):
    (_, job), _ = jobs_of([*asked(name, here), "seed=5,6"], here, clean_env)
    composed, command = compose(job_command(job)[2:], here, clean_env)
    assert (composed, command) == (job.spec, job.reproduce) and composed.seed == 6
    assert compose(shlex.split(command)[2:], here, clean_env) == (composed, command)


@pytest.mark.parametrize("name", ["name", "searchpath", "path"])
def test_a_job_is_composed_in_any_folder(name, here, clean_env):
    (_, job), _ = jobs_of([*asked(name, here), "seed=5,6"], here, clean_env)
    (other := here / "elsewhere").mkdir()
    assert compose(job_command(job)[2:], other, clean_env)[0] == job.spec


def test_a_configuration_that_asks_for_a_sweep_has_jobs_that_are_none(here, clean_env):
    (job, _), _ = jobs_of(["--config-dir=cn", "-cn", "many"], here, clean_env, multirun=())
    for words in (job_command(job)[2:], shlex.split(job.reproduce)[2:]):
        assert compose(words, here, clean_env) == (job.spec, job.reproduce)


SWEEP = ["seed=0,1"]
MINE = ["--config-dir=cn", "-cn=small"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (MINE, ["-cd", "{here}/cn", "--config-name", "small"], True),
        (
            MINE,
            [*MINE, "hydra.verbose=true", "hydra.launcher.jobs=1", "hydra.job.chdir=true", "sweep.fail_fast=true"],
            True,
        ),
        (MINE, [], False),
        (MINE, ["--config-dir=cn", "-cn=many"], False),
        (["hydra.searchpath=[file://cn]"], ["hydra.searchpath=[file://{here}/cn]"], True),
        (["hydra.searchpath=[file://cn]"], [], False),
    ],
)
def test_a_sweep_of_another_configuration_has_another_folder(one, other, same, here, clean_env):
    one, other = (jobs_of([word.format(here=here) for word in [*w, *SWEEP]], here, clean_env)[1] for w in (one, other))
    assert (one == other) == same


def test_the_folder_of_a_sweep_is_that_of_earlier_versions(here, clean_env):
    assert str(jobs_of(["act=relu", *SWEEP], here, clean_env)[1]) == "runs/sweep-seed-sd36ce75"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config-dir=cn", "data=mne"], "data=mine"),
        (["-cd=cn", "+experiment=min"], "experiment=mine"),
        (["hydra.searchpath=[file://cn]", "optim=slw"], "optim=slow"),
        (["--config-dir=cn", "+recipes=fast"], "there is no key recipes"),
        (["--config-dir=cn", "+recipe.x=1"], "there is no key recipe.x"),
        (["--config-dir=cn", "~seed"], "seed=VALUE"),
        (["--config-dir=cn", "+x._target_=os.system"], "no code"),
        (["--config-dir=cn", "-cn=small", "logger.tags=[password=secret]"], "password"),
    ],
)
def test_what_is_wrong_beside_a_users_own_configuration_is_told(words, says, here, clean_env, capfd):
    with pytest.raises(EOFError):
        compose(words, here, clean_env)
    said = capfd.readouterr().err
    assert says in said and "Traceback" not in said


def test_with_chdir_paths_are_relative_to_where_the_command_was_typed(here, clean_env, train):
    """Folders of images and of configurations, a checkpoint, the printed command, and the id of the cell."""
    for split, name, number in itertools.product(("train", "val", "test"), "ab", range(8)):
        path = here / "images" / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 20, 0, 200 if name == "a" else 0)).save(path)
    words = ["--config-dir=cn", "-cn=small", "data=imagefolder", "data.root=images", *CELL]
    dense = train(*words, "conv=standard", "hydra.run.dir=dense", "hydra.job.chdir=true", "hydra.output_subdir=null")
    assert dense.returncode == 0, dense.stderr
    words += ["conv=spatial", "init=svd", "init.checkpoint=dense/best.ckpt", "hydra.job.chdir=true"]
    for flags, way in (([], ["hydra.run.dir=run/one"]), (["-m"], ["seed=0,1", "hydra.sweep.dir=sweep"])):
        done = train(*flags, *words, *way)
        assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in here.glob("*/*/result.json")]
    assert len(results) == 3
    for result in results:
        settings, command = compose(shlex.split(result["command"])[2:], here, clean_env)
        assert (cell_id(settings), command) == (result["id"], result["command"])
