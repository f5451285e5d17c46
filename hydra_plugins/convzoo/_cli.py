"""Check the command line, turn Hydra's errors into actionable messages, and reconstruct the command of a run.

The underscore in this file's name keeps it out of Hydra's scan for plugins.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hydra_plugins.convzoo._composition import Composition, as_typed
from hydra_plugins.convzoo._plugins import choices, plugin_keys, plugin_owners
from lightning_modules.config.options import rules
from lightning_modules.config.schema import LoggerOptions
from lightning_modules.config.secrets import check_secrets
from lightning_modules.hardware.signals import Stopped
from zoo.errors import ConvzooError, choose, closest, plain_words
from zoo.text import clean

PLAIN_KEYS = {"seed", "task", "plugins", "log"}
"""Keys that belong to no group."""

OPEN = ("optim.",)
"""Groups that take further keys: arguments of what their name chooses, which are checked once that is imported."""

LISTS = ("callbacks", "logger")
"""Groups that take several choices: ``callbacks=[ema,early_stopping]``."""

OBJECTS = ("callbacks.", "module.")
"""Keys of objects that a file names by ``_target_``; the file says which there are."""

WANDB = frozenset(dict(rules(LoggerOptions, "logger")))
"""W&B's own keys, which stand beside the loggers that a file names."""

MOST_JOBS = 100_000
"""Maximum number of jobs in a sweep; beyond it, listing them alone takes minutes."""

NAMES_CODE = ("hydra.callbacks", "hydra.job_logging", "hydra.hydra_logging")
"""Keys under which Hydra and Python's logging call functions and classes named in the configuration."""


def command_line() -> str:
    """Return the command that repeats the current run."""
    hydra = HydraConfig.get()
    composition = Composition.of(hydra)
    # If the configuration itself sets MULTIRUN, the user has typed this to get a single run.
    one = [word for word in sys.argv[1:] if word == "hydra.mode=RUN"]
    return composition.command([*composition.meant(), *as_typed(hydra.overrides.task), *one])


def check_overrides(overrides: Iterable[str], groups: Iterable[str] = ()) -> None:
    """Reject keys that ``+`` would add but no code would read.

    Args:
        overrides: One job's overrides, as Hydra lists them.
        groups: The groups in which Hydra found a choice, including the user's own.

    Raises:
        ConvzooError: A key does not exist in the configuration.
    """
    known = {*known_keys(), *(group.partition("@")[0] for group in groups)}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").partition("@")[0]
        inside = key.startswith((*OPEN, *OBJECTS)) or (is_object(key) and key.count(".") > 1)
        if key not in known and not inside:
            raise ConvzooError(_unknown(key))


def is_object(key: str) -> bool:
    """Whether a key is an object that a file names by ``_target_``, or inside one."""
    return f"{key}.".startswith((*OBJECTS, "logger.")) and key not in WANDB


def _unknown(key: str) -> str:
    group, _, rest = key.partition(".")
    if key == "experiment":
        return "an experiment is added: type +experiment=NAME."
    if key in known_keys():
        conf = files("zoo.conf") / "convzoo"
        owners = [path.stem for path in sorted(conf.glob(f"{group}/*.yaml")) if rest in _keys(path)]
        owners += plugin_owners(group, rest)
        return (
            f"{key} belongs to {', '.join(f'{group}={owner}' for owner in owners)}; the {group} chosen here has none."
        )
    guess = closest(key, known_keys())
    hint = f" Did you mean {guess}?" if guess else ""
    return f"there is no key {key}.{hint} python train.py --help lists all of them."


def open_keys(arguments: list[str]) -> list[str]:
    """Return arguments in which the further keys of open groups are added: ``optim.betas=…`` is ``++optim.betas=…``."""
    known = set(known_keys())
    own = [key.partition(".")[2] for key in known if key.startswith(OPEN)]

    def further(argument: str) -> bool:
        key = argument.partition("=")[0]
        # Nearly a key of the group's own is a typing error, which is reported before anything starts.
        typo = get_close_matches(key.partition(".")[2], own, 1, cutoff=0.75)
        return argument.startswith(OPEN) and key not in known and not typo

    return [f"++{argument}" if further(argument) else argument for argument in arguments]


def check_arguments(arguments: list[str]) -> None:
    """Reject arguments that remove a required part of the configuration, contain a secret or would run code.

    Raises:
        ConvzooError: A deletion (``~key``), an empty group (``model=null``), a list of choices or an interpolation as a
            group's value, an unknown choice, a key with hyphens, a secret, or the name of a function or class: a
            command may come from another person's sweep file or result.
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
        if is_object(key.lstrip("+")) and "{" in value:
            # An interpolation could put a _target_ together that is not seen here.
            raise ConvzooError(f"{argument}: no code can be named on the command line. Type one value by its own key.")
        if key in groups and ("${" in value or (value.lstrip().startswith("[") and key not in LISTS)):
            raise ConvzooError(f"{argument}: {key} is one choice by its name. python train.py --help has them.")
        # Check single words only, numbers and booleans included. Hydra checks sweeps, and all choices if the command
        # adds folders with further ones.
        words = value.strip("[]").split(",") if key in LISTS else [value]
        for word in map(str.strip, words if key in groups and not elsewhere else ()):
            if re.fullmatch(r"[\w.+-]+", word):
                choose(key, word, choices(key))


def check_sweep(arguments: list[str]) -> None:
    """Reject a sweep that is implausibly large before its jobs are listed.

    Raises:
        ConvzooError: The sweep has more than `MOST_JOBS` jobs.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return
    from hydra.core.override_parser.overrides_parser import OverridesParser

    jobs = 1.0
    for argument in arguments:
        with suppress(HydraException, ArithmeticError, ValueError):  # Hydra reports unreadable overrides better
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
    """Turn a user's mistake into one message on stderr and exit code 2; a bug keeps its traceback."""
    # Without this variable, Hydra prints errors in its own format and exits instead of raising them.
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
        # Before a run has started, these are Hydra's errors for an invalid flag or a folder that cannot be written.
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
    """Return an actionable message for an error raised by Hydra or OmegaConf."""
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
        # For an interpolation the text names the missing key; otherwise full_key has the complete name.
        found = re.search(r"Missing mandatory value: (\w+\.[\w.]+)", text) or re.search(r"full_key: ([\w.]+)", text)
        key = found[1] if found else error.full_key
        return f"{key} must be given: type {key}=VALUE."
    # Other messages of Hydra's are good, except for the last lines, which describe its internals.
    inner = ("full_key", "object_type", "reference_type")
    lines = [line for line in text.splitlines() if not line.strip().startswith(inner)]
    return clean("\n".join(lines)).strip() or type(error).__name__


def known_keys() -> tuple[str, ...]:
    """Return every group and key of the configuration, as the user types them; those of plugins too."""
    return (*_own_keys(), *plugin_keys())


@cache
def _own_keys() -> tuple[str, ...]:
    conf = files("zoo.conf") / "convzoo"
    keys = {*PLAIN_KEYS}
    for path in conf.glob("*/*.yaml"):
        group = path.parent.name
        keys.add(group)
        # An experiment sets keys of other groups and has no keys itself.
        if not path.read_text().startswith("# @package _global_"):
            keys |= {f"{group}.{key}" for key in _keys(path)}
    keys |= {f"{path.parent.parent.name}/{path.parent.name}" for path in conf.glob("*/*/*.yaml")} - {"hydra/help"}
    return tuple(sorted(keys))


def _keys(path: Path) -> set[str]:
    """Return the keys of an option, relative to its group, with those of the files in its defaults list."""
    config = OmegaConf.load(path)
    keys: set[str] = set()
    for entry in config.pop("defaults", []):
        if OmegaConf.is_dict(entry):
            for place, name in entry.items():
                folder, _, package = place.partition("@")
                keys |= {f"{package or folder}.{key}" for key in _keys(path.parent / folder / f"{name}.yaml")}
        elif entry != "_self_":
            keys |= _keys(path.with_name(f"{entry}.yaml"))
    return keys.union(_leaves(config))


def _leaves(config: object, prefix: str = "") -> Iterator[str]:
    for key in config:
        yield prefix + key
        if OmegaConf.is_dict(config) and not OmegaConf.is_missing(config, key):
            value = OmegaConf.to_container(config, resolve=False)[key]
            if isinstance(value, dict):
                yield from (f"{prefix}{key}.{k}" for k in value)


def warm_up() -> None:
    """Do what every run would do first, for the processes forked from this one: imports, and Hydra's configuration."""
    from lightning_modules.sweep.pool_server import import_training

    import_training()
    load_configuration()


def load_configuration() -> None:
    """Load Hydra's plugins and the configuration files into Hydra's caches."""
    from hydra import compose, initialize_config_dir

    known_keys()
    with initialize_config_dir(str(files("zoo.conf") / "convzoo"), version_base="1.3"):
        compose("config", ["seed=0"])
