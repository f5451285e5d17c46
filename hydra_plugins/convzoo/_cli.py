"""The command line's manners: errors a person can act on, and the command that repeats a run.

The underscore in this file's name keeps it out of Hydra's scan for plugins.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hydra_plugins.convzoo._composition import Composition, as_typed
from lightning_modules.config.secrets import check_secrets
from lightning_modules.hardware.signals import Stopped
from zoo.errors import ConvzooError, choose, closest, plain_words
from zoo.text import clean

PLAIN_KEYS = {"seed", "task"}
"""Keys that belong to no group."""

MOST_JOBS = 100_000
"""Of one sweep: their list alone takes minutes."""

NAMES_CODE = ("hydra.callbacks", "hydra.job_logging", "hydra.hydra_logging")
"""Where Hydra, and Python's logging, call what a configuration names."""


def command_line() -> str:
    """The command that does the current run again."""
    hydra = HydraConfig.get()
    composition = Composition.of(hydra)
    # Where the configuration itself asks for a sweep, this was typed.
    one = [word for word in sys.argv[1:] if word == "hydra.mode=RUN"]
    return composition.command([*composition.meant(), *as_typed(hydra.overrides.task), *one])


def check_overrides(overrides: Iterable[str], groups: Iterable[str] = ()) -> None:
    """Refuses keys that ``+`` would add and nothing would read.

    Args:
        overrides: Of one job, as Hydra lists them.
        groups: In which Hydra found a choice, those of the user's own among them.

    Raises:
        ConvzooError: A key that is none of the configuration's.
    """
    known = {*known_keys(), *(group.partition("@")[0] for group in groups)}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").partition("@")[0]
        if key not in known:
            raise ConvzooError(_unknown(key))


def _unknown(key: str) -> str:
    group, _, rest = key.partition(".")
    if key == "experiment":
        return "an experiment is added: type +experiment=NAME."
    if key in known_keys():
        conf = files("zoo.conf") / "convzoo"
        owners = [p.stem for p in sorted(conf.glob(f"{group}/*.yaml")) if rest in _leaves(OmegaConf.load(p))]
        return (
            f"{key} belongs to {', '.join(f'{group}={owner}' for owner in owners)}; the {group} chosen here has none."
        )
    guess = closest(key, known_keys())
    hint = f" Did you mean {guess}?" if guess else ""
    return f"there is no key {key}.{hint} python train.py --help lists all of them."


def check_arguments(arguments: list[str]) -> None:
    """Refuses what would take away a part of the configuration that every run needs, and what would run code.

    Raises:
        ConvzooError: A deletion (``~key``), an empty group (``model=null``), a secret, or a name of a function or a
            class: a command may come from a sweep file or a result of somebody else's.
    """
    check_secrets(arguments)
    groups = {key for key in known_keys() if "." not in key} - PLAIN_KEYS
    flags, unknown = get_args_parser().parse_known_args(arguments)
    overrides = [*flags.overrides, *unknown]
    elsewhere = flags.config_dir or flags.config_path or flags.config_name
    elsewhere = elsewhere or any(o.startswith("hydra.searchpath") for o in overrides)
    for argument in overrides:
        key, _, value = argument.partition("=")
        if key.startswith("--") and key[2:] in known_keys():
            raise ConvzooError(
                f"{key}: keys have no hyphens: type {key[2:]}=VALUE; in a W&B sweep ${{args_no_hyphens}}."
            )
        if "_target_" in argument or key.lstrip("+~").startswith(NAMES_CODE):
            raise ConvzooError(f"{argument}: no code can be named on the command line.")
        if argument.startswith("~"):
            raise ConvzooError(f"{argument}: a run needs all of its keys. Type {key.lstrip('~')}=VALUE to change one.")
        if key in groups and "=" in argument and value in ("", "null"):
            raise ConvzooError(f"{key} must be chosen. python train.py --help lists what there is.")
        if key in groups and (value.lstrip().startswith("[") or "${" in value):
            raise ConvzooError(f"{argument}: {key} is one choice by its name. python train.py --help has them.")
        # A sweep is Hydra's; a name, or what Hydra would read as a number or a switch, must be one of them;
        # where there are folders with more of them, Hydra finds out.
        if key in groups and not elsewhere and re.fullmatch(r"[\w.+-]+", value):
            choose(key, value, sorted(path.stem for path in (files("zoo.conf") / "convzoo" / key).glob("*.yaml")))


def check_sweep(arguments: list[str]) -> None:
    """Refuses a sweep of more jobs than anybody means, before all of them are listed.

    Raises:
        ConvzooError: It has more than `MOST_JOBS`.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return
    from hydra.core.override_parser.overrides_parser import OverridesParser

    jobs = 1.0
    for argument in arguments:
        with suppress(HydraException, ArithmeticError, ValueError):  # what cannot be read, Hydra tells better
            value = OverridesParser.create().parse_override(argument).value()
            if isinstance(value, ChoiceSweep):
                jobs *= len(value.list)
            elif isinstance(value, RangeSweep):
                jobs *= max(1.0, (value.stop - value.start) / value.step)
    if jobs > MOST_JOBS:
        raise ConvzooError(
            f"this sweep has {jobs:,.0f} jobs. Allowed: {MOST_JOBS:,}, in each of as many sweeps as you like."
        )


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns a user's mistake into one message on stderr and exit code 2; a bug keeps its traceback."""
    # Hydra prints errors in its own way and exits, unless it is asked to raise them.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        yield
    except ConvzooError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Stopped as stopped:
        raise SystemExit(stopped.code) from None
    except (ValueError, KeyError, OSError) as error:
        # Before a run has begun, these are Hydra's words for a wrong flag or a folder that cannot be written.
        if HydraConfig.initialized() and not isinstance(error, OSError):
            raise
        _fail(_plain_words(error))


def _plain_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"KeyError: {error}"
    before = isinstance(error, OSError) and error.filename and not HydraConfig.initialized()
    hint = " Type hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER, for another place." if before else ""
    return plain_words(error) + hint


def _fail(message: str) -> None:
    print(f"error: {clean(message)}", file=sys.stderr, flush=True)
    raise SystemExit(2) from None


def explain(error: Exception) -> str:
    """Says what an error of Hydra's or OmegaConf's means for the person who typed the command."""
    text = str(error)
    if found := re.search(r"Could not find '([\w/]+)/([^/']*)'", text):
        group, value = found.groups()
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        try:
            choose(group, value, options)
        except ConvzooError as wrong:
            return str(wrong)
    if found := re.search(r"Could not (?:override|append to config|delete from config)\.? ?'?([\w.@/]+)'?", text):
        full = re.search(r"full_key: ([\w.]+)", str(error.__cause__))
        return _unknown(full[1] if full else found[1].removesuffix("."))
    if isinstance(error, MissingMandatoryValue) or "Missing mandatory value" in text:
        # An interpolation names the key that is missing; else the text has its last part and full_key all of it.
        found = re.search(r"Missing mandatory value: (\w+\.[\w.]+)", text) or re.search(r"full_key: ([\w.]+)", text)
        key = found[1] if found else error.full_key
        return f"{key} must be given: type {key}=VALUE."
    # Hydra's own texts are good otherwise; its last lines point into its source.
    inner = ("full_key", "object_type", "reference_type")
    lines = [line for line in text.splitlines() if not line.strip().startswith(inner)]
    return clean("\n".join(lines)).strip() or type(error).__name__


@cache
def known_keys() -> tuple[str, ...]:
    """Every group and key of the configuration, as the user types them."""
    conf = files("zoo.conf") / "convzoo"
    keys = {*PLAIN_KEYS}
    for path in conf.glob("*/*.yaml"):
        group = path.parent.name
        keys.add(group)
        # An experiment sets keys of other groups and has none of its own.
        if not path.read_text().startswith("# @package _global_"):
            keys |= {f"{group}.{key}" for key in _leaves(OmegaConf.load(path))}
    return tuple(sorted(keys))


def _leaves(config: object, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield prefix + key
        if OmegaConf.is_dict(config) and not OmegaConf.is_missing(config, key):
            value = OmegaConf.to_container(config, resolve=False)[key]
            if isinstance(value, dict):
                yield from (f"{prefix}{key}.{k}" for k in value)


def warm_up() -> None:
    """Lets Hydra find its plugins and read the configuration once: what is forked from here finds both done."""
    from hydra import compose, initialize_config_dir

    known_keys()
    with initialize_config_dir(str(files("zoo.conf") / "convzoo"), version_base="1.3"):
        compose("config", ["seed=0"])
