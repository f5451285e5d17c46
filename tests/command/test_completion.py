"""``convzoo completion``: what TAB offers, in the shells that are installed."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from hydra_plugins.convzoo._completion import SCRIPTS, candidates

PLUGIN = """
import nothing_that_is_installed
import zoo

@zoo.conv_kind("mine", params=None)
class Mine:
    def __init__(self, spec, parts=4, *, twice=False): ...

@zoo.activation("own_act")
def act(): ...
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder: a plugin that cannot even be imported, a choice and an experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("def (")
    for path in ("conf/optim/adan.yaml", "conf/experiment/first.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("name: x\n")
    return tmp_path


@pytest.mark.parametrize(
    "line, offers",
    [
        ("ta", ["table"]),
        ("table --max-p", ["--max-params"]),
        ("table --match-over ", ["phi", "width"]),
        ("table --convs separable,bl", ["separable,blueprint"]),
        ("table --plug", ["--plugins"]),
        ("completion z", ["zsh"]),
        ("report ", []),
        ("nonsense --", []),
        ("train mode", ["model.", "model="]),
        ("train --config-d", ["--config-dir"]),
        ("train -m conv=separable_", ["conv=separable_spatial"]),
        ("train conv=grouped,bl", ["conv=grouped,blueprint"]),
        ("train model.match", ["model.match=", "model.match_over="]),
        ("train callbacks=[ema,early", ["callbacks=[ema,early_stopping"]),
        ("train task=", ["task=time", "task=train"]),
        ("train 'seed=1 model=resn", ["model=resnet"]),
        ("train optim=ada", ["optim=adamw", "optim=adan"]),
        ("train +experiment=fi", ["+experiment=first"]),
        ("train plugins=[mine] conv=mi", ["conv=mine"]),
        ("train plugins=[mine] act=own", ["act=own_act"]),
        ("train plugins=[mine] conv.part", ["conv.parts="]),
        ("train plugins=[mine] conv.tw", ["conv.twice="]),
        ("train plugins=[broken,absent] conv=gr", ["conv=grouped"]),
    ],
)
def test_what_may_follow(folder, line, offers):
    assert candidates(f"convzoo {line}") == offers


def test_an_answer_is_quick(folder, clean_env):
    code = (
        "import sys; from hydra_plugins.convzoo._completion import candidates\n"
        "print(candidates('convzoo train plugins=[mine] conv=mi'), {'torch', 'lightning'} & {*sys.modules})"
    )
    env = {**clean_env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "['conv=mine'] set()\n"


ASKED = {
    # bash hands over words that it has cut at "=", and wants only what follows.
    "bash": """COMP_LINE="convzoo train conv=separable_"; COMP_POINT=${#COMP_LINE}
COMP_WORDS=(convzoo train conv = separable_); COMP_CWORD=4; _convzoo convzoo; echo "conv=${COMPREPLY[*]}"
""",
    "zsh": """compadd() { print -r -- $@[$#] }; words=(convzoo train conv=separable_); CURRENT=3; _convzoo
""",
    "fish": "complete -C 'convzoo train conv=separable_'\n",
}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_real_shell(shell, folder, clean_env):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    program = folder / "bin" / "convzoo"
    program.parent.mkdir()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from hydra_plugins.convzoo._train import convzoo; convzoo()"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.argv[0] = \'convzoo\'; {code}" "$@"\n')
    program.chmod(0o755)
    load = "convzoo completion fish | source" if shell == "fish" else f'eval "$(convzoo completion {shell})"'
    setup = "compdef() { :; }\n" if shell == "zsh" else ""
    env = {**clean_env, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([shell, "-c", f"{setup}{load}\n{ASKED[shell]}"], capture_output=True, text=True, env=env)
    assert done.stdout.split("\n")[-2].strip() == "conv=separable_spatial", done.stderr
