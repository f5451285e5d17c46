"""The configuration's contract: every key has a rule, and what breaks it is named."""

import copy

import pytest
from conftest import ROOT, cell_config, cell_spec
from omegaconf import OmegaConf

from hydra_plugins.convzoo._cli import is_object, known_keys
from lightning_modules.config.check import check
from lightning_modules.config.columns import columns
from lightning_modules.config.identity import leaves
from lightning_modules.config.options import rules
from lightning_modules.config.schema import PLANS, STEMS, CellSpec
from zoo import ACTS, KINDS, ConvzooError
from zoo.backbones import stem
from zoo.speeds import plan

REGISTERED = {
    f"{registry.axis}.{key}": option.rule
    for registry in (KINDS, ACTS)
    for choice in registry.values()
    for key, option in choice.options.items()
}
RULES = dict(rules(CellSpec)) | REGISTERED
GROUPS = sorted(
    p.parent.name + "=" + p.stem
    for p in (ROOT / "conf").glob("*/*.yaml")
    if p.parent.name != "experiment" and p.stem != "svd"
)
GIVEN = {
    "model=timm": ["model.name=resnet18"],
    "data=imagefolder": ["data.root=somewhere"],
    "data=timm": ["data.source=hfds/somebody/something"],
    "scale=compound": ["scale.phi=1"],
    **{f"scale={axis}": ["scale.factor=1.5"] for axis in ("depth", "width", "resolution")},
}


@pytest.fixture(autouse=True)
def every_extra(monkeypatch):
    monkeypatch.setattr("lightning_modules.config.check.need_packages", lambda *_: None)


@pytest.mark.parametrize("choice", GROUPS)
def test_every_key_has_a_rule_and_every_default_keeps_it(choice):
    config = cell_config(choice, *GIVEN.get(choice, []))
    assert {key for key, _ in leaves(config) if not is_object(key)} <= set(RULES)
    check(spec := CellSpec.of(config))
    assert spec.plain() == config
    assert all(isinstance(v, (str, int, float)) for v in columns(spec, "cpu").values())


def test_every_rule_has_a_key():
    assert set(RULES) <= set(known_keys())


@pytest.mark.parametrize("registry", [KINDS, ACTS], ids=["conv", "act"])
def test_the_files_of_a_registry_have_its_choices_with_their_options_and_defaults(registry):
    files = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path))
        for path in (ROOT / "conf" / registry.axis).glob("*.yaml")
    }
    assert {config["name"] for config in files.values()} == {"native", *registry}
    for config in files.values():
        if (name := config.pop("name")) != "native":
            assert config == registry[name].defaults


CHECKED = sorted(k for k, (allowed, _) in RULES.items() if not allowed(object()))


@pytest.mark.parametrize("key", CHECKED)
def test_nonsense_is_refused_by_name(key):
    config = next(
        config
        for choice in [*GROUPS, "seed=0"]
        if key in {**(config := copy.deepcopy(cell_config(choice, *GIVEN.get(choice, [])))), **dict(leaves(config))}
    )
    place = config
    *path, last = key.split(".")
    for part in path:
        place = place[part]
    place[last] = {"no": "thing"}
    with pytest.raises(ConvzooError, match=key.replace(".", r"\.")):
        check(CellSpec.of(config))


def test_a_number_a_channel():
    with pytest.raises(ConvzooError, match=r"data\.mean needs 3 numbers"):
        check(cell_spec("data.in_chans=3"))


@pytest.mark.parametrize("interval", ["null", "0.5", "1.0"])
def test_batches_over_all_epochs_are_a_number(interval):
    with pytest.raises(ConvzooError, match=r"trainer\.check_val_every_n_epoch=null .*trainer\.val_check_interval=N"):
        check(cell_spec("trainer.check_val_every_n_epoch=null", f"trainer.val_check_interval={interval}"))
    for allowed in ("7", "'00:00:10:00'"):
        check(cell_spec("trainer.check_val_every_n_epoch=null", f"trainer.val_check_interval={allowed}"))


def test_names_that_the_schema_shares_with_the_zoo():
    assert set(PLANS) == {"auto", *plan.PLANS} and STEMS == stem.STEMS
