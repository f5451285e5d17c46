"""Checks that span several keys, made before anything starts."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.config.limits import check_images
from lightning_modules.config.objects import TARGET, maker, takes
from lightning_modules.config.scaling import check_scaling
from lightning_modules.config.schema import FROM_FILES, MODULE, CellSpec
from zoo.acts.activations import check_act
from zoo.compression.convert import choose_form
from zoo.convs import KINDS, find_kind
from zoo.convs.low_rank import check_rank
from zoo.errors import ConvzooError, choose, need_packages
from zoo.plugins import load_plugins
from zoo.surgery.rewrite import check_options

INITS = ("random", "svd")
EXTRAS = {
    "lightning.pytorch.loggers.TensorBoardLogger": "tensorboard",
    "lightning_modules.tracking.mlflow_run.MlflowRun": "mlflow",
}
"""Loggers that need an optional package, with the extra that has it."""


def check(spec: CellSpec) -> None:
    """Checks that the values of a cell fit together.

    Raises:
        ConvzooError: Some do not; the text names the first such value and what is allowed.
    """
    load_plugins(spec.plugins)
    check_options(find_kind(spec.conv.name, "native"), spec.conv.options)
    check_act(spec.act.name, spec.act.options)
    for name, node in spec.callbacks.items():
        maker(f"callbacks.{name}", node)
    for name, node in spec.logger.options.items():
        if extra := EXTRAS.get(node[TARGET]):
            need_packages(extra, extra)
        maker(f"logger.{name}", node)
    check_module(spec)
    if spec.data.num_classes is None and spec.data.name not in (*FROM_FILES, "timm"):
        raise ConvzooError(
            "data.num_classes=null is for data=imagefolder, csv and timm, whose classes are counted. Leave it out."
        )
    channels = spec.data.in_chans
    for key in ("mean", "std"):
        if len(getattr(spec.data, key)) != channels:
            raise ConvzooError(f"data.{key} needs {channels} numbers, one a channel (data.in_chans={channels}).")
    if spec.task == "time" and spec.hardware.name == "ddp":
        raise ConvzooError("task=time measures one device. Type hardware=cpu or hardware=gpu.")
    trainer = spec.trainer
    if spec.task == "time" and trainer.profiler:
        raise ConvzooError("task=time trains nothing that could be profiled. Leave trainer.profiler out, or task=time.")
    if trainer.check_val_every_n_epoch is None and type(trainer.val_check_interval) in (float, type(None)):
        raise ConvzooError(
            "trainer.check_val_every_n_epoch=null validates after so many batches, or so much time, over all epochs. "
            "Type trainer.val_check_interval=N (batches), or =DAYS:HOURS:MINUTES:SECONDS, too."
        )
    micro = spec.hardware.micro_batch
    if spec.task == "time" and micro:
        raise ConvzooError(
            "task=time measures whole batches. Leave hardware.micro_batch out, or lower data.batch_size."
        )
    if spec.trainer.sync_batchnorm and micro == "auto":
        # After running out of memory, one rank would repeat its step while the others wait for its statistics.
        raise ConvzooError(
            "trainer.sync_batchnorm=true needs a fixed hardware.micro_batch. Type hardware.micro_batch=N."
        )
    if micro and str(spec.trainer.precision).startswith("16"):
        # Small fp16 gradients underflow unless the loss is scaled before the backward pass of each part.
        raise ConvzooError("hardware.micro_batch does not work in fp16. Type trainer.precision=bf16-mixed.")
    check_scaling(spec)
    check_images(spec)
    check_init(spec)


def check_module(spec: CellSpec) -> None:
    """Checks the module group.

    Raises:
        ConvzooError: The module cannot be imported, has no such arguments, or cannot do what other keys ask for.
    """
    if spec.module[TARGET] == MODULE:
        return
    known, further = takes(maker("module", spec.module))
    asked = {
        "micro_batch": spec.hardware.micro_batch and "hardware.micro_batch",
        "loss": spec.loss.name != "cross_entropy" and "loss",
    }
    for argument, key in asked.items():
        if key and argument not in known and not further:
            raise ConvzooError(f"{key}: {spec.module[TARGET]} takes no argument {argument}. Leave {key} out.")


def check_init(spec: CellSpec) -> None:
    """Checks the init group.

    Raises:
        ConvzooError: It is wrong; the text says why and what to type instead.
    """
    init, pretrained = spec.init, spec.model.pretrained
    if choose("init", init.name, INITS) == "random":
        for key in ("checkpoint", "rank"):
            if getattr(init, key) is not None:
                raise ConvzooError(f"init.{key} belongs to init=svd. Type init=svd too, or leave it out.")
        return
    try:
        check_rank(init.rank)
    except ConvzooError as error:
        raise ConvzooError(f"init.{error}") from None
    kind = choose_form(spec.conv.name)
    own = KINDS[kind].defaults.get("rank") if kind in KINDS else None
    if spec.conv.options.get("rank") not in (own, None):
        raise ConvzooError("init.rank says the ranks of init=svd. Leave out conv.rank.")
    if (init.checkpoint is None) != pretrained:
        problem = "two at once were given" if pretrained else "none was given"
        raise ConvzooError(
            f"init=svd starts from one trained dense network; {problem}. Type init.checkpoint=FOLDER/best.ckpt (a run "
            "with conv=native), or model.pretrained=true for timm's weights."
        )
    if init.checkpoint is not None and not Path(str(init.checkpoint)).is_file():
        raise ConvzooError(f"init.checkpoint={init.checkpoint} is no file. Type the path of a run's best.ckpt.")
