"""A user's own modules: what they register is a choice like convzoo's, in every process and every command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from typing import Annotated, Literal

import pytest
from conftest import QUICK, ROOT, cell_config
from torch import nn

import lightning_modules
import zoo
from lightning_modules import run_cell
from zoo import plugins
from zoo.registry import Registry
from zoo.rules import whole

TEMPLATE = ROOT / "zoo" / "template"
OWN = ("plugins=[my_zoo]", "conv=ghost", "act=tanh_exp", "model=mobilenet", "model.variant=v3_small", "logger=none")
SMALL = ("data.image_size=8", "hardware=cpu", "hardware.plan=fp32", *QUICK)


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """A folder with the template's plugin, as the working directory; nothing stays registered afterwards."""
    shutil.copy(TEMPLATE / "my_zoo.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(plugins, "_loaded", {})
    for registry in (zoo.KINDS, zoo.ACTS):
        monkeypatch.setattr(registry, "_choices", dict(registry._choices))
    yield tmp_path
    sys.modules.pop("my_zoo", None)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_every_kind_passes_the_check_that_users_have(kind):
    assert zoo.check_kind(kind) == 6


@pytest.mark.parametrize(
    ("kind", "options"),
    [("separable", {"rank": 3}), ("blueprint", {"rank": 2}), ("spatial", {"rank": 5}), ("grouped", {"groups": 4})],
)
def test_formulas_hold_with_options(kind, options):
    assert zoo.check_kind(kind, **options) == 6


def test_a_wrong_formula_is_found(own_zoo):
    @zoo.conv_kind("wrong", params=lambda spec: 7)
    def wrong(spec):
        return spec.conv()

    with pytest.raises(zoo.ConvzooError, match=r"conv=wrong .* 7 parameters"):
        zoo.check_kind("wrong")


def test_a_kind_that_is_no_convolution_is_refused(own_zoo):
    @zoo.conv_kind("identity")
    def identity(spec):
        return nn.Identity()

    with pytest.raises(zoo.ConvzooError, match=r"zoo\.Factored"):
        zoo.build("resnet18", "identity")


def test_what_does_not_fit_is_kept_with_its_reason(own_zoo):
    @zoo.conv_kind("plain", fits=lambda spec: "stride" if spec.stride != (1, 1) else None)
    def plain(spec, scale: float = 1.0):
        return spec.but(groups=1, bias=True).conv()

    report = zoo.rewrite(zoo.build("resnet18"), "plain")
    assert {entry.reason for entry in report.kept} >= {"stride", "stem"} and report.rewritten


class TestOptions:
    """Options come from a signature."""

    @staticmethod
    def make(
        spec,
        ratio: Annotated[int, whole(2)] = 2,
        kind: Literal["a", "b"] = "a",
        share: float | None = None,
        flag: bool = False,
        free=None,
    ):
        """Makes it.

        Args:
            spec: The convolution.
            ratio: How many,
                on two lines.
            kind: Which.
        """

    def choice(self):
        registry = Registry("conv")
        registry.register("mine")(self.make)
        return registry

    def test_defaults_and_docs(self):
        mine = self.choice()["mine"]
        assert mine.defaults == {"ratio": 2, "kind": "a", "share": None, "flag": False, "free": None}
        assert mine.options["ratio"].doc == "How many, on two lines." and mine.summary == "Makes it."

    @pytest.mark.parametrize(
        "given", [{"ratio": 2}, {"kind": "b"}, {"share": None}, {"share": 0.5}, {"share": 1}, {"free": "any"}]
    )
    def test_right(self, given):
        assert self.choice().check("mine", given) == given

    @pytest.mark.parametrize(
        "given", [{"ratio": 1}, {"ratio": "2"}, {"ratio": 2.0}, {"kind": "c"}, {"share": "x"}, {"flag": 1}, {"no": 1}]
    )
    def test_wrong(self, given):
        with pytest.raises(zoo.ConvzooError, match=f"conv.{next(iter(given))}|no option no"):
            self.choice().check("mine", given)

    @pytest.mark.parametrize("name", ["", "Two", "a-b", "native", "all", 3])
    def test_names_can_be_typed(self, name):
        with pytest.raises(zoo.ConvzooError, match="cannot be registered"):
            Registry("conv").register(name)(self.make)


def test_names_belong_to_one_module(own_zoo):
    (own_zoo / "other_zoo.py").write_text((own_zoo / "my_zoo.py").read_text())
    zoo.load_plugins(["my_zoo"])
    with pytest.raises(zoo.ConvzooError, match=r"conv=ghost .*my_zoo.*other_zoo"):
        zoo.load_plugins(["other_zoo"])
    with pytest.raises(zoo.ConvzooError, match="conv=separable"):
        zoo.conv_kind("separable")(lambda spec: spec.conv())
    with pytest.raises(zoo.ConvzooError, match="data=digits"):
        lightning_modules.dataset("digits")(lambda options: None)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import no_such_module", ["ModuleNotFoundError", "no_such_module", "broken.py, line 1"]),
        ("\n1 / 0", ["ZeroDivisionError", "broken.py, line 2"]),
        ("def", ["SyntaxError", "broken.py"]),
        ("import sys; sys.exit(3)", ["SystemExit"]),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line(own_zoo, code, names):
    (own_zoo / "broken.py").write_text(code)
    with pytest.raises(zoo.ConvzooError) as error:
        zoo.load_plugins(["broken"])
    assert all(name in str(error.value) for name in ["plugins: broken", *names])


@pytest.mark.parametrize("name", ["my_zo", "my_zoo.py", "../my_zoo", 3, ""])
def test_a_plugin_that_does_not_exist(own_zoo, name):
    with pytest.raises(zoo.ConvzooError, match="plugins: "):
        zoo.load_plugins([name])


def test_a_cell_of_a_plugin_from_training_to_its_checkpoint(own_zoo):
    result = run_cell(cell_config_of(*OWN, *SMALL), own_zoo / "run", "a command")
    assert result["cell"]["conv"] == "ghost" and result["cell"]["conv_ratio"] == 2
    assert list(result["environment"]["plugins"]) == ["my_zoo"]
    net = zoo.load(own_zoo / "run" / "best.ckpt")
    assert any(type(m).__name__ == "Ghost" for m in net.modules())
    for registry in (zoo.KINDS, zoo.ACTS):
        registry._choices = {name: registry[name] for name in registry.built_in()}
    with pytest.raises(zoo.ConvzooError, match="conv=ghost, act=tanh_exp of the plugin my_zoo"):
        zoo.load(own_zoo / "run" / "best.ckpt")


def cell_config_of(*overrides):
    """`cell_config` with the choices of the plugins among the overrides."""
    from hydra_plugins.convzoo._plugins import load_named

    load_named(overrides)
    return cell_config(*overrides)


def test_a_run_does_not_resume_with_another_plugin(own_zoo, monkeypatch):
    from stopping import stop_at_batch

    config = cell_config_of(*OWN, *SMALL, "checkpoint.every_s=0", "trainer.max_epochs=2")
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)
        with pytest.raises(SystemExit):
            run_cell(config, own_zoo / "run", "a command")
    assert (own_zoo / "run" / "last.ckpt").exists()
    before = plugins._loaded["my_zoo"]
    plugins._loaded["my_zoo"] = "another"
    with pytest.raises(zoo.ConvzooError, match=f"my_zoo .*then {before}, now another"):
        run_cell(config, own_zoo / "run", "a command")
    plugins._loaded["my_zoo"] = before
    assert run_cell(config, own_zoo / "run", "a command")["status"] == "completed"


def test_a_sweep_over_a_plugins_choices(own_zoo, train):
    done = train("-m", *OWN, "conv=ghost,separable", *SMALL, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in (own_zoo / "sweep").glob("*/result.json")]
    assert {r["cell"]["conv"] for r in results} == {"ghost", "separable"}
    assert all(r["cell"]["act"] == "tanh_exp" and r["environment"]["plugins"] for r in results)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["conv=gost"], ["conv=gost", "conv=ghost"]),
        (["conv=ghost", "conv.ratio=x"], ["conv.ratio=x", "whole number"]),
        (["conv=ghost", "conv.rati=3"], ["conv.rati", "conv.ratio"]),
        (["conv=separable", "conv.ratio=3"], ["conv.ratio", "conv=ghost"]),
    ],
)
def test_mistakes_in_a_plugins_choices_get_the_messages_of_ours(own_zoo, train, words, names):
    done = train("plugins=[my_zoo]", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in names), done.stderr


def test_verbs_take_plugins(own_zoo):
    words = ["table", "--plugins", "my_zoo", "--models", "resnet:18", "--convs", "ghost", "--format", "csv"]
    done = subprocess.run([sys.executable, "-m", "zoo", *words], capture_output=True, text=True)
    assert done.returncode == 0 and ",ghost," in done.stdout, done.stderr
    done = subprocess.run([sys.executable, "-m", "zoo", *words[:1], *words[3:]], capture_output=True, text=True)
    assert done.returncode == 2 and "conv=ghost does not exist" in done.stderr


def convzoo(*words, folder, env):
    """Runs the installed command."""
    code = "import sys; from hydra_plugins.convzoo._train import convzoo; sys.argv[0] = 'convzoo'; convzoo()"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("page", "runs"), [("extend.md", 7), ("howto/own_training.md", 5)])
def test_the_pages_about_ones_own_parts_do_what_they_say(page, runs, tmp_path, clean_env):
    page = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_zoo.py").write_text("\n\n".join(text for kind, text in blocks if kind == "python"))
    for text in (text for kind, text in blocks if kind == "yaml"):
        path = tmp_path / text.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    commands = [shlex.split(line, comments=True) for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    quick = ("logger=none", "hardware.plan=fp32", *QUICK)
    for program, verb, *words in commands:
        assert program == "convzoo"
        done = convzoo(verb, *words, *(quick if verb == "train" else ()), folder=tmp_path, env=clean_env)
        assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("result.json")]
    assert {r["status"] for r in results} == {"completed"} and len(results) == runs
    if "zoo.conv_kind" not in page:
        return
    assert {r["cell"]["conv_part"] for r in results if r["cell"]["conv"] == "partial"} == {2, 4}
    code = "import my_zoo; from zoo import check_kind as c; print(c('partial'), c('bottleneck'), c('partial', part=2))"
    checked = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=clean_env, capture_output=True, text=True)
    assert checked.stdout.split() == ["4", "6", "4"], checked.stderr


def test_a_new_project_passes_its_test_and_trains(tmp_path, clean_env):
    assert convzoo("new", "mine", folder=tmp_path, env=clean_env).returncode == 0
    assert convzoo("new", "mine", folder=tmp_path, env=clean_env).returncode == 2
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tested = subprocess.run(words, cwd=tmp_path / "mine", env=clean_env, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout
    words = ("train", "+experiment=first", *SMALL, "hydra.run.dir=run")
    done = convzoo(*words, folder=tmp_path / "mine", env=clean_env)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mine" / "run" / "result.json").read_text())["cell"]["conv"] == "ghost"
