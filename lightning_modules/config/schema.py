"""The configuration schema: one dataclass per group of ``conf/``, with a type and a rule per key; and `CellSpec`.

Imports no torch, so that a sweep can be checked before anything starts. A comment beside a key names the module that
checks it further.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from lightning_modules.config.objects import NODE, NODES
from lightning_modules.config.options import Chosen, OpenOptions, Options
from zoo.image_size import ImageSize
from zoo.log import LEVELS
from zoo.rules import (
    ANY_TEXT,
    ANYTHING,
    LIMIT,
    MANY,
    NAME,
    RANGE,
    SHARES,
    SWITCH,
    TEXT,
    TIME,
    Rule,
    check_value,
    image_size,
    is_time,
    number,
    one_of,
    or_null,
    whole,
)

MODULE = "lightning_modules.Classifier"
TASKS = ("train", "time")
LOGGERS = ("wandb", "csv", "none")
STEMS = ("auto", "small", "imagenet")
"""Copied from `zoo.backbones.stem`, which needs torch."""
PLANS = ("auto", "fp32", "fp32_fast", "bf16", "bf16_fast", "fp32_compiled", "bf16_compiled")
"""``auto``, and the plan names of `zoo.speeds.plan`, which needs torch."""

A_SHARE: Rule = (lambda v: type(v) is float and 0 < v <= 0.9, "a share of the images above 0.0, to 0.9")
NAMES: Rule = (
    lambda v: (type(v) is str and bool(v.strip())) or (type(v) is list and all(type(n) in (str, int) for n in v)),
    "[NAME,NAME], or the path of a text file with a name on each line",
)
FROM_FILES = ("imagefolder", "csv")
"""Data sets whose classes are counted, and that their place identifies."""


@dataclass(frozen=True, kw_only=True)
class FactorsOptions(Options):
    """Scale factors of ``scale=factors``."""

    depth: Annotated[Any, ANYTHING]
    width: Annotated[Any, ANYTHING]
    resolution: Annotated[Any, ANYTHING]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The backbone."""

    name: Annotated[str, TEXT]
    variant: Annotated[str | int | None, or_null(ANY_TEXT)]
    phi: Annotated[Any, ANYTHING]  # zoo.backbones.families
    stem: Annotated[str, one_of(STEMS)]
    pretrained: Annotated[bool, SWITCH]
    match: Annotated[str | None, or_null(TEXT)]  # zoo.costs.budget
    match_over: Annotated[str, one_of(("width", "phi"))]


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(Options):
    """Scaling of the network and its images."""

    name: Annotated[str, TEXT]
    phi: Annotated[Any, ANYTHING]  # lightning_modules.config.scaling
    factor: Annotated[Any, ANYTHING]
    by: FactorsOptions


@dataclass(frozen=True, kw_only=True)
class InitOptions(Options):
    """Source of the initial weights."""

    name: Annotated[str, TEXT]
    checkpoint: Annotated[str | None, or_null(TEXT)]
    rank: Annotated[Any, ANYTHING]  # zoo.convs.low_rank


@dataclass(frozen=True, kw_only=True)
class AugmentOptions(Options):
    """Augmentation of training images; each data set defines a subset of these keys."""

    crop_padding: Annotated[int, whole(0, 4096)]
    hflip: Annotated[bool, SWITCH]
    rotate: Annotated[float, number(0, 180)]
    zoom: Annotated[float, number(0, 0.9)]
    shift: Annotated[float, number(0, 1)]
    cutout: Annotated[int, whole(0, 8192)]
    random_erasing: Annotated[float, number(0, 1)]
    mixup: Annotated[float, number(0, 1000)]
    cutmix: Annotated[float, number(0, 1000)]
    random_resized_crop: Annotated[list[float], RANGE]
    crop_ratio: Annotated[float, number(0.1, 1)]


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """The data set."""

    name: Annotated[str, TEXT]
    root: Annotated[str | None, or_null(TEXT)]
    download: Annotated[bool, SWITCH]
    num_classes: Annotated[int | None, or_null(whole(2, 10**6))]
    in_chans: Annotated[int, whole(1, 1024)]
    image_size: Annotated[ImageSize | None, or_null(image_size(8))]  # lightning_modules.config.limits
    batch_size: Annotated[int, whole(1, 2**20)]
    epochs: Annotated[int, whole(1)]
    file: Annotated[str, TEXT]
    classes: Annotated[list[str] | str | None, or_null(NAMES)]  # lightning_modules.data.classes
    train_images: Annotated[int | None, or_null(whole(2))]  # lightning_modules.data.subset
    val_share: Annotated[float | None, or_null(A_SHARE)]
    test_share: Annotated[float | None, or_null(A_SHARE)]
    images: Annotated[int, whole(8)]  # lightning_modules.config.limits
    source: Annotated[str, TEXT]  # lightning_modules.data.timm_sources
    train_split: Annotated[str, TEXT]
    val_split: Annotated[str, TEXT]
    test_split: Annotated[str | None, or_null(TEXT)]
    input_key: Annotated[str | None, or_null(TEXT)]
    target_key: Annotated[str | None, or_null(TEXT)]
    shuffle_buffer: Annotated[int, whole(1, 10**7)]
    workers: Annotated[int | None, or_null(whole(0, 1024))]
    check: Annotated[bool, SWITCH]
    max_bad_images: Annotated[
        int | float,
        (
            lambda v: (type(v) is int and v >= 0) or (type(v) is float and 0 <= v <= 1),
            "a whole number of images, or a share from 0.0 to 1.0",
        ),
    ]
    mean: Annotated[list[float], SHARES]
    std: Annotated[
        list[float], (lambda v: SHARES[0](v) and all(x > 0 for x in v), "a list of numbers above 0, one a channel")
    ]
    augment: AugmentOptions

    def __post_init__(self) -> None:
        if self.image_size is not None:
            object.__setattr__(self, "image_size", ImageSize.of(self.image_size))


@dataclass(frozen=True, kw_only=True)
class HardwareOptions(Options):
    """Devices, processes, and the execution plan."""

    name: Annotated[str, TEXT]
    devices: Annotated[Any, ANYTHING]  # lightning_modules.hardware.devices
    num_nodes: Annotated[Any, ANYTHING]
    threads: Annotated[int | None, or_null(whole(1, 4096))]
    timeout_s: Annotated[float, number(1, 10**7)]
    micro_batch: Annotated[
        int | str | None, or_null((lambda v: v == "auto" or (type(v) is int and v >= 2), "auto, 2, 3, 4 …"))
    ]
    plan: Annotated[str, one_of(PLANS)]


@dataclass(frozen=True, kw_only=True)
class OptimOptions(OpenOptions):
    """The optimizer and its schedule; further keys are arguments of the optimizer."""

    name: Annotated[str, TEXT]
    lr: Annotated[float, number(0, above=True)]
    weight_decay: Annotated[float, number(0)]
    warmup: Annotated[float, number(0, 1)]
    label_smoothing: Annotated[float, number(0, 0.99)]
    bad_step: Annotated[str, one_of(("stop", "skip"))]
    max_skipped: Annotated[int, whole(0)]


@dataclass(frozen=True, kw_only=True)
class TrainerOptions(Options):
    """Arguments of Lightning's Trainer. None leaves the value to the hardware group, else to Lightning's default."""

    max_epochs: Annotated[
        int,
        (
            lambda v: type(v) is int and (1 <= v <= MANY or v == -1),
            "a whole number from 1 (-1: max_steps says)",
        ),
    ]
    min_epochs: Annotated[int | None, or_null(whole(1))]
    max_steps: Annotated[
        int,
        (
            lambda v: type(v) is int and -1 <= v <= MANY and v != 0,
            "a whole number from 1 (-1: no limit)",
        ),
    ]
    min_steps: Annotated[int | None, or_null(whole(1))]
    max_time: Annotated[str | None, (is_time, "HH:MM:SS, DD:HH:MM:SS or MM:SS, or null")]
    accelerator: Annotated[str | None, or_null(one_of(("auto", "cpu", "gpu", "cuda", "mps")))]
    devices: Annotated[Any, ANYTHING]  # lightning_modules.hardware.devices
    num_nodes: Annotated[Any, ANYTHING]
    strategy: Annotated[str | None, or_null(TEXT)]
    precision: Annotated[Any, ANYTHING]
    limit_train_batches: Annotated[int | float | None, or_null(LIMIT)]
    limit_val_batches: Annotated[int | float | None, or_null(LIMIT)]
    limit_test_batches: Annotated[int | float | None, or_null(LIMIT)]
    overfit_batches: Annotated[int | float, LIMIT]
    fast_dev_run: Annotated[
        bool | int,
        (
            lambda v: type(v) is bool or (type(v) is int and 0 <= v <= MANY),
            "true, false or a number of batches",
        ),
    ]
    val_check_interval: Annotated[
        int | float | str | None,
        or_null(
            (
                lambda v: (type(v) is int and 1 <= v <= MANY) or (type(v) is float and 0 < v <= 1) or TIME[0](v),
                f"{LIMIT[1]}, or {TIME[1]}",
            )
        ),
    ]
    check_val_every_n_epoch: Annotated[int | None, or_null(whole(1))]
    num_sanity_val_steps: Annotated[
        int, (lambda v: type(v) is int and -1 <= v <= MANY, "a whole number from 0 (-1: all)")
    ]
    log_every_n_steps: Annotated[int, whole(0)]
    enable_progress_bar: Annotated[bool | None, or_null(SWITCH)]
    accumulate_grad_batches: Annotated[int, whole(1)]
    gradient_clip_val: Annotated[float | None, or_null(number(0))]
    gradient_clip_algorithm: Annotated[str | None, or_null(one_of(("norm", "value")))]
    deterministic: Annotated[
        bool | str | None, or_null((lambda v: type(v) is bool or v == "warn", "true, false or warn"))
    ]
    benchmark: Annotated[bool | None, or_null(SWITCH)]
    inference_mode: Annotated[bool, SWITCH]
    profiler: Annotated[str | None, or_null(one_of(("simple", "advanced", "pytorch")))]
    detect_anomaly: Annotated[bool, SWITCH]
    sync_batchnorm: Annotated[bool, SWITCH]


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """Frequency of checkpoints."""

    every_s: Annotated[float, number(0)]


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """Name and limits of a sweep."""

    name: Annotated[
        str | None,
        or_null(
            (lambda v: type(v) is str and NAME[0](v) and not set(v) & set("/\\") and v[0] != ".", "a folder's name")
        ),
    ]
    plan: Annotated[bool, SWITCH]
    fail_fast: Annotated[bool, SWITCH]
    max_params: Annotated[Any, ANYTHING]  # zoo.costs.budget
    max_macs: Annotated[Any, ANYTHING]


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(OpenOptions):
    """Run tracking: W&B by its own keys; further keys are loggers, each named by ``_target_``."""

    name: Annotated[str, one_of(LOGGERS)]
    project: Annotated[
        str,
        or_null(
            (
                lambda v: type(v) is str and NAME[0](v) and not set(v) & set("/\\#?%:"),
                "a text of one line without / \\ # ? % :",
            )
        ),
    ]
    entity: Annotated[str | None, or_null(NAME)]
    group: Annotated[str | None, or_null(NAME)]
    tags: Annotated[
        list[str] | None,
        or_null((lambda v: type(v) is list and all(type(t) is str and NAME[0](t) for t in v), "[TAG,TAG]")),
    ]
    mode: Annotated[str, one_of(("auto", "online", "offline", "disabled"))]
    timeout_s: Annotated[float, number(1, 86400)]

    @classmethod
    def of(cls, values: Any, name: str = "") -> Self:
        """Checks the further keys, too.

        Raises:
            ConvzooError: A value is not allowed.
        """
        made = super().of(values, name)
        for key, node in made.options.items():
            check_value(f"{name}.{key}", node, NODE)
        return made


@dataclass(frozen=True, kw_only=True)
class CellSpec(Options):
    """One cell as configured: the tree of ``conf/config.yaml``, with every key checked."""

    seed: Annotated[int, (lambda v: type(v) is int and 0 <= v < 2**32, "a whole number from 0 to 4294967295")]
    task: Annotated[str, one_of(TASKS)]
    plugins: Annotated[list[str], (lambda v: type(v) is list and all(map(NAME[0], v)), "[MODULE,MODULE]")]
    log: Annotated[str, one_of(LEVELS)]
    model: ModelOptions
    scale: ScaleOptions
    conv: Chosen  # zoo.convs
    act: Chosen  # zoo.acts
    init: InitOptions
    data: DataOptions
    augment: Chosen  # lightning_modules.data.augmentations
    hardware: HardwareOptions
    loss: Chosen  # lightning_modules.losses
    optim: OptimOptions
    module: Annotated[dict[str, Any], NODE]  # lightning_modules.config.objects
    trainer: TrainerOptions
    callbacks: Annotated[dict[str, Any], NODES]
    checkpoint: CheckpointOptions
    sweep: SweepOptions
    logger: LoggerOptions
