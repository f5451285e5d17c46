"""What several tests need: a cell trained in a few batches, and the command line."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lightning_modules.config.schema import CellSpec

ROOT = Path(__file__).resolve().parents[1]
MEASURE = {"CONVZOO_MEASURE_S": "0.03"}
"""Runs measure their speed in moments instead of seconds, in this process and in those that it starts."""

QUICK = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
USERS_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = pytest.StashKey[Path]()
MADE_ONCE = ("convzoo/kernels", "matplotlib")
"""What the first run in any home compiles or collects in seconds, and what no result depends on."""


def pytest_configure(config: pytest.Config) -> None:
    """Rough measurements stay out of the user's cache."""
    config.stash[CACHE] = cache = cache_with_kernels(Path(tempfile.mkdtemp(prefix="convzoo-tests-")))
    os.environ.update(MEASURE, XDG_CACHE_HOME=str(cache))


def pytest_collection_finish() -> None:
    """What the imports made stays: a collection looks at it no more, which takes a third of a second each time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork a process which trains come first: after a backward pass, autograd may hold threads."""
    items.sort(key=lambda item: item.get_closest_marker("forks_training") is None)


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()
    shutil.rmtree(config.stash[CACHE])


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a person without an account, in a home of their own."""
    return env_in(tmp_path)


def env_in(folder: Path) -> dict[str, str]:
    """What `clean_env` is, with its home in a folder."""
    home = folder / "home"
    cache_with_kernels(home / ".cache")
    ours = ("WANDB_", "CONVZOO_", "HYDRA_", "XDG_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return kept | MEASURE | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


def cache_with_kernels(folder: Path) -> Path:
    """An empty cache, for ``XDG_CACHE_HOME``, but for what is made once."""
    for name in MADE_ONCE:
        (kept := USERS_CACHE / name).mkdir(parents=True, exist_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(kept)
    return folder


class Command:
    """``python train.py …``, running; its process leads a session of its own.

    Args:
        pool: Forks it from a process that has imported what a run needs, as in a sweep; one that does not fork starts
            an interpreter. What it then does is the same (tests/sweep/test_pool.py).
        folder: Where it runs, an existing one.
    """

    def __init__(self, pool, arguments: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 (`end` closes them)
        words = [sys.executable, str(ROOT / "train.py"), *arguments]
        with open(os.devnull, "rb") as nothing, contextlib.chdir(folder):
            self._process = pool.popen(words, env, nothing, *self._files)
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        return self._said(0)

    @property
    def stderr(self) -> str:
        return self._said(1)

    def _said(self, number: int) -> str:
        length = os.fstat(descriptor := self._files[number].fileno()).st_size
        return os.pread(descriptor, length, 0).decode()

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float = 600) -> int:
        """Its exit code, negative for a signal."""
        self.until(lambda: self.returncode is not None, timeout)
        return self.returncode

    def until(self, happened: Callable[[], object], timeout: float = 120) -> None:
        """Waits for something that it does; fails where it ends before."""
        end = time.monotonic() + timeout
        while not happened():
            assert self.returncode is None and time.monotonic() < end, self.stdout + self.stderr
            time.sleep(0.02)

    def send(self, signum: int) -> None:
        """Sends a signal to it alone."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def press_ctrl_c(self) -> None:
        """Interrupts it and what it started in its session, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self) -> None:
        """Ends what is left of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for file in self._files:
            file.close()


@pytest.fixture(scope="session")
def forks():
    """A pool that forks ``python train.py``."""
    from lightning_modules.sweep.pool import Pool

    pool = Pool(True, "hydra_plugins.convzoo._cli:warm_up")
    yield pool
    pool.close()


@pytest.fixture
def start(forks, clean_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts ``python train.py`` in an empty folder, ``forked`` or in an interpreter of its own."""
    from lightning_modules.sweep.pool import Pool

    started = []

    def command(*arguments: str, env: dict[str, str] | None = None, forked: bool = True) -> Command:
        started.append(Command(forks if forked else Pool(False), arguments, tmp_path, clean_env | (env or {})))
        return started[-1]

    yield command
    for one in started:
        one.end()


@pytest.fixture
def train(start) -> Callable[..., Command]:
    """Runs ``python train.py`` in an empty folder to its end."""

    def command(*arguments: str, **options: object) -> Command:
        done = start(*arguments, **options)
        done.wait()
        return done

    return command


def lives(pid: int) -> bool:
    """Whether a process runs: one that has ended stays in the list until its parent asks for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cell_config(*overrides: str) -> dict:
    """The plain configuration that train.py would hand to `run_cell`."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def cell_spec(*overrides: str) -> CellSpec:
    """What `run_cell` makes of it."""
    from lightning_modules.config.schema import CellSpec

    return CellSpec.of(cell_config(*overrides))


@pytest.fixture(scope="session")
def logged(tmp_path_factory):
    """The folder of a run of two epochs, with what it logged in W&B's offline file."""
    from lightning_modules import run_cell

    folder = tmp_path_factory.mktemp("logged")
    config = cell_config("model=mobilenet", "model.variant=v3_small", "data.batch_size=8", *QUICK)
    config["trainer"]["max_epochs"] = 2
    config["logger"]["mode"] = "offline"
    run_cell(config, folder, "")
    return folder
