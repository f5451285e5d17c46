"""The report reads whatever runs leave behind: cut, of wrong types, hostile, half done."""

import json
import os
import subprocess
import sys

import pytest
from synthetic_sweep import make_cell, make_result, make_sweep, write_run, write_sweep

from zoo.errors import ConvzooError
from zoo.report import compare, load_results, print_table
from zoo.report.document import build
from zoo.report.files import read_epochs
from zoo.report.formats import latex, markdown, to_csv

HOSTILE = '<script>alert(1)</script>[red]a|b & "c" $x_1$ \x1b[31m=1+1'


def test_every_state_of_a_job_is_told(tmp_path, capsys):
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
    assert "result.json" in running[6].error and "JSON" in running[6].error
    print_table(list(running.values()))
    assert "running: epoch 3, val 0.6" in capsys.readouterr().out


def test_looking_at_a_lock_does_not_take_it(tmp_path):
    """Closing a file gives up the locks of this process, so the lock is held and asked for in two others."""
    from zoo.report.lock_state import is_locked

    lock = tmp_path / "job.lock"
    lock.touch()
    assert not is_locked(lock) and not is_locked(tmp_path / "none")
    code = f"import fcntl; f = open({str(lock)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSON"),
        ('{"status": "completed", "cell"', "JSON"),
        ("[" * 100_000, "JSON"),
        ("9" * 5000, "JSON"),
        ("[1]", "list"),
        ('"completed"', "str"),
        ("{}", "status None"),
        ('{"status": ["completed"]}', "status ['completed']"),
        ('{"status": "done"}', "status done"),
        ('{"status": "completed", "metrics": {"test/acc": 0.99}, "crc32": "00000000"}', "checksum"),
        *(
            ('{"status": "completed", "crc32": 1, "a": ' + "[" * deep + "]" * deep + "}", "result.json ")
            for deep in range(900, 1000)
        ),
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
    assert "0.9000" in shown and "unreadable" in shown and says in shown
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
    (problem,) = run.problems
    assert "cost/params" in problem and "'many'" in problem
    print_table([run])
    assert problem in capsys.readouterr().out


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
    with pytest.raises(ConvzooError, match="none"):
        load_results([tmp_path / "none"])
    with pytest.raises(ConvzooError, match=r"no result\.json and no sweep\.json"):
        load_results([tmp_path])
