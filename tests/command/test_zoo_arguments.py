"""``python -m zoo`` with whatever is typed: an answer, or one line that says what is wrong."""

import pytest

from zoo.__main__ import main

ONE = ("table", "--models", "resnet:18", "--convs", "native")
WRONG = [
    *((*ONE, option, value) for option in ("--in-chans", "--num-classes") for value in ("0", "-5", "x", "9" * 30)),
    *((*ONE, "--image-size", value) for value in ("0x0", "9" * 400, "1000000", "٣", "-1", "1.5", "")),
    *((*ONE, "--max-params", value) for value in ("nan", "-1", "", "1e999", "\x1b[31m")),
    *((*ONE, "--match", value) for value in ("", "macs:", "macs:0.1", "macs:nan")),
    (*ONE, "--acts", "\x1b[31m"),
    (*ONE, "--time", "--device", "x"),
    (*ONE, "--time", "--batch-size", "0"),
    *(("table", "--models", name) for name in ("", ",", "..", "hf-hub:a/b", "effnet:b9", "[", "a" * 5000, "\0")),
    ("report",),
    *(("report", folder) for folder in ("/nonexistent-", "\0", "a" * 5000, "/etc/passwd", "/proc/self/mem")),
    *(("report", "RUNS", option, "/proc/x") for option in ("--csv", "--html", "--json", "--latex", "--markdown")),
    ("report", "RUNS", "--csv", "\0"),
    ("report", "RUNS", "--plot", "x.foo"),
    ("report", "RUNS", "--sort", "x"),
    *(("export", path) for path in ("/nonexistent-", "/etc/passwd", "\0", "/")),
    ("nothing",),
    ("train", "model=resnet"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=lambda a: " ".join(a)[:60].encode("unicode_escape").decode())
def test_a_wrong_argument_is_one_message(tmp_path, capsys, monkeypatch, arguments):
    from synthetic_sweep import make_cell, make_result, write_run

    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a", make_result(make_cell(), 0.9))
    try:
        code = main(["runs" if a == "RUNS" else a for a in arguments])
    except SystemExit as refused:  # argparse's
        code = refused.code
    says = capsys.readouterr().err
    assert code == 2 and "error: " in says and "\x1b" not in says, says


def test_a_misspelt_verb_gets_a_suggestion(capsys):
    assert main(["tabel"]) == 2
    assert "Did you mean table?" in capsys.readouterr().err


def test_no_verb_lists_them(capsys):
    assert main([]) == 0
    assert {"report", "table", "new", "quantize", "train"} <= set(capsys.readouterr().out.split())
