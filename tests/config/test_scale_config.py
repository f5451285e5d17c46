"""The scale group and model.match, from the configuration to a trained cell."""

import json

import pytest
import torch
from conftest import QUICK, cell_config, cell_spec

import zoo
from lightning_modules import run_cell
from lightning_modules.config.check import check
from lightning_modules.config.columns import columns
from lightning_modules.config.scaling import find_scale, image_sizes
from lightning_modules.config.schema import CellSpec
from lightning_modules.resolve import meet_budget


def on_meta(backbone, **arguments):
    with torch.device("meta"):
        return zoo.build(backbone, **arguments)


@pytest.mark.parametrize(
    ("overrides", "sizes"),
    [
        ([], (32, 32)),
        (["scale=compound", "scale.phi=1.5"], (32, round(32 * 1.15**1.5))),
        (["scale=resolution", "scale.factor=0.75"], (32, 24)),
        (["scale=width", "scale.factor=2"], (32, 32)),
        (["data.image_size=null"], (224, 224)),
        (["data.image_size=null", "model.variant=b4"], (380, 380)),
        (["data.image_size=null", "model.variant=b4", "scale=resolution", "scale.factor=0.5"], (380, 190)),
        (["data.image_size=null", "scale=compound", "scale.phi=1"], (224, 258)),
        (["data.image_size=null", "scale=compound", "scale.phi=-2"], (224, 169)),
        (["data.image_size=null", "model.phi=1"], (258, 258)),
        (["data.image_size=null", "model=xception"], (299, 299)),
        (["model=timm", "model.name=regnety_004", "scale=resolution", "scale.factor=2"], (32, 64)),
        (["data.image_size=[32,32]"], (32, 32)),
        (["data.image_size=[24,40]", "scale=resolution", "scale.factor=1.5"], ([24, 40], [36, 60])),
        (["data.image_size=24x40", "scale=compound", "scale.phi=1"], ([24, 40], [28, 46])),
    ],
    ids=str,
)
def test_the_image_that_a_configuration_asks_for(overrides, sizes):
    spec = cell_spec(*overrides)
    check(spec)
    assert [size.plain for size in image_sizes(spec)] == list(sizes)


def test_compound_is_model_phi_with_the_image():
    compound, phi = (find_scale(cell_spec(*o)) for o in (["scale=compound", "scale.phi=2"], ["model.phi=2"]))
    assert (compound.depth, compound.width) == (phi.depth, phi.width) == pytest.approx((1.44, 1.21))
    assert compound.resolution == pytest.approx(1.3225) and phi.resolution == 1


def test_the_cell_has_scale_columns_only_where_they_apply():
    plain = columns(cell_spec(), "cpu")
    assert not {"scale", "phi", "depth", "width", "resolution", "match"} & set(plain)
    width = columns(cell_spec("scale=width", "scale.factor=0.5"), "cpu")
    assert {k: v for k, v in width.items() if k not in plain} == {"scale": "width", "width": 0.5}
    stages = columns(cell_spec("model=resnet", "scale=depth", "scale.factor=[1,2,1,1]"), "cpu")
    assert (stages["scale"], stages["depth"]) == ("depth", "1,2,1,1")
    compound = columns(cell_spec("scale=compound", "scale.phi=1"), "cpu")
    assert compound["phi"] == 1 and compound["variant"] == "b0"
    assert (compound["depth"], compound["width"], compound["resolution"]) == (1.2, 1.1, 1.15)


WRONG = [
    (["scale=compound", "scale.phi=-11"], "scale.phi=-11"),
    (["scale=width", "scale.factor=0"], "scale.factor=0"),
    (["scale=width", "scale.factor=[1,2]"], "scale.factor"),
    (["scale=depth", "scale.factor=wide"], "scale.factor=wide"),
    (["scale=factors", "scale.by.width=-2"], "scale.by.width=-2"),
    (["scale=resolution", "scale.factor=0.1"], "Allowed: 8 and more"),
    (["model=timm", "model.name=regnety_004", "scale=width", "scale.factor=2"], "scale=resolution, which any"),
    (["model=xception", "scale=compound", "scale.phi=1"], "no depth and width"),
    (["model.phi=1", "scale=compound", "scale.phi=1"], "Leave out one"),
    (["model.match=macs:lots"], "macs:600M"),
    (["model.match=flops:1G"], "is not a budget"),
    (["model.match=native", "scale=width", "scale.factor=2"], "another one was given"),
    (["model.match=native", "model.phi=1"], "another one was given"),
    (["model=xception", "model.match=native"], "no width and depth"),
    (["model.match=native", "model.match_over=depth"], "width, phi"),
    (["model.match_over=phi"], "type model.match=macs:600M too"),
    (["model.match=native", "model.match_over=phi", "scale=resolution", "scale.factor=2"], "Leave out model.phi and"),
    (["model.match=native", "model.match_over=phi", "model.phi=0"], "Leave out model.phi and"),
    (["model.match=native", "model.pretrained=true"], "Type model.pretrained=false"),
]


@pytest.mark.parametrize(("overrides", "says"), WRONG, ids=str)
def test_a_wrong_configuration_is_told_before_anything_starts(overrides, says, tmp_path):
    with pytest.raises(zoo.ConvzooError) as told:
        run_cell(cell_config(*overrides, "logger=none", *QUICK), tmp_path, "")
    assert says in str(told.value)


COMMAND_LINE = [
    (["scale=width"], "scale.factor must be given"),
    (["scale=width", "scale.phi=1"], "scale.phi belongs to scale=compound"),
    (["scale=factors", "scale.by={dept:4}"], "Did you mean scale.by.depth"),
    (["experiment=mobilenet_v1_table4"], "type +experiment=NAME"),
    (["+experiment=mobilenet_v1_table4"], "data.root must be given"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "says"), COMMAND_LINE, ids=str)
def test_wrong_scaling_on_the_command_line(train, overrides, says):
    done = train(*overrides, "logger=none")
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


def _run(folder, *overrides):
    result = run_cell(cell_config(*overrides, "logger=none", "data.batch_size=4", *QUICK), folder, "")
    cell, metrics = result["cell"], result["metrics"]
    net = zoo.load(result["checkpoint"])
    cost = zoo.cost(net, cell["image_size"], 1)
    assert (cost.params, cost.macs) == (metrics["cost/params"], metrics["cost/macs"])
    assert json.loads((folder / "result.json").read_text())["cell"] == cell
    return cell, metrics


def test_a_scaled_cell_trains_and_comes_back(tmp_path):
    """The image reaches the data; the stem stays that of the unscaled image (75 pixels are a large image)."""
    factors = "{depth:[1,1,1,0.1,1],width:0.25,resolution:2.35}"
    overrides = ["model=mobilenet", "model.variant=v1", "scale=factors", f"scale.by={factors}"]
    cell, metrics = _run(tmp_path, *overrides)
    assert (cell["image_size"], cell["stem"], cell["width"]) == (75, "small", 0.25)
    shallow = on_meta("mobilenetv1_100", num_classes=10, in_chans=1, width=0.25, depth=[1, 1, 1, 0.1, 1], stem="small")
    assert metrics["cost/macs"] == zoo.cost(shallow, 75, 1).macs


def test_a_matched_cell_trains_and_comes_back(tmp_path, capsys):
    overrides = ["model=mobilenet", "model.variant=v3_small", "conv=standard", "act=relu", "model.match=native"]
    cell, metrics = _run(tmp_path, *overrides)
    native = zoo.cost(
        on_meta("mobilenetv3_small_100", num_classes=10, in_chans=1, stem="small"), cell["image_size"], 1
    ).macs
    assert cell["match"] == "native" and 0.05 <= cell["width"] < 1
    assert metrics["cost/macs"] / native - 1 == pytest.approx(cell["match_miss"], abs=1e-5)
    assert abs(cell["match_miss"]) < 0.1
    assert f"width={cell['width']:g}" in capsys.readouterr().out


def test_a_cell_matched_over_phi_is_the_compound_cell_of_that_phi(tmp_path):
    """Depth, width and the data's images; naming the phi that was found gives the same cell."""
    chosen = ["model=mobilenet", "model.variant=v3_small", "conv=spatial"]
    cell, metrics = _run(tmp_path / "matched", *chosen, "model.match=macs:5M", "model.match_over=phi")
    assert cell["match_over"] == "phi" and cell["image_size"] != 32
    assert cell["image_size"] == round(32 * 1.15 ** cell["phi"])
    assert metrics["cost/macs"] / 5e6 - 1 == pytest.approx(cell["match_miss"], abs=1e-5)
    again, same = _run(tmp_path / "named", *chosen, "scale=compound", f"scale.phi={cell['phi']}")
    said = {"match", "match_over", "match_miss", "scale", "depth", "width", "resolution"}
    assert {k: v for k, v in again.items() if k not in said} == {k: v for k, v in cell.items() if k not in said}
    assert all(same[k] == v for k, v in metrics.items() if k.startswith(("cost/", "test/")))


@pytest.mark.parametrize(
    ("overrides", "name", "depth"), [([], "width", 1), (["scale=depth", "scale.factor=2"], "factors", 2)], ids=str
)
def test_a_match_is_a_choice_of_scale(overrides, name, depth):
    config = cell_config("model=resnet", "conv=separable", *overrides, "data.image_size=32")
    net = on_meta("resnet18", conv="separable", width=0.5, depth=depth, num_classes=10, in_chans=1, stem="small")
    config["model"]["match"] = f"params:{zoo.cost(net, 32, 1).params}"
    settled, found = meet_budget(CellSpec.of(config))
    assert found.miss == 0 and settled.scale.name == name
    assert (find_scale(settled).depth, find_scale(settled).width) == (depth, found.value)
    assert image_sizes(settled) == image_sizes(CellSpec.of(config))
