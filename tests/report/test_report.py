"""The report: cells, groups, every format, the command. Reading: test_report_files; figures: test_report_figures."""

import csv
import io
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from synthetic_sweep import ENVIRONMENT, RECIPE, make_cell, make_result, make_sweep, write_run

from zoo.errors import ConvzooError
from zoo.report import compare, load_results, print_result, print_table
from zoo.report.cells import varying
from zoo.report.command import run as run_command
from zoo.report.document import build
from zoo.report.formats import latex, markdown, to_csv
from zoo.report.plot import draw

HOSTILE = '<script>alert(1)</script>[red]a|b & "c" $x_1$ \x1b[31m=1+1'


def report(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "zoo", "report", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        **more,
    )


# Grouping


def groups_of(tmp_path, *results):
    for number, result in enumerate(results):
        write_run(tmp_path / str(number), result)
    return compare(load_results([tmp_path]))


def test_seeds_are_one_cell_and_recipes_are_apart(tmp_path):
    other = RECIPE | {"trainer.max_epochs": 5}
    groups = groups_of(
        tmp_path,
        *[make_result(make_cell(seed=seed), 0.9 + seed / 100) for seed in range(3)],
        make_result(make_cell(act="swish"), 0.99, recipe=other),
    )
    assert [len(group.cells) for group in groups] == [1, 1]
    assert [group.title for group in groups] == ["trainer.max_epochs=15", "trainer.max_epochs=5"]
    assert [group.rank(group.cells[0]) for group in groups] == [1, 1]
    assert len(groups[0].cells[0].runs) == 3


def test_old_results_have_the_recipe_of_their_cell(tmp_path):
    old = [make_result(make_cell(act=a, epochs=e)) for a, e in (("relu", 15), ("swish", 15), ("relu", 5))]
    for result in old:
        del result["recipe"]
    groups = groups_of(tmp_path, *old)
    assert [len(group.cells) for group in groups] == [2, 1] and groups[1].title == "epochs=5"


def test_a_seed_that_failed_early_belongs_to_the_cell_of_the_others(tmp_path):
    """A run finds out its stem and image size only after it has started, and a waiting job says no recipe."""
    early = make_cell(seed=1, stem="auto", hardware="auto")
    del early["image_size"]
    failed = make_result(early) | {"status": "failed", "metrics": {}, "error": "no memory"}
    del failed["recipe"]
    (group,) = groups_of(tmp_path, make_result(make_cell()), failed)
    (cell,) = group.cells
    assert cell.note() == "1 failed" and cell.status == "completed" and len(cell.values("test/acc")) == 1


def test_shown_are_the_choices_that_tell_cells_apart(tmp_path):
    scaled = [
        make_cell("effnet", act=a, phi=phi, depth=1.2**phi) for a, phi in (("relu", 1), ("relu", 2), ("swish", 2))
    ]
    (group,) = groups_of(
        tmp_path, *[make_result(cell | {"dropout_of_mine": c["act"]}) for c in scaled for cell in (c,)]
    )
    assert varying(group.cells) == ["model", "phi", "depth", "conv", "act"]


# Formats


@pytest.fixture
def sweep(tmp_path):
    return make_sweep(tmp_path / "sweep", 18, seeds=3, epochs=3)


def test_the_terminal_shows_spread_failures_and_counts(sweep, capsys):
    print_table(load_results([sweep]))
    shown = capsys.readouterr().out
    assert "0.9642 ± 0.0021 │ 3 │" in shown and "within noise" in shown and "best" in shown
    assert "1 failed" in shown and "killed by SIGKILL" in shown
    assert "54 runs: 47 completed, 1 waiting, 2 failed, 2 lost, 1 excluded, 1 same as another." in shown


def test_different_devices_are_said(tmp_path, capsys):
    gpu = make_result(make_cell(act="swish")) | {"environment": ENVIRONMENT | {"device": "NVIDIA H200"}}
    write_run(tmp_path / "a", make_result(make_cell()))
    write_run(tmp_path / "b", gpu)
    write_run(tmp_path / "c", make_result(make_cell(act="gelu")))
    write_run(tmp_path / "d", gpu | {"cell": make_cell(act="gelu", seed=1)})
    runs = load_results([tmp_path])
    print_table(runs)
    shown = capsys.readouterr().out
    assert "different conditions" in shown and "NVIDIA H200" in shown and "mixed" in shown
    document = build(runs, [])
    mixed = next(cell for cell in document["cells"] if cell["n"] == 2)
    assert "speed/latency_ms" not in mixed["metrics"] and mixed["metrics"]["test/acc"]["n"] == 2
    assert document["groups"][0]["effects"]["train"] == "measured under different conditions, so not compared"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_narrow_terminal_loses_columns_not_accuracies(sweep, capsys, monkeypatch, width):
    import rich.console

    from zoo import render

    def narrow(_):
        return rich.console.Console(width=width, file=sys.stdout)

    monkeypatch.setattr(render, "console", narrow)
    print_table(load_results([sweep]))
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if line[:1] in "┃│┏└"]
    assert max(map(len, table)) <= width
    assert "0.9642 ± 0.0021" in shown and ("no room for" in shown) == (width < 190)


def test_csv_has_all_digits_and_no_formula(tmp_path):
    cell = make_cell(model="=HYPERLINK(1)", seed=0)
    (group,) = groups_of(tmp_path, make_result(cell, 0.9), make_result(cell | {"seed": 1}, 0.8))
    (row,) = csv.DictReader(io.StringIO(to_csv([group])))
    assert row["model"] == "'=HYPERLINK(1)"
    assert float(row["test/acc"]) == pytest.approx(0.85) and float(row["test/acc_sd"]) == pytest.approx(0.1 / 2**0.5)
    assert row["test/acc_n"] == "2" and row["cost/params"] == "11200000"
    assert float(row["speed/latency_ms_iqr"]) > 0 and row["command"].count("python train.py") == 2
    assert "threads 1" in row["measured on"]


def test_markdown_and_latex_escape(tmp_path):
    groups = groups_of(tmp_path, make_result(make_cell(model=HOSTILE), 0.9))
    table = markdown(groups)
    assert "<script" not in table and r"a\|b" in table and table.count("\n") == 3
    tabular = latex(groups)
    assert r"\$x\_1\$" in tabular and r"\&" in tabular and r"\textless{}script" in tabular and "\x1b" not in tabular
    rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
    columns = tabular.partition(r"\begin{tabular}{")[2].partition("}")[0]
    assert len(rows) == 2 and all(row.replace(r"\&", "").count("&") == len(columns) - 1 for row in rows)


def test_brackets_are_no_markup_in_the_terminal(tmp_path, capsys):
    write_run(tmp_path, result := make_result(make_cell(model="[/red] [bold]x\x1b[2J"), 0.9))
    print_table(load_results([tmp_path]))
    print_result(result | {"command": "python train.py logger.tags=[smoke]"}, tmp_path)
    shown = capsys.readouterr().out
    assert "[/red] [bold]x" in shown and "\x1b" not in shown and "logger.tags=[smoke]" in shown


def test_the_document_follows_from_the_files(sweep):
    """Every mean, recomputed from the result files alone."""
    document = json.loads(json.dumps(build(load_results([sweep]), [sweep])))
    results = {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/result.json")}
    checked = 0
    for cell in document["cells"]:
        seeds = {}
        for number in cell["runs"]:
            run = document["runs"][number]
            result = results.get((run["same_as"] or run["folder"]).rpartition("/")[2])
            if result and result["status"] == "completed":
                seeds[run["seed"]] = result["metrics"]
        assert cell["n"] == len(seeds)
        for key, found in cell["metrics"].items():
            values = [metrics[key] for metrics in seeds.values()]
            assert found["mean"] == pytest.approx(sum(values) / len(values), rel=1e-12)
            checked += 1
    assert checked > 150
    assert sum(document["counts"].values()) == len(document["runs"]) == 54
    curve = next(run for run in document["runs"] if run["status"] == "completed")["epochs"]
    assert curve["epoch"] == [0, 1, 2] and len(curve["val/acc"]) == 3


def test_a_long_curve_is_thinned_and_keeps_its_end(tmp_path):
    write_run(tmp_path, make_result(make_cell()), epochs=1234)
    (run,) = build(load_results([tmp_path]), [])["runs"]
    assert len(run["epochs"]["epoch"]) <= 100 and run["epochs"]["epoch"][-1] == 1233


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot_takes_any_name_and_has_a_front(tmp_path, suffix):
    names = ("$x_1$", "<b>", "resnet")
    groups = groups_of(
        tmp_path, *[make_result(make_cell(model=m, seed=s), 0.8 + s / 10) for m in names for s in range(2)]
    )
    draw(groups, path := tmp_path / f"plot.{suffix}")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG") if suffix == "png" else b"<b>" not in data and b"</svg>" in data


def test_a_plot_of_nothing_is_one_message(tmp_path):
    groups = groups_of(tmp_path, make_result(make_cell()) | {"status": "failed", "metrics": {}})
    with pytest.raises(ConvzooError, match="no completed run"):
        draw(groups, tmp_path / "plot.svg")


# The command


def test_the_command_writes_every_format(sweep, tmp_path):
    names = {"csv": "t.csv", "markdown": "t.md", "latex": "t.tex", "json": "t.json"}
    done = report(sweep, "--sort", "macs", *(x for k, v in names.items() for x in (f"--{k}", tmp_path / v)))
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    macs = [float(row["cost/macs"]) for row in rows if row["cost/macs"]]
    assert macs == sorted(macs) and len(rows) == 18
    assert (tmp_path / "t.md").read_text().count("\n") == 20
    assert json.loads((tmp_path / "t.json").read_text())["format"] == 1


@pytest.mark.parametrize("arguments", [["none"], ["."], [".", "--csv", "none/t.csv"]])
def test_a_mistake_is_one_message(sweep, arguments):
    folder = sweep if "--csv" in arguments else sweep.parent.parent / "empty"
    folder.mkdir(exist_ok=True)
    done = report(*arguments, cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_the_command_starts_at_once_and_without_torch(tmp_path):
    make_sweep(tmp_path / "sweep")
    code = (
        "import sys, zoo.__main__ as m; m.main(['report', sys.argv[1], '--json', sys.argv[2]])\n"
        "print({'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "sweep", tmp_path / "a.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
    assert time.perf_counter() - start < 5  # 0.2 s; the machine may be busy


def test_two_thousand_results_take_seconds(tmp_path, capsys):
    make_sweep(tmp_path / "sweep", 2000, epochs=3)
    start = time.process_time()
    from argparse import Namespace

    none = dict.fromkeys(("html", "csv", "markdown", "latex", "plot"))
    run_command(Namespace(folders=[tmp_path / "sweep"], sort="acc", json=tmp_path / "a.json", **none))
    assert time.process_time() - start < 15  # about 3 s
    assert "2000 runs: 1993 completed" in capsys.readouterr().out


def test_rows_of_different_versions_of_a_plugin_are_named_in_one_line(tmp_path, capsys):
    for seed, code in enumerate(("aaa", "aaa", "bbb")):
        result = make_result(make_cell(seed=seed), 0.9)
        result["environment"] = {**result["environment"], "plugins": {"my_zoo": code, "steady": "ccc"}}
        write_run(tmp_path / str(seed), result)
    says = "Different versions of a plugin in one table: my_zoo (aaa in 2 of the runs, bbb in 1 of the runs)."
    runs = load_results([tmp_path])
    print_table(runs)
    assert says in capsys.readouterr().out
    assert says.replace("_", "\\_") in markdown(compare(runs))
    assert build(runs, [tmp_path])["groups"][0]["versions"] == says
    alike = [run for run in runs if run.plugins["my_zoo"] == "aaa"]
    assert build(alike, [tmp_path])["groups"][0]["versions"] == ""
