"""A disk of a few megabytes that a test can fill."""

import contextlib
import subprocess

import pytest

from lightning_modules.checkpoint.last import LastCheckpoint


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def full_for_a_while(disk, monkeypatch):
    """Other people fill the disk at the second batch of a run, and make room again at the seventh."""
    seen = []

    def other_people(self, trainer, module, images, index):
        seen.append(index)
        if len(seen) == 2:
            fill(disk)
        if len(seen) == 7:
            (disk / "others").unlink()

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", other_people)


def fill(disk):
    with contextlib.suppress(OSError), (disk / "others").open("ab", buffering=0) as file:
        while True:
            file.write(b" " * 4096)
