"""The documentation: links lead somewhere, commands and names exist, the notebook prints what it shows."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import re
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs/hooks"))

import command_help
import notebook

import lightning_modules
import zoo

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "sweeps/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FREE = {"eval", "ray", "wandb", "sbatch", "unzip", "tmux"}
"""Programs of others, whose arguments are not checked."""


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(path: Path, language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(r"^ {4}", "", text, flags=re.MULTILINE) if text.startswith("    ") else text for text in found]


def commands(path: Path) -> list[list[str]]:
    """The words of each shell command of a page, without comments and environment variables."""
    lines = "\n".join(fences(path, "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words)) for words in found if words]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def anchors(path: Path) -> set[str]:
    return {slug(text) for text in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)}


def generated_pages() -> set[Path]:
    """Pages in the site's navigation that the build makes."""

    def leaves(node):
        if isinstance(node, str):
            yield ROOT / "docs" / node
        else:
            for child in node.values() if isinstance(node, dict) else node:
                yield from leaves(child)

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    return {page for page in leaves(nav) if not page.exists()}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if file in generated_pages() and path.is_relative_to(ROOT / "docs"):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


COMMANDS = list(
    {
        shlex.join(words): pytest.param(words, id=f"{relative(p)}: {shlex.join(words)}"[:90])
        for p in PAGES
        for words in commands(p)
    }.values()
)


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_exist(words):
    match words:
        case ["python", "train.py", *overrides]:
            check_overrides(overrides)
        case ["python", "-m", "zoo", verb, *rest]:
            check_flags(("-m", "zoo", verb), rest)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), module
        case ["convzoo", "train" | "completion", *_]:
            pass  # tests/test_plugins.py and tests/command/test_completion.py run them
        case ["convzoo", verb, *rest]:
            check_flags(("-m", "zoo", verb), rest)
        case ["python", "your_script.py"]:
            pass
        case ["python" | "bash", file, *_]:
            assert (ROOT / file).exists()
        case ["make", target, *_]:
            assert target in re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        case ["pip", "install", *rest]:
            wanted = re.findall(r"\[([\w,]+)\]", " ".join(rest))
            assert set(",".join(wanted).split(",")) - {""} <= set(EXTRAS)
        case [program, *_]:
            assert program in FREE or (ROOT / program).exists(), program


def check_flags(command: tuple[str, ...], given: list[str]) -> None:
    known = help_of(command)
    assert not [flag for word in given if (flag := word.split("=")[0]).startswith("--") and flag not in known]


@cache
def help_of(command: tuple[str, ...]) -> str:
    return command_help.output(*command, "--help")


def check_overrides(given: list[str]) -> None:
    """Composes the command's configuration with each value of each of its lists."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [word for word in given if word != "-m"]
    if any(word.startswith("-") for word in words):
        return  # a reader's own folder of configurations
    parsed = OverridesParser.create().parse_overrides(words)
    values = [
        [f"{o.input_line.split('=')[0]}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override() and (o.is_choice_sweep() or o.is_range_sweep())
        else [o.input_line]
        for o in parsed
        if not o.is_sweep_override() or o.is_discrete_sweep()
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for point in itertools.zip_longest(*values):
            chosen = [text or options[0] for text, options in zip(point, values, strict=True)]
            compose("config", chosen, return_hydra_config=True)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_python_examples_use_public_names(path):
    for source in fences(path, "python"):
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.ImportFrom(module="zoo" | "lightning_modules", names=names):
                    assert {n.name for n in names} <= {*zoo.__all__, *lightning_modules.__all__}
                case ast.Attribute(value=ast.Name(id="zoo"), attr=name):
                    assert name in zoo.__all__
    called = re.findall(r"`zoo\.(\w+)\(", path.read_text())
    assert set(called) <= set(zoo.__all__)


def test_readme_names_every_choice():
    readme = (ROOT / "README.md").read_text()
    for group in ("model", "conv", "act", "scale", "init", "data", "hardware", "optim", "logger"):
        row = re.search(rf"^\| `{group}` \|.*$", readme, re.MULTILINE)[0]
        options = {path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml")} - {"depthwise_separable"}
        assert not {option for option in options if f"`{option}`" not in row}


def test_reference_has_every_key_and_option():
    pytest.importorskip("griffe", reason="needs convzoo[docs]")
    import config_keys
    from conftest import cell_config

    page = config_keys.page()
    for group in config_keys.groups():
        assert f"## `{group}`" in page
        options = [path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml")]
        assert len(options) == 1 or all(option in page for option in options)
    for group, keys in cell_config().items():
        for key in keys if isinstance(keys, dict) else ():
            assert key == "name" or f"`{group}.{key}" in page
    assert "`hydra.launcher.jobs`" in page and "`hydra.sweeper.trials`" in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_notebook_prints_what_it_shows(path):
    shown = json.loads(path.read_text())
    assert notebook.execute(shown) == notebook.stored(shown)


def test_citation_and_changelog_have_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == zoo.__version__
    assert f"## {zoo.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
