"""Command lines and configurations that a person, or chance, might come up with."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache
from typing import Any

from conftest import ROOT
from hydra import compose
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.convzoo._cli import known_keys
from lightning_modules.config.identity import leaves
from lightning_modules.config.options import rules
from lightning_modules.config.schema import CellSpec

RULES = dict(rules(CellSpec))
GROUPS = {
    group.name: [path.stem for path in group.glob("*.yaml")]
    for group in (ROOT / "conf").iterdir()
    if group.is_dir() and group.name not in ("hydra", "experiment")
}
words = str.split

NUMBERS = words(
    "0 1 -1 2 3 8 16 32 33 64 50 0.1 0.5 1.5 -0.0 224.0 1e-3 1e30 1e400 nan inf -inf 1000000 10000000000000 1_000 0x10 "
    "050 99999999999999999999 1e1000000000"
)
WORDS = words(
    "null true false auto native '' [] [1,2] [0.5,0.5,0.5] {} {a:1} {depth:4} [[[1]]] ü 名 a/b ../x a,b a=b %s ??? \\ "
    "{_target_:os.system,command:id} choice(1,2) range(3) glob(*) int(3) str(1) interval(0,1) sort(1,2) shuffle(1,2) "
    "extend_list(1) json_str({}) bool(1) float(nan) ${oc.env:HOME} ${oc.env:NOT_THERE} ${now:%Y} ${seed} ${nothing} "
    "${a ${oc.decode:'1'} ${optim.lr} ${.name} ${data} ${hydra:job.name} ${eval:1} ${python_version:major}"
)
SPACED = ['"a b"', "'it\\'s'", "\u2028", "\x1b[31m", "\n", "a" * 300]
NAMES = words(
    "resnet10t regnetx_002 mobilenetv2_100 vit_tiny_patch16_224 hf-hub:a/b local-dir:/tmp a:b convnext_atto adamw sgd "
    "lion fusedadam adahessian lookahead_adam bnbadam8bit lamb macs:30M params:1M macs:1 macs:1e29 params:nan 1.8G "
    "macs: macs:10M:5 16-mixed bf16-true ddp fsdp deepspeed tpu mps cpu gpu simple warn 00:00:01:00 {hours:1} norm"
)
STRANGE = words(
    "+x._target_=os.system ++model._target_=os.system +experiment=mobilenet_v1_table4 experiment=x +model@x=resnet = "
    "+experiment=efficientnet_table3 model@_global_=resnet ~model seed seed==1 a.b.c=1 model.name.x=1 data.augment={} "
    "data.augment=null scale.by=null trainer={} data=null +data=cifar10 optim=[sgd,adamw] model.=1 .x=1 +seed.x=1 "
    "conv.groups.a=1 trainer.max_epochs=${trainer.max_epochs} seed=${task} task=${seed} +a=${b} seed=${seed} "
    "data.mean=[nan] data.std=[inf] data.mean=[1e400] scale.by={depth:[1,2]} scale.by.height=2 --cfg -m --multirun"
)

_keys = st.sampled_from([key for key in sorted({*RULES, *known_keys()}) if key not in GROUPS])
_names = st.sampled_from(sorted(GROUPS))
_groups = _names.flatmap(lambda group: st.sampled_from(GROUPS[group]).map(lambda value: f"{group}={value}"))
_values = st.one_of(
    st.sampled_from([*NUMBERS, *WORDS, *SPACED, *NAMES]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
    st.text("[]{}(),:'\"$\\=~+@ "),
)
_settings = st.tuples(_keys, _values).map("=".join)
_strange = st.one_of(
    st.tuples(st.sampled_from(["", "+", "++", "~", "~~", "@"]), _keys | _names, st.just("="), _values).map("".join),
    st.tuples(_names, _values).map("=".join),
    st.sampled_from(["", *STRANGE]),
    st.text(max_size=20),
)

command_lines = st.tuples(
    st.lists(_groups, max_size=5), st.lists(_settings, max_size=3), st.lists(_strange, max_size=1)
).map(lambda parts: [*parts[0], *parts[1], *parts[2]])
"""Some choices, some values for any key, and now and then something that is neither."""

BASES = (
    ["model=effnet"],
    ["model=resnet", "conv=spatial", "act=swish", "data=synthetic", "optim=sgd"],
    ["model=mobilenet", "conv=grouped", "scale=width", "scale.factor=1.5", "data=synthetic"],
    ["model=resnet", "conv=separable", "scale=factors", "hardware=ddp", "logger=none"],
    ["model=effnet", "scale=compound", "scale.phi=1", "data=synthetic", "hardware=cpu"],
    ["model=timm", "model.name=resnet10t", "conv=blueprint", "act=prelu", "logger=csv"],
    ["model=mobilenet", "model.variant=v3_small", "scale=depth", "scale.factor=1.5"],
    ["model=xception", "scale=resolution", "scale.factor=0.5"],
)
WHOLE = (0, 1, -1, 2, 3, 4, 8, 16, 32, 64, 224, 1000, 4096, 2**31, 2**32, 2**63, 10**12, 10**30, 10**400)
BROKEN = (0.5, 0.999, 1.5, 1e-9, 1e9, 1e29, 1e308, math.nan, math.inf, -math.inf, -0.0)
_numbers = st.sampled_from([*WHOLE, *BROKEN, True, False])
_texts = (
    st.sampled_from([*NUMBERS, *NAMES, "native", "auto", "\x00", "\ud800", "<script>", "\x1b[2J", "x" * 300])
    | st.text()
)
_plain = st.one_of(
    _numbers, _texts, st.none(), st.lists(_numbers, max_size=4), st.dictionaries(_texts, _numbers, max_size=2)
)
changes = st.lists(st.tuples(st.integers(0, 10**6), _plain), min_size=1, max_size=3)
"""Which leaves of a configuration to change, and to what."""


@cache
def _bases() -> list[dict[str, Any]]:
    return [OmegaConf.to_container(compose("config", base), resolve=True) for base in BASES]


def changed(base: int, changes: list[tuple[int, Any]]) -> dict[str, Any]:
    """A configuration with some of its leaves changed."""
    config = deepcopy(_bases()[base])
    keys = [key for key, _ in leaves(config)]
    for number, value in changes:
        *path, last = keys[number % len(keys)].split(".")
        place = config
        for part in path:
            place = place[part] if isinstance(place, dict) else {}
        place[last] = value
    return config
