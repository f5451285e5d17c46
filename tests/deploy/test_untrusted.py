"""What strangers give us (checkpoints, caches, result files) executes nothing and takes no more than its size."""

import os
import pickle
import zipfile

import pytest
import torch
from browser import browser, make_page, work
from conftest import cell_config
from synthetic_sweep import make_cell, make_result, write_run
from tiny_cell import TINY

import zoo
from lightning_modules import run_cell
from lightning_modules.checkpoint.resume import LAST
from zoo import cache
from zoo.report import compare, load_results, print_table
from zoo.report.formats import latex, markdown, to_csv


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


NETWORK = {"backbone": "resnet10t", "num_classes": 3, "in_chans": 1}


def save(path, network, weights=None, **settings):
    torch.save(
        {
            "hyper_parameters": {"network": network},
            "state_dict": {f"net.{k}": v for k, v in (weights or {}).items()},
            "datamodule_hyper_parameters": settings,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def weights():
    return zoo.build(**NETWORK).state_dict()


def test_an_honest_checkpoint_loads(tmp_path, weights):
    net = zoo.load(save(tmp_path / "a.ckpt", NETWORK, weights))
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, zipped):
    path, made = tmp_path / "a.ckpt", tmp_path / "made"
    content = {"hyper_parameters": {"network": NETWORK}, "state_dict": {"x": Payload(made)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(zoo.ConvzooError, match="not a checkpoint"):
        zoo.load(path)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(zoo.ConvzooError, match="not a checkpoint"):
        zoo.load(path)
    assert not made.exists()


def test_nothing_in_a_last_checkpoint_is_executed(tmp_path, capsys):
    made = tmp_path / "made"
    torch.save({"convzoo": {"id": "c", "config": {}}, "state_dict": Payload(made)}, tmp_path / LAST)
    assert run_cell(cell_config(*TINY), tmp_path, "a command")["status"] == "completed"
    assert not made.exists() and "is damaged" in capsys.readouterr().out


STRANGE = [
    {"backbone": "hf-hub:somebody/evil"},
    {"backbone": "local-dir:/tmp"},
    {"backbone": "../evil"},
    {"backbone": ["resnet18"]},
    {"backbone": None},
    {"checkpoint_path": "/tmp/evil.pth"},
    {"pretrained_cfg": {"url": "http://127.0.0.1/evil.pth"}},
    {"_target_": "os.system"},
    {"num_classes": 10**12},
    {"num_classes": -1},
    {"num_classes": "many"},
    {"in_chans": 10**9},
    {"width": 32.0, "backbone": "resnet18"},
    {"width": float("nan")},
    {"width": "wide"},
    {"depth": [1, 2, 3, 4, 5]},
    {"phi": 10**400},
    {"act": None},
    {"act": "__import__('os')"},
    {"conv": ["spatial"]},
    {"conv_options": {"between": {}}},
    {"conv_options": [1]},
    {"ranks": {"layer1": 10**12}},
    {"ranks": [1]},
    {"stem": 7},
]


@pytest.mark.parametrize("strange", STRANGE, ids=str)
def test_a_checkpoint_that_asks_for_something_strange_is_refused(tmp_path, weights, strange):
    with pytest.raises(zoo.ConvzooError):
        zoo.load(save(tmp_path / "a.ckpt", NETWORK | strange, weights))


def test_a_checkpoint_takes_no_more_memory_than_its_size(tmp_path, weights):
    # Weights that are one number, said to be many.
    large = weights | {"fc.weight": torch.zeros(1).expand(10**9, 512), "fc.bias": torch.zeros(1).expand(10**9)}
    with pytest.raises(zoo.ConvzooError, match="more weights than the file"):
        zoo.load(save(tmp_path / "a.ckpt", NETWORK | {"num_classes": 10**9}, large))
    bomb = tmp_path / "bomb.ckpt"
    with (
        zipfile.ZipFile(save(tmp_path / "b.ckpt", NETWORK, {"x": torch.zeros(10**6)})) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(zoo.ConvzooError, match=r"not a checkpoint.*compressed"):
        zoo.load(bomb)


@pytest.mark.parametrize("size", [10**6, -1, "32", [32], [32, -1], [32, 10**6], [[32, 32]] * 2])
def test_images_of_a_checkpoint_have_a_size(tmp_path, weights, size):
    with pytest.raises(zoo.ConvzooError, match="pixels"):
        zoo.load(save(tmp_path / "a.ckpt", NETWORK, weights, data={"image_size": size}))


def test_a_cache_that_others_write_to_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache.cache_folder("kernels")
    assert not folder.stat().st_mode & 0o022
    library = folder / "kernels.so"
    library.touch()
    assert cache.is_ours(library)
    folder.chmod(0o777)
    assert cache.cache_folder("kernels") == folder and folder.stat().st_mode & 0o777 == 0o700
    library.chmod(0o666)
    assert not cache.is_ours(library)
    library.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    assert cache.cache_folder("kernels") is None and not cache.is_ours(library)


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"'><svg onload=alert(4)>",
    "javascript:alert(5)",
    "a\u2028b\u2029c\u202ed",
    '=HYPERLINK("http://127.0.0.1",1)',
    "\t@SUM(1)",
    "\x1b[2J\x1b]0;title\x07\x9b31m",
    "\\input{/etc/passwd}$x_1$%&~^",
    "![x](http://127.0.0.1/x.png)|`",
    "__proto__",
    "constructor",
]


@pytest.fixture
def hostile(tmp_path):
    for number, text in enumerate(HOSTILE):
        result = make_result(make_cell(model=text, act=text, seed=number % 2) | {text: text}, 0.5 + number / 100)
        result |= {"command": text, "error": text, "recipe": {text: text, "data.name": text}}
        result["environment"] |= {"device": text, "dtype": text}
        result["metrics"] |= {text: 1.0, "val/acc": text}
        if number % 3 == 0:
            result["status"] = "failed"
        write_run(tmp_path / "runs" / f"{number} {text.replace('/', '_')}"[:80], result, epochs=2)
    return tmp_path / "runs"


def test_hostile_names_are_texts_in_every_format(hostile, capsys):
    runs = load_results([hostile])
    assert len(runs) == len(HOSTILE) and not any(run.status == "unreadable" for run in runs)
    groups = compare(runs)
    print_table(runs)
    shown = capsys.readouterr().out
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e", "\u2028"}
    # A cell of a spreadsheet that begins so is computed.
    import csv
    import io

    rows = list(csv.reader(io.StringIO(to_csv(groups))))
    assert not any(value[:1] in set("=+-@\t") and not value[1:2].isdigit() for row in rows for value in row if value)
    assert "<script" not in markdown(groups) and "<img" not in markdown(groups)
    assert "\\input" not in latex(groups)


class TestBrowser:
    pytestmark = browser

    def test_no_hostile_name_runs_in_the_page(self, hostile, tmp_path):
        seen = work(
            make_page(hostile),
            tmp_path,
            """let alerts = 0; globalThis.alert = () => { alerts += 1; };
            drawEverything(); rows().forEach((row) => row.click()); type("script"); type("");
            const names = [...document.querySelectorAll("script, img, iframe, object, embed, link, base")];
            const handlers = [...document.querySelectorAll("*")].filter((node) =>
              [...node.attributes].some((a) => a.name.startsWith("on") || /^\\s*javascript:/i.test(a.value)));
            return {alerts, rows: rows().length, names: names.map((n) => n.tagName + (n.src || "")), text:
            document.body.innerText, handlers: handlers.length, polluted: ({}).model !== undefined}""",
        )
        assert seen["alerts"] == 0 and seen["handlers"] == 0 and not seen["polluted"]
        # Its own, its data, and the test's two.
        assert set(seen["names"]) == {"SCRIPT"} and len(seen["names"]) == 4, seen["names"]
        assert "<img src=x onerror=alert(3)>" in seen["text"]
