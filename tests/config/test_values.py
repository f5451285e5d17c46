"""What people type for null, texts that look like something else, and W&B's dictionaries."""

import json

import pytest
from conftest import cell_config
from omegaconf import OmegaConf

from hydra_plugins.convzoo._composition import Composition
from hydra_plugins.convzoo._nested import spread, written
from hydra_plugins.convzoo.search_path import sweep_name
from lightning_modules.config.identity import leaves
from lightning_modules.config.options import Chosen, rules
from lightning_modules.config.schema import CellSpec
from lightning_modules.config.values import HAVE_NONE, means_null, read_nulls
from zoo import ConvzooError

RULES = dict(rules(CellSpec))
NULLABLE = sorted(key for key, (allowed, _) in RULES.items() if allowed(None) and key not in HAVE_NONE)


def given(key, text):
    """The value that a key has when it is typed, as a run reads it."""
    *path, last = key.split(".")
    config = {last: text}
    for part in reversed(path):
        config = {part: config}
    return dict(leaves(read_nulls(config)))[key]


@pytest.mark.parametrize("text", ["None", "~", "null", "NULL", "none"])
@pytest.mark.parametrize("key", NULLABLE)
def test_null_has_many_names(key, text):
    assert given(key, text) is None


def test_a_choice_that_is_called_none_stays():
    assert {key for key, (allowed, _) in RULES.items() if not allowed(None) and allowed("none")} >= {*HAVE_NONE} - {
        "conv.between"
    }
    assert all(given(key, "none") == "none" for key in HAVE_NONE)
    assert read_nulls({"logger": {"tags": ["a", "None"]}}) == {"logger": {"tags": ["a", None]}}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=None", "seed=null is not allowed. Allowed: a whole number"),
        ('data.augment.hflip="True"', 'hflip="True" (a text) is not allowed'),
        ('data.batch_size="32"', 'batch_size="32" (a text) is not allowed'),
        ('optim.lr="1e-3"', 'lr="1e-3" (a text) is not allowed'),
        ("data.mean=[None]", "mean=[null] is not allowed"),
        ('data.mean=["0.5"]', 'mean=["0.5" (a text)] is not allowed'),
        ("logger.tags=[a,None]", "tags=[a,null] is not allowed"),
    ],
)
def test_a_message_does_not_contradict_itself(override, told):
    with pytest.raises(ConvzooError) as error:
        CellSpec.of(cell_config(override))
    assert told in str(error.value)


def test_none_in_a_file_of_ones_own():
    config = OmegaConf.to_container(OmegaConf.create("logger: {group: None, entity: ~, tags: [None]}\nseed: None"))
    assert read_nulls(config) == {"logger": {"group": None, "entity": None, "tags": [None]}, "seed": None}


def test_a_sweep_called_none_has_a_name(monkeypatch):
    monkeypatch.setattr(Composition, "of", staticmethod(lambda hydra: Composition(".")))
    names = [
        sweep_name(n, OmegaConf.create(["seed=0,1"]), _root_=OmegaConf.create({"hydra": {}})) for n in ("None", None)
    ]
    assert names[0] == names[1] != "None"
    assert means_null(None) and not means_null("nothing")


def test_none_on_the_command_line(train, tmp_path):
    done = train(
        "logger.group=None", "trainer.max_time=None", "task=time", "trainer.precision=None", "model.match=None"
    )
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("runs/*/*/config.json")
    config = json.loads(found.read_text())
    assert config["logger"]["group"] is config["trainer"]["max_time"] is config["model"]["match"] is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optim={'lr': 0.1, 'bad_step': 'skip'}", ["optim.lr=0.1", "optim.bad_step=skip"]),
        ('optim={"lr": 1e-05, "warmup": null}', ["optim.lr=1e-05", "optim.warmup=null"]),
        ("optim={lr: 0.1}", ["optim.lr=0.1"]),
        ("optim={'lr': 0.1, 'name': 'sgd'}", ["optim=sgd", "optim.lr=0.1"]),
        ("model={'name': 'resnet18'}", ["model.name=resnet18"]),
        ("data={'augment': {'hflip': True, 'cutout': 4}}", ["data.augment.hflip=true", "data.augment.cutout=4"]),
        ("data.augment={'hflip': False}", ["data.augment.hflip=false"]),
        ("scale.by={'depth': 2}", ["scale.by.depth=2"]),
        ("scale.by={depth:2}", ["scale.by={depth:2}"]),
        ("scale.by={depth:1},{depth:2}", ["scale.by={depth:1},{depth:2}"]),
        ("++optim={'lr': 0.1}", ["++optim.lr=0.1"]),
        ('{"seed": 3, "optim": {"lr": 0.1}}', ["seed=3", "optim.lr=0.1"]),
        ("logger={'tags': ['a b', 'c']}", ["logger.tags=['a b',c]"]),
        ("hydra.launcher={jobs:2}", ["hydra.launcher={jobs:2}"]),
        ("model=resnet", ["model=resnet"]),
        ("optim={}", []),
    ],
)
def test_a_dictionary_is_its_values(typed, meant):
    assert spread([typed]) == meant


@pytest.mark.parametrize("typed", ["optim={lr:0.1},{lr:0.2}", "optim={", "{", "optim={'lr': f()}", "optim={'l r': 1}"])
def test_a_dictionary_that_is_none_is_told_by_its_key(typed):
    with pytest.raises(ConvzooError, match=r"optim|\{…\}"):
        spread([typed])


@pytest.mark.parametrize("value", [None, True, 3, 1e-05, "a", "None", "true", "it's", "a,b", "1", "", "~", [1, "x y"]])
def test_what_is_written_is_read_again(value):
    assert OmegaConf.to_container(OmegaConf.create({"value": _read(written(value))}))["value"] == value


def _read(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(f"key={text}").value()


def test_w_and_b_gives_a_dictionary(train, tmp_path):
    """As `wandb agent` calls a program: a word a parameter, in Python's notation."""
    done = train("optim={'lr': 0.25, 'name': 'sgd'}", "task=time", "seed=3", "logger=none", "trainer.max_time=None")
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("runs/*/*/result.json")
    result = json.loads(found.read_text())
    assert (result["cell"]["lr"], result["cell"]["optim"]) == (0.25, "sgd")
    assert "optim=sgd optim.lr=0.25" in result["command"]


@pytest.mark.parametrize("typed", ["--seed=3", "--optim={'lr': 0.1}"])
def test_hyphens_of_w_and_b_are_told(typed, train):
    done = train(typed)
    assert done.returncode == 2 and "args_no_hyphens" in done.stderr and "Traceback" not in done.stderr


def test_slurms_options_may_be_none():
    from hydra_plugins.convzoo.slurm_launcher import SlurmLauncher

    options = SlurmLauncher(partition="None", account="me").options
    assert options.partition is None and options.account == "me"


@pytest.mark.parametrize("data", ["cifar10", "fashion_mnist", "imagefolder"])
def test_data_in_a_folder_needs_one(data):
    from lightning_modules.data import make_data

    with pytest.raises(ConvzooError, match=r"data\.root=null"):
        make_data(cell_config(f"data={data}", "data.root=None")["data"], 0)


def test_none_stays_a_text_where_a_users_option_takes_one(monkeypatch):
    import zoo

    monkeypatch.setattr(zoo.KINDS, "_choices", dict(zoo.KINDS._choices))

    @zoo.conv_kind("worded")
    def worded(spec, mode: str = "some", maybe: str | None = "some", rank: int | None = 1):
        return spec.conv()

    read = Chosen.of({"name": "worded", "mode": "none", "maybe": "none", "rank": "none"}, "conv").options
    assert read == {"mode": "none", "maybe": None, "rank": None}
    assert Chosen.of({"name": "grouped", "mode": "none"}, "conv").options == {"mode": None}
