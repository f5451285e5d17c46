"""The table without training: every cell, its budget, its formats."""

import csv
import functools
import io
import json
import re
import subprocess
import sys

import pytest
import torch

import zoo
from zoo.__main__ import main
from zoo.backbones.families import FAMILIES
from zoo.costs import table, table_time
from zoo.costs.budget import parse_amount, select
from zoo.costs.matching import match_text
from zoo.costs.table_views import FORMATS
from zoo.image_size import ImageSize
from zoo.speeds import roofline


@pytest.fixture
def run(capsys):
    """Runs ``python -m zoo`` in this process: exit code, standard output, standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return command


# Two rounds of the activations, so that each comes after each: the cells of one network share its modules.
ROUNDS = [*table.all_acts(), *reversed(table.all_acts())]


@pytest.mark.parametrize(
    ("model", "convs", "acts"),
    [
        ("mobilenetv3_small_100", ["native"], ROUNDS),
        ("resnet18", table.all_convs(), ["native", "swish"]),
        ("mobilenetv1_100", table.all_convs(), ["swish"]),
        ("efficientnet_b0", table.all_convs(), ["relu"]),
    ],
)
def test_every_cell_costs_what_building_it_costs(model, convs, acts):
    images = zoo.Images(size=(72, 96), in_chans=1, num_classes=10)
    cells = zoo.tabulate([model], convs, acts, images)
    assert [(c.conv, c.act) for c in cells] == [(conv, act) for conv in convs for act in acts]

    @functools.cache
    def alone(conv, act):
        with zoo.meta_init():
            return zoo.cost(zoo.build(model, conv, act, num_classes=10, in_chans=1), (72, 96), 1)

    for cell in cells:
        assert cell.cost == alone(cell.conv, cell.act), cell


def test_the_default_is_every_family_at_its_published_size():
    cells = zoo.tabulate(convs=["native"])
    sizes = {cell.model: cell.cost.image_size[0] for cell in cells}
    assert len(cells) == len(sizes) == sum(len(family.variants) for family in FAMILIES.values())
    assert sizes["efficientnet_b7"] == 600 and sizes["efficientnet_b1"] == 240 and sizes["resnet50"] == 224


def test_models_are_named_as_families_variants_timm_names_and_patterns():
    names = ["mobilenet:v2", "efficientnet_b1", "resnet18d", "regnety_00[24]", "mobilenetv2_100"]
    cells = zoo.tabulate(names, ["native"])
    assert [c.model for c in cells] == ["mobilenetv2_100", "efficientnet_b1", "resnet18d", "regnety_002", "regnety_004"]
    # A zoo's network has one size, however it is called; others have timm's.
    assert cells[1].cost.image_size == (240, 240) and cells[3].cost.image_size == (224, 224)


def test_small_images_get_the_small_stem_as_in_a_run():
    small, published = (
        zoo.tabulate(["resnet18"], ["native"], images=zoo.Images(32, num_classes=10, stem=stem))[0].cost
        for stem in ("auto", "imagenet")
    )
    assert small.params == 11_173_962
    assert small.macs > 10 * published.macs


def test_cells_that_do_not_exist_stay_with_their_reason():
    cells = zoo.tabulate(["vit_tiny_patch16_224", "nf_regnet_b0"], ["native", "separable"], ["native", "relu"])
    assert len(cells) == 8
    reasons = {(c.model, c.conv, c.act): c.refused for c in cells if c.cost is None}
    assert "no convolution that conv=separable could act on" in reasons["vit_tiny_patch16_224", "separable", "relu"]
    assert "ScaledStdConv2d" in reasons["nf_regnet_b0", "separable", "native"]
    assert ("vit_tiny_patch16_224", "native", "native") not in reasons


def test_a_network_that_fails_in_its_own_way_takes_no_other_with_it():
    cells = zoo.tabulate(["vit_tiny_patch16_224", "resnet18"], ["native"], images=zoo.Images(96))
    assert "takes no images" in cells[0].refused and "224×224" in cells[0].refused and cells[0].cost is None
    assert cells[1].cost.image_size == (96, 96)


@pytest.mark.parametrize(
    ("choice", "hint"),
    [
        ({"models": ["resnet17"]}, "model=resnet17 does not exist. Did you mean resnet1"),
        ({"models": ["effnet:b9"]}, "Did you mean model.variant=b7"),
        ({"models": ["nothing_like_*"]}, "Allowed: a family"),
        ({"convs": ["seperable"]}, "Did you mean conv=separable"),
        ({"acts": ["swisch"]}, "Did you mean act=swish"),
        ({"images": zoo.Images(stem="tiny")}, "stem=tiny does not exist"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_counted(choice, hint):
    with pytest.raises(zoo.ConvzooError, match=hint.replace(".", r"\.")):
        zoo.tabulate(**choice)


def test_budget_and_order():
    cells = zoo.tabulate(["resnet18", "mobilenet:v2", "vit_tiny_patch16_224"], ["native", "separable"])
    kept = select(cells, {"params": 10_000_000, "macs": None}, "macs")
    assert [(c.model, c.conv) for c in kept if c.cost] == [
        ("mobilenetv2_100", "native"),
        ("mobilenetv2_100", "separable"),
        ("resnet18", "separable"),
        ("vit_tiny_patch16_224", "native"),
    ]
    assert kept[-1].refused and len(kept) == 5
    largest = select(cells, {}, "params", reverse=True)
    assert (largest[0].model, largest[0].conv) == ("resnet18", "native")
    exact = next(c.cost for c in kept)
    assert sum(bool(c.cost) for c in select(cells, {"macs": exact.macs})) == 2
    assert sum(bool(c.cost) for c in select(cells, {"macs": exact.macs - 1})) == 0
    with pytest.raises(zoo.ConvzooError, match="sort=flops does not exist"):
        select(cells, {}, "flops")


@pytest.mark.parametrize(
    ("text", "amount"),
    [("10M", 10**7), ("600m", 6 * 10**8), ("1.5G", 15 * 10**8), ("3 k", 3000), ("2e6", 2 * 10**6), ("117", 117)],
)
def test_amounts(text, amount):
    assert parse_amount(text) == amount


@pytest.mark.parametrize("text", ["", "M", "-3M", "0", "10MB", "ten", "nan"])
def test_what_is_no_amount(text):
    with pytest.raises(zoo.ConvzooError, match=f"^{re.escape(text)} "):
        parse_amount(text)


def test_image_sizes():
    assert ImageSize.parse("224") == (224, 224) and ImageSize.parse("192x256") == (192, 256)
    for text in ("0", "224x", "a", "-3"):
        with pytest.raises(zoo.ConvzooError, match="--image-size"):
            ImageSize.parse(text)


CELLS = ("table", "--models", "resnet18,vit_tiny_patch16_224", "--convs", "native,spatial")


def test_csv_has_timms_columns_and_units(run):
    code, out, _ = run(*CELLS, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert list(rows[0])[:7] == ["model", "conv", "act", "img_size", "gmacs", "macts", "param_count"]
    assert (rows[0]["model"], rows[0]["img_size"], rows[0]["param_count"]) == ("resnet18", "224", "11.689512")
    assert float(rows[0]["gmacs"]) == 1.814073344 and float(rows[0]["macts"]) == 2.484712
    assert rows[3]["gmacs"] == "" and "no convolution" in rows[3]["refused"]


def test_json_has_every_digit(run):
    code, out, _ = run(*CELLS, "--format", "json", "--image-size", "192x224", "--num-classes", "10")
    rows = json.loads(out)
    with zoo.meta_init():
        cost = zoo.cost(zoo.build("resnet18", num_classes=10), (192, 224))
    assert code == 0 and len(rows) == 4
    assert {key: rows[0][key] for key in ("params", "macs", "activations", "train_macs")} == {
        "params": cost.params,
        "macs": cost.macs,
        "activations": cost.activations,
        "train_macs": cost.train_macs,
    }
    assert rows[0]["image_size"] == [192, 224]
    assert rows[0]["weight_bytes"]["int8"] == cost.params
    assert rows[3]["params"] is None and rows[3]["refused"]


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_for_people_budget_and_refusals_are_accounted_for(run, form):
    code, out, _ = run(*CELLS, "--format", form, "--max-macs", "1.5G", "--sort", "params")
    assert code == 0
    assert "11.7 M" not in out and "7.77 M" in out
    assert "vit_tiny_patch16_224 × spatial × native refused: VisionTransformer has no convolution" in out
    assert "2 cells shown, 1 over budget, 1 refused" in out


@pytest.mark.parametrize(("budget", "over"), [("macs:60M", "width"), ("params:2M", "width"), ("native", "phi")])
def test_matched_cells_are_what_matching_one_by_one_gives(budget, over):
    images = zoo.Images(64, num_classes=10)
    cells = zoo.tabulate(["resnet18"], ["native", "spatial"], ["relu", "prelu"], images, match=budget, over=over)
    assert [(c.conv, c.act) for c in cells] == [(c, a) for c in ("native", "spatial") for a in ("relu", "prelu")]
    for cell in cells:
        found = match_text(budget, 64, cell.model, cell.conv, cell.act, 3, over=over, num_classes=10, stem="small")
        assert cell.match == found and cell.cost == found.cost
    if budget == "native":
        assert cells[0].match.miss == 0 and cells[0].match.value == 0


def count_once(monkeypatch):
    """The commands of one test that differ only in their format count (and time) their cells once."""

    def once(call):
        results = []

        def cached(*arguments, **options):
            if not results:
                results.append(call(*arguments, **options))
            return results[0]

        return cached

    monkeypatch.setattr(table, "tabulate", once(table.tabulate))
    monkeypatch.setattr(table_time, "time_cells", once(table_time.time_cells))


MATCHED = ("table", "--models", "resnet18,mobilenet:v3_small,xception41", "--convs", "native,spatial")


def test_a_matched_table_in_every_format(run, monkeypatch):
    """What cannot be matched stays, with its reason: a budget out of reach, a network without a width."""
    count_once(monkeypatch)
    tables = {form: run(*MATCHED, "--match", "params:500k", "--format", form) for form in FORMATS}
    assert all(code == 0 for code, _, _ in tables.values())
    rows = json.loads(tables["json"][1])
    assert [bool(row["refused"]) for row in rows] == [False, False, True, True, True, True]
    assert all(row["miss"] == pytest.approx(row["params"] / 500_000 - 1) for row in rows[:2])
    assert 0 < rows[0]["width"] < rows[1]["width"] < 1 and rows[2]["width"] is None and rows[0]["budget"] == 500_000
    assert "Type a larger budget" in rows[2]["refused"]
    lines = list(csv.DictReader(io.StringIO(tables["csv"][1])))
    assert [float(line["width"]) for line in lines[:2]] == [row["width"] for row in rows[:2]] and lines[5]["miss"] == ""
    for form in ("terminal", "markdown"):
        out = tables[form][1]
        assert "width" in out and f"{rows[0]['miss']:+.1%}" in out
        assert "xception41 × native, spatial × native refused: xception41 " in out
        assert "2 cells shown, 0 over budget, 4 refused" in out


MATCH = ("--match", "macs:1G", "--match-over", "phi")


def test_matched_over_phi_the_image_is_scaled_too(run):
    code, out, _ = run("table", "--models", "resnet18", "--convs", "native,spatial", *MATCH, "--format", "json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 2
    assert all(row["image_size"] == [round(224 * 1.15 ** row["phi"])] * 2 for row in rows)
    assert rows[0]["phi"] < 0


def test_layers_of_one_cell(run):
    choice = ("--models", "mobilenet:v3_small", "--convs", "separable", "--acts", "swish", "--image-size", "32")
    code, out, _ = run("table", *choice, "--layers", "--format", "json")
    layers = json.loads(out)
    cell = zoo.tabulate(["mobilenetv3_small_100"], ["separable"], ["swish"], zoo.Images(32))[0]
    assert code == 0
    assert sum(layer["params"] for layer in layers) == cell.cost.params
    assert sum(layer["macs"] for layer in layers) == cell.cost.macs
    code, out, _ = run("table", *choice, "--layers")
    assert code == 0 and f"{cell.cost.macs:,} MACs" in out and "MiB in int8" in out


TIMED = ("table", "--models", "mobilenet:v3_small,vit_tiny_patch16_224", "--convs", "native", "--image-size", "32")


def test_speeds_are_added_when_asked_for(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)
    timing = ("--time", "--batch-size", "2", "--seconds", "0.01", "--device", "cpu")
    count_once(monkeypatch)
    tables = {form: run(*TIMED, *timing, "--format", form) for form in FORMATS}
    assert all(code == 0 for code, _, _ in tables.values())
    timed, refused = json.loads(tables["json"][1])
    assert timed["train_images_per_s"] > 0 and timed["latency_ms"] > 0 and timed["share_of_peak"] > 0
    assert timed["infer_images_per_s_iqr"] >= 0 and timed["infer_images_per_s_noisy"] in (True, False)
    assert (timed["batch_size"], timed["device"], timed["untimed"]) == (2, "cpu", None)
    assert refused["refused"] and refused["train_images_per_s"] is None
    assert float(next(csv.DictReader(io.StringIO(tables["csv"][1])))["latency_ms_iqr"]) >= 0
    for form in ("terminal", "markdown"):
        assert all(name in tables[form][1] for name in ("train img/s", "of peak", "batch 2, cpu"))
    assert "img/s" not in run(*TIMED)[1]


def test_a_cell_that_cannot_be_run_is_told_and_the_others_go_on(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(roofline, "COPIED_BYTES", 2**20)
    build, built = table_time.build_cell, []

    def build_cell(*arguments):
        built.append(arguments)
        if len(built) == 1:
            raise torch.OutOfMemoryError("no room\nfor this")
        return build(*arguments)

    monkeypatch.setattr(table_time, "build_cell", build_cell)
    choice = ("--models", "mobilenet:v3_small", "--convs", "native,spatial", "--image-size", "32")
    code, out, _ = run("table", *choice, "--time", "--batch-size", "2", "--seconds", "0.01", "--device", "cpu")
    assert code == 0 and "mobilenetv3_small_100 × native × native " in out and "OutOfMemoryError: no room\n" in out
    assert len(built) == 2 and "2 cells shown" in out


@pytest.mark.parametrize("match", [None, "params:500k"])
def test_what_is_timed_is_what_is_counted(match):
    images = zoo.Images(32, num_classes=10, in_chans=1)
    for cell in zoo.tabulate(["resnet18"], ["native", "spatial"], ["prelu"], images, match=match):
        net = table_time.build_cell(cell, images)
        assert zoo.cost(net, cell.cost.image_size, 1) == cell.cost


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--batch-size", "8"), "--batch-size"),
        (("--time", "--device", "tpu9"), "--device tpu9"),
        (("--time", "--layers"), "--layers and --time"),
        (("--layers",), "--layers"),
        (("--layers", "--models", "effnet"), "model=effnet"),
        (("--layers", "--models", "vit_tiny_patch16_224", "--convs", "spatial"), "no convolution"),
        (("--max-macs", "lots"), "lots"),
        (("--image-size", "big"), "--image-size"),
        (("--convs", "spatail"), "Did you mean conv=spatial"),
        (("--match", "600M"), "--match=600M is not a budget. Allowed: macs:600M"),
        (("--match-over", "phi"), "type --match macs:400M too"),
        (("--match", "native", "--layers", "--models", "resnet18"), "--match"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_type(run, arguments, hint):
    code, out, err = run("table", *arguments)
    assert code == 2 and out == "" and hint in err and err.startswith("error: ")


def modules_after(command: str) -> set[str]:
    code = f"import sys\nfrom zoo.__main__ import main\n{command}\nprint(*sys.modules, file=sys.stderr)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split())


def test_the_table_needs_neither_lightning_nor_hydra():
    loaded = modules_after("main(['table', '--models', 'resnet18'])")
    assert "torch" in loaded and not {"lightning", "pytorch_lightning", "hydra"} & loaded


def test_help_and_report_need_no_torch(tmp_path):
    for arguments in ("'table', '--help'", f"'report', {str(tmp_path)!r}"):
        loaded = modules_after(f"try: main([{arguments}])\nexcept SystemExit: pass")
        assert "zoo.costs.table_command" in loaded and not {"torch", "timm"} & loaded
