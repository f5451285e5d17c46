"""The commands ``python train.py`` and ``convzoo train``: compose one cell's configuration, or a sweep's, and run it.

The underscore in this file's name keeps it out of Hydra's scan for plugins.
"""

from __future__ import annotations

import sys
from contextlib import chdir
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.convzoo._cli import (
    check_arguments,
    check_overrides,
    check_sweep,
    command_line,
    open_keys,
    plain_errors,
)
from hydra_plugins.convzoo._composition import OURS, as_typed, is_ours
from hydra_plugins.convzoo._nested import spread
from hydra_plugins.convzoo._plugins import load_named
from lightning_modules.config.schema import CellSpec
from lightning_modules.hardware.process import keep_output, prepare
from lightning_modules.hardware.signals import StopSignals
from zoo.report import print_result
from zoo.text import use_utf8


@hydra.main(version_base="1.3", config_path=str(OURS), config_name="config")
def train(config: DictConfig) -> float | None:
    """Runs one cell and returns its test accuracy, the objective for optimizing sweepers."""
    hydra_config = HydraConfig.get()
    folder = hydra_config.runtime.output_dir
    # A signal that arrives during the imports below is kept until the run can report it.
    signals = StopSignals(wait=True)
    # Relative paths refer to the directory where the command was typed, even with hydra.job.chdir=true.
    with plain_errors(), chdir(hydra_config.runtime.cwd):
        check_overrides(as_typed(hydra_config.overrides.task), hydra_config.runtime.choices)
        signals.install()
        spec = CellSpec.of(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
        # Lightning takes seconds to import; a wrong override should be reported before that.
        prepare(spec.logger.name)
        from lightning_modules import run_cell
        from zoo.ranks import global_rank

        result = run_cell(spec, folder, command_line(), signals)
        if global_rank() == 0:
            print_result(result, folder)
    return result["metrics"].get("test/acc")


def main() -> None:
    """Run the command line of this process."""
    use_utf8()
    keep_output()
    with plain_errors():
        load_named(sys.argv[1:])
        sys.argv[1:] = open_keys(spread(sys.argv[1:]))
        check_arguments(sys.argv[1:])
        check_sweep(sys.argv[1:])
        train()


def convzoo() -> None:
    """Run ``convzoo VERB …``: ``train`` here, everything else as ``python -m zoo``."""
    if sys.argv[1:2] == ["train"]:
        # Jobs of a sweep start this file again.
        sys.argv[:] = [__file__, *with_conf(sys.argv[2:])]
        main()
    else:
        from hydra_plugins.convzoo._completion import VERBS
        from zoo.__main__ import main as verbs

        sys.exit(verbs(further=VERBS))


def with_conf(arguments: list[str]) -> list[str]:
    """Return the arguments of ``convzoo train``, with the folder ``conf`` beside it unless they name another."""
    flags, _ = get_args_parser().parse_known_args(arguments)
    if flags.config_dir or flags.config_path or not Path("conf").is_dir() or is_ours("conf"):
        return arguments
    return ["--config-dir", "conf", *arguments]


if __name__ == "__main__":
    main()
