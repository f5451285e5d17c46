"""What no machine, or not this one, can hold is refused before it is allocated; no error can work a terminal."""

import os

import pytest
from conftest import cell_spec

from lightning_modules.config.check import check
from lightning_modules.config.limits import check_memory
from lightning_modules.hardware.devices import resolve_hardware
from lightning_modules.resolve import resolve
from zoo.errors import ConvzooError, plain_words


def refuse(*overrides):
    with pytest.raises(ConvzooError) as refused:
        spec = cell_spec(*overrides)
        check(spec)
        resolve_hardware(spec.hardware, spec.trainer)
        check_memory(spec, resolve(spec, "cpu").network)
    return str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.image_size=1000000"], "8192 and less"),
        (["scale=resolution", "scale.factor=32", "data.image_size=2000"], "64000 pixels"),
        (["data=synthetic", "data.images=1000000000000"], "the data set would take"),
        (["data=synthetic", "data.batch_size=1048576", "data.image_size=4096"], "one batch of images would take"),
        (["data.augment.crop_padding=4096", "data.image_size=8192"], "GiB"),
        (["data.batch_size=1000000000000"], "data.batch_size=1000000000000 is not allowed"),
        (["model=resnet", "model.variant=152", "scale=width", "scale.factor=32"], "weights would take"),
        (
            ["data=synthetic", "data.num_classes=1000000", "model=resnet", "scale=width", "scale.factor=16"],
            "this machine",
        ),
        (["data.workers=100000", "data=imagefolder", "data.root=x"], "from 0 to 1,024"),
        (["hardware.threads=100000"], "from 1 to 4,096"),
        (["hardware=ddp", "hardware.devices=100000"], "100000 processes"),
        (["data.num_classes=null"], "data=imagefolder"),
        (["data.batch_size=0"], "data.batch_size=0 is not allowed"),
        (["data.mean=[nan]"], "data.mean"),
        (["trainer.max_time=64"], "HH:MM:SS"),
    ],
)
def test_the_absurd_is_refused_with_a_reason(overrides, says, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}[name])  # 4 GiB
    assert says in refuse(*overrides)


def test_what_fits_is_not_refused():
    for overrides in (
        ["model=effnet", "scale=width", "scale.factor=4"],
        ["scale=depth", "scale.factor=[1,1,2,1,1,1,1]"],
    ):
        spec = cell_spec(*overrides)
        check(spec)
        check_memory(spec, resolve(spec, "cpu").network)


def test_errors_cannot_work_a_terminal():
    assert str(ConvzooError("a\x1b[31mb\x07\x9b\u202ec\nd")) == "ab\ufffd\ufffd\ufffdc\nd"
    assert plain_words(FileNotFoundError(2, "No such file", "a\x1b[2Jb")) == "ab: No such file."
