"""The report: reading whatever runs leave behind, grouping it, every format. Its figures: test_report_figures.py."""

import csv
import io
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from synthetic_sweep import ENVIRONMENT, RECIPE, make_cell, make_result, make_sweep, write_run, write_sweep

from zoo.errors import ConvzooError
from zoo.report import compare, load_results, print_result, print_table
from zoo.report.cells import varying
from zoo.report.command import run as run_command
from zoo.report.document import build
from zoo.report.files import read_epochs
from zoo.report.plot import draw
from zoo.report.tables import latex, markdown, to_csv

HOSTILE = '<script>alert(1)</script>[red]a|b & "c" $x_1$ \x1b[31m=1+1'


def report(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "zoo", "report", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        **more,
    )


# Reading


def test_every_state_of_a_job_is_told(tmp_path):
    jobs = [{"cell": make_cell(act=act)} for act in ("relu", "swish", "gelu", "mish", "elu", "selu", "relu6", "native")]
    jobs[4]["excluded"] = "above 30M"
    jobs[5]["same_as"] = 0
    jobs[3]["cost"] = {"cost/params": 123}
    sweep = write_sweep(tmp_path / "sweep", jobs)
    folders = [sweep / job["folder"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]]
    write_run(folders[0], make_result(jobs[0]["cell"], 0.9))
    write_run(folders[1], make_result(jobs[1]["cell"]) | {"status": "failed", "metrics": {}, "error": "killed"})
    write_run(folders[2], None, epochs=3)
    write_run(folders[6], "{cut", epochs=3)
    write_run(folders[7], make_result(jobs[7]["cell"]) | {"status": "interrupted", "metrics": {}})
    code = (
        "import sys, fcntl; files = [open(p, 'w') for p in sys.argv[1:]]\n"
        "for f in files: fcntl.lockf(f, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    locks = [folders[2] / "job.lock", folders[7] / "job.lock"]
    holder = subprocess.Popen([sys.executable, "-c", code, *locks], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    running = {run.number: run for run in load_results([sweep])}
    holder.communicate()
    lost = {run.number: run for run in load_results([sweep])}
    states = ["completed", "failed", "running", "waiting", "excluded", "completed", "unreadable", "running"]
    assert [running[i].status for i in range(8)] == states
    assert lost[2].status == "lost" and lost[7].status == "interrupted"
    assert running[5].same_as == str(folders[0]) and running[5].metrics == running[0].metrics
    assert running[5].cell["act"] == "selu" and "act=selu" in running[5].command
    assert running[1].error == "killed" and running[3].metrics == {"cost/params": 123}
    assert running[3].command == "python train.py model=resnet conv=standard act=mish seed=0"
    assert "result.json is no JSON" in running[6].error


def test_looking_at_a_lock_does_not_take_it(tmp_path):
    """Closing a file gives up the locks of this process, so the lock is held and asked for in two others."""
    from zoo.report.files import is_locked

    lock = tmp_path / "job.lock"
    lock.touch()
    assert not is_locked(lock) and not is_locked(tmp_path / "none")
    code = f"import fcntl; f = open({str(lock)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON"),
        ('{"status": "completed", "cell"', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("9" * 5000, "is no JSON"),
        ("[1]", "holds a list"),
        ('"completed"', "holds a str"),
        ("{}", "status None"),
        ('{"status": ["completed"]}', "status ['completed']"),
        ('{"status": "done"}', "status done"),
    ],
)
def test_a_result_that_cannot_be_used_is_named_and_stops_nothing(tmp_path, capsys, text, says):
    write_run(tmp_path / "good", make_result(make_cell(), 0.9))
    write_run(tmp_path / "bad", text)
    runs = load_results([tmp_path])
    assert sorted(run.status for run in runs) == ["completed", "unreadable"]
    assert says in next(run.error for run in runs if run.status == "unreadable")
    print_table(runs)
    shown = capsys.readouterr().out
    assert "0.9000" in shown and "unreadable" in shown and says[:20] in shown
    json.dumps(build(runs, [tmp_path]), allow_nan=False)


WRONG_TYPES = [
    {"metrics": None},
    {"metrics": [1]},
    {"metrics": {"test/acc": "0.9", "cost/params": True, "cost/macs": float("inf"), "speed/latency_ms": float("nan")}},
    {"metrics": {"test/acc": 1e308, "cost/params": 10**400, "cost/macs": -5, "time/fit_s": 0}},
    {"cell": None},
    {"cell": "resnet"},
    {"cell": {"model": ["a", {"b": None}], "conv": 3, "act": None, "seed": float("nan"), "epochs": {}}},
    {"recipe": 7},
    {"recipe": {"data.mean": [0.1, 0.2], "x": {"y": 1}}},
    {"environment": "here"},
    {"environment": {"device": {"a": 1}, "threads": None}},
    {"command": 5, "error": {"a": 1}},
    {"cell": {"model": "\ud800", "conv": "a\x00b", "act": "\u202eevil"}},
]


@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=str)
def test_wrong_types_never_crash_a_format(tmp_path, capsys, wrong):
    write_run(tmp_path / "a", make_result(make_cell(), 0.9), epochs=2)
    write_run(tmp_path / "b", make_result(make_cell(act="swish"), 0.8) | wrong, epochs=2)
    write_run(tmp_path / "c", make_result(make_cell(act="swish", seed=1), 0.8) | wrong | {"status": "failed"})
    runs = load_results([tmp_path])
    groups = compare(runs)
    print_table(runs)
    for text in (markdown(groups), latex(groups), to_csv(groups), json.dumps(build(runs, []), allow_nan=False)):
        text.encode()
    assert "0.9000" in capsys.readouterr().out


def test_a_number_that_is_none_is_a_problem_with_a_name(tmp_path, capsys):
    result = make_result(make_cell(), 0.9)
    result["metrics"] |= {"cost/params": "many", "val/acc": None}
    write_run(tmp_path, result)
    (run,) = load_results([tmp_path])
    assert run.problems == ("metrics: cost/params is 'many', not a number to compute with",)
    print_table([run])
    assert "cost/params is 'many'" in capsys.readouterr().out


def test_a_pipe_or_a_folder_in_place_of_a_result_does_not_hang(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "result.json")
    write_run(tmp_path / "b", None, epochs=1)
    (tmp_path / "b" / "result.json").mkdir()
    write_run(tmp_path / "c", make_result(make_cell()))
    runs = load_results([tmp_path])
    assert sorted(run.status for run in runs) == ["completed", "unreadable"]


def test_epochs_survive_cuts_and_repeats(tmp_path):
    rows = [{"epoch": e, "val/acc": e / 10} for e in (0, 1, 2)] + [{"epoch": 1, "val/acc": 0.5, "lr": "x"}]
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"epoch": 3, "val'
    (tmp_path / "epochs.jsonl").write_text(text)
    epochs, problem = read_epochs(tmp_path)
    assert [(row["epoch"], row["val/acc"]) for row in epochs] == [(0, 0.0), (1, 0.5), (2, 0.2)] and problem is None
    (tmp_path / "epochs.jsonl").write_text('[1]\n{"epoch": "x"}\nnonsense\n{"epoch": 0}\n')
    assert read_epochs(tmp_path) == ([{"epoch": 0}], "epochs.jsonl has 3 unreadable lines")
    assert read_epochs(tmp_path / "none") == ([], None)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"jobs": 3}', '{"jobs": [3, {}, {"same_as": 9}, {"folder": "../x", "cell": 1}]}']
)
def test_a_broken_sweep_file_is_named_and_its_results_are_read(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    write_run(tmp_path / "0", make_result(make_cell()))
    runs = load_results([tmp_path])
    assert [run.status for run in runs].count("completed") == 1
    assert any(run.status == "unreadable" and run.error.startswith("sweep.json") for run in runs)


def test_folders_given_twice_count_once(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", epochs=0)
    assert len(load_results([sweep])) == 18
    inside = next(path.parent for path in sweep.glob("*/result.json"))
    assert len(load_results([tmp_path, sweep, inside])) == 18


def test_nothing_to_read_is_one_message(tmp_path):
    with pytest.raises(ConvzooError, match="does not exist"):
        load_results([tmp_path / "none"])
    with pytest.raises(ConvzooError, match=r"no result\.json and no sweep\.json"):
        load_results([tmp_path])
    done = report(tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


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
    assert report(sweep, "--csv", tmp_path / "none" / "t.csv").returncode == 2


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
