"""What several tests need: a cell trained in a few batches, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a person without an account, in a home of their own."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "CONVZOO_", "HYDRA_"))}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def train(clean_env: dict[str, str], tmp_path: Path):
    """Runs ``python train.py`` in an empty folder."""

    def command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            env=clean_env | (env or {}),
            capture_output=True,
            text=True,
            timeout=600,
        )

    return command


def cell_config(*overrides: str) -> dict:
    """The plain configuration that train.py would hand to `run_cell`."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


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
