"""Whatever is typed: a cell that can be built, or one clear message. Nothing that is typed is run."""

from __future__ import annotations

import json
import logging
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from random_overrides import BASES, changed, changes, command_lines

import zoo
from hydra_plugins.convzoo._cli import check_arguments, check_overrides, check_sweep, explain
from lightning_modules.checkpoint.io import Checkpoints
from lightning_modules.config.check import check
from lightning_modules.config.identity import cell_id, recipe
from lightning_modules.config.limits import check_memory
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.devices import resolve_hardware
from lightning_modules.optimizer import make_optimizer
from lightning_modules.resolve import resolve
from lightning_modules.results.result import write_result
from lightning_modules.tracking.naming import run_id, run_name
from lightning_modules.trainer import make_trainer
from zoo.errors import ConvzooError

HANGS_AFTER_S = 120
LONGEST = 6000
"""Characters of a message: the longest lists all optimizers."""

CI = settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
HEAVY = settings(CI, max_examples=20_000, derandomize=False)
configurations = st.tuples(st.integers(0, len(BASES) - 1), changes)


@pytest.fixture(scope="module", autouse=True)
def hydra():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@contextmanager
def ends_within(seconds: int) -> Iterator[None]:
    """Makes an endless computation an error."""

    def too_long(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def compose_and_build(arguments: list[str], folder: Path) -> None:
    """Does what train.py does with a command line, up to the first real weight."""
    check_arguments(arguments)
    try:
        composed = compose("config", arguments)
    except (ValueError, KeyError) as error:
        # `plain_errors` takes Hydra's word for what goes wrong before a run has begun.
        raise ConvzooError(str(error)) from None
    check_overrides(arguments)
    build(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True), folder)


def build(config: dict[str, Any], folder: Path) -> None:
    """The same with a resolved configuration: checks, the cell, its network on the meta device, optimizer, Trainer."""
    spec = CellSpec.of(config)
    check(spec)
    hardware = resolve_hardware(spec.hardware, spec.trainer)
    resolved = resolve(spec, hardware.name)
    check_memory(spec, resolved.network)
    write_result(folder, {"cell": resolved.choices, "recipe": recipe(spec), "id": cell_id(spec)})
    json.dumps([run_name(resolved.choices), run_id(resolved.choices, folder)]).encode()
    with zoo.meta_init():
        net = zoo.build(**{**resolved.network, "pretrained": False})
    zoo.cost(net, resolved.image_size, resolved.in_chans)
    make_optimizer(net, spec.optim.plain())
    make_trainer(spec, hardware, spec.trainer.precision or "32-true", folder, False, Checkpoints(), [])


def attempt(prepare: Callable[..., None], *arguments: Any) -> str | None:
    """What a person is told; None where there is nothing to say and training would begin. All else is a traceback."""
    try:
        with ends_within(HANGS_AFTER_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepare(*arguments)
    except ConvzooError as error:
        return str(error)
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error)
    return None


def check_message(says: str | None) -> None:
    if says is not None:
        assert says.strip() and len(says) < LONGEST, says
        assert "Traceback" not in says and not re.search("[\x00-\x08\x0b-\x1f\x7f\x9b]", says), says


def any_command_line(tmp_path_factory, arguments):
    check_message(attempt(compose_and_build, arguments, tmp_path_factory.getbasetemp()))


def any_configuration(tmp_path_factory, what):
    check_message(attempt(build, changed(*what), tmp_path_factory.getbasetemp()))


test_any_command_line_builds_or_says_why_not = CI(given(arguments=command_lines)(any_command_line))
test_any_configuration_builds_or_says_why_not = settings(CI, max_examples=100)(
    given(what=configurations)(any_configuration)
)
test_many_command_lines = pytest.mark.fault(HEAVY(given(arguments=command_lines)(any_command_line)))
test_many_configurations = pytest.mark.fault(HEAVY(given(what=configurations)(any_configuration)))


@pytest.mark.parametrize(
    "argument",
    [
        "+x._target_=os.system",
        "+x={_target_:os.system}",
        "hydra.launcher._target_=os.system",
        "+hydra.callbacks.x.y=1",
        "hydra.job_logging={handlers:{x:{class:os.system}}}",
        "++hydra.hydra_logging.handlers.x.class=os.system",
    ],
)
def test_no_code_can_be_named(argument):
    with pytest.raises(ConvzooError, match="no code"):
        check_arguments([argument])


@pytest.mark.parametrize(
    ("sweep", "jobs"),
    [
        (["seed=range(1000000000)"], 10**9),
        (["seed=range(0,1e308,1e-300)"], float("inf")),
        (
            [f"{key}={','.join('0123456789')}" for key in ("seed", "optim.lr", "model.phi", "optim.warmup", "a", "b")],
            10**6,
        ),
        (
            ["seed=range(1,2,0)", "seed=range(5,1)", "seed=range(nan)", "seed=0,1", "nonsense", "x=[", "seed=range(9)"],
            0,
        ),
    ],
)
def test_a_sweep_of_more_jobs_than_anybody_means_is_refused(sweep, jobs):
    check_sweep(sweep)
    if jobs:
        with pytest.raises(ConvzooError, match=f"{jobs:,.0f} jobs"):
            check_sweep(["-m", *sweep])
    else:
        check_sweep(["-m", *sweep])
