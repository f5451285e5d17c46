"""Command line: train one cell of the zoo, or a sweep of cells with ``-m``.

python train.py model=effnet conv=separable act=swish
python train.py -m model=resnet,effnet,mobilenet conv=standard,separable,spatial act=relu,swish
"""

from __future__ import annotations

import sys
from contextlib import chdir

try:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from hydra_plugins.convzoo._cli import check_arguments, check_overrides, check_sweep, command_line, plain_errors
    from hydra_plugins.convzoo._composition import as_typed
    from hydra_plugins.convzoo._nested import spread
    from hydra_plugins.convzoo._plugins import load_named
    from lightning_modules.config.schema import CellSpec
    from lightning_modules.hardware.process import keep_output, prepare
    from lightning_modules.hardware.signals import StopSignals
    from zoo.report import print_result
    from zoo.text import use_utf8
except KeyboardInterrupt:
    raise SystemExit(130) from None


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
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
        from lightning_modules.hardware.devices import global_rank

        result = run_cell(spec, folder, command_line(), signals)
        if global_rank() == 0:
            print_result(result, folder)
    return result["metrics"].get("test/acc")


if __name__ == "__main__":
    use_utf8()
    keep_output()
    with plain_errors():
        load_named(sys.argv[1:])
        sys.argv[1:] = spread(sys.argv[1:])
        check_arguments(sys.argv[1:])
        check_sweep(sys.argv[1:])
        train()
