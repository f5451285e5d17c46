"""Depth, width and resolution: timm's own scaled networks, the run's image, matched cost, and what is refused."""

import json
import math

import pytest
import timm
import torch
from conftest import QUICK, cell_config

import zoo
from lightning_modules import run_cell
from lightning_modules.config import check, describe_cell, find_scale, image_sizes
from zoo.matching import match_text, parse_budget
from zoo.scaling import SCALABLE


def on_meta(backbone, **arguments):
    with torch.device("meta"):
        return zoo.build(backbone, **arguments)


def shapes(net):
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def timms(name, **arguments):
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


# Networks that timm has by name: ours, scaled, has the same tensors.
SCALED_BY_TIMM = [
    ("efficientnet_b0", {"depth": 1.1}, "efficientnet_b1"),
    ("efficientnet_b0", {"depth": 1.2, "width": 1.1}, "efficientnet_b2"),
    ("efficientnet_b0", {"phi": 1}, "efficientnet_b2"),
    ("efficientnet_b0", {"depth": 1.4, "width": 1.2}, "efficientnet_b3"),
    ("efficientnet_b0", {"depth": 1.8, "width": 1.4}, "efficientnet_b4"),
    ("efficientnet_b0", {"depth": 3.1, "width": 2.0}, "efficientnet_b7"),
    ("mobilenetv1_100", {"width": 1.25}, "mobilenetv1_125"),
    ("mobilenetv2_100", {"width": 0.5}, "mobilenetv2_050"),
    ("mobilenetv2_100", {"width": 1.4}, "mobilenetv2_140"),
    ("mobilenetv3_small_100", {"width": 0.5}, "mobilenetv3_small_050"),
    ("mobilenetv3_small_100", {"width": 0.75}, "mobilenetv3_small_075"),
    ("mobilenetv3_large_100", {"width": 1.5, "depth": 1.2}, "mobilenetv3_large_150d"),
    ("resnet18", {"depth": [1.5, 2, 3, 1.5]}, "resnet34"),
    ("resnet26", {"depth": [1.5, 2, 11.5, 1.5]}, "resnet101"),
]


@pytest.mark.parametrize(("backbone", "factors", "same_as"), SCALED_BY_TIMM, ids=lambda v: str(v))
def test_scaled_networks_that_timm_has_by_name(backbone, factors, same_as):
    assert shapes(on_meta(backbone, **factors)) == shapes(timms(same_as))


@pytest.mark.parametrize(
    "backbone", [name for name in SCALABLE if not name.startswith("efficientnet_b") or name[-1] in "02"]
)
def test_factors_of_one_are_the_published_network(backbone):
    # A factor for each stage takes the way through the scaling code; a plain 1 does not.
    stages = 4 if backbone.startswith("resnet") else {"mobilenetv1_100": 5, "mobilenetv3_small_100": 6}.get(backbone, 7)
    assert shapes(on_meta(backbone, depth=[1] * stages)) == shapes(timms(backbone))


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_100"])
def test_factors_of_one_give_timms_logits(backbone):
    torch.manual_seed(3)
    ours = zoo.build(backbone, num_classes=5, width=1.0, depth=1.0).eval()
    torch.manual_seed(3)
    theirs = timm.create_model(backbone, num_classes=5).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("width", [0.25, 0.6, 1.5])
def test_width_of_a_resnet_acts_on_every_channel(backbone, width):
    scaled, native = shapes(on_meta(backbone, width=width)), shapes(timms(backbone))
    assert list(scaled) == list(native) or backbone == "resnet50"
    for name, shape in native.items():
        if name.endswith("conv1.weight") or name == "bn1.weight":
            assert scaled[name][0] % 8 == 0
            assert abs(scaled[name][0] - width * shape[0]) <= max(4, 0.1 * width * shape[0])


def test_a_scaled_resnet_starts_like_a_resnet():
    """The stem that is put back is initialised as timm does: fan-out, for ReLU."""
    stem = zoo.build("resnet18", width=2.0).conv1
    assert (stem.out_channels, stem.kernel_size, stem.stride) == (128, (7, 7), (2, 2))
    assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 49)), rel=0.03)


@pytest.mark.parametrize("backbone", ["resnet34", "mobilenetv1_100", "mobilenetv2_100", "efficientnet_b0"])
@pytest.mark.parametrize("conv", ["native", *zoo.KINDS])
def test_scaled_networks_take_every_conv_kind(backbone, conv):
    net = zoo.build(backbone, conv, num_classes=3, width=0.3, depth=0.5, stem="small")
    out = net(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, 3)
    out.sum().backward()


def test_cost_grows_as_the_paper_says():
    """Tan & Le 2019, section 3.3: MACs go with depth, with width² and with resolution²."""
    base = zoo.cost(on_meta("resnet50"), 224).macs
    stem = 112 * 112 * 64 * 147  # does not repeat, and its input has 3 channels at any width
    assert zoo.cost(on_meta("resnet50", width=2.0), 224).macs == pytest.approx(4 * (base - stem) + 2 * stem, rel=0.002)
    assert zoo.cost(on_meta("resnet50"), 448).macs == pytest.approx(4 * base, rel=0.001)
    assert 3.5 < zoo.cost(on_meta("resnet50", depth=4.0), 224).macs / base < 4


REFUSED = [
    ("resnet18", {"width": 0}, "above 0"),
    ("resnet18", {"width": -1.0}, "above 0"),
    ("resnet18", {"depth": float("nan")}, "above 0"),
    ("resnet18", {"width": float("inf")}, "above 0"),
    ("resnet18", {"depth": "deep"}, "above 0"),
    ("resnet18", {"depth": [1, 2]}, "4 stages"),
    ("mobilenetv1_100", {"depth": [1, 1, 1, 1]}, "5 stages"),
    ("regnety_004", {"width": 0.5}, "scale=resolution"),
    ("legacy_xception", {"depth": 2.0}, "no depth and width"),
    ("resnet50d", {"width": 0.5}, "Did you mean resnet50"),
    ("efficientnet_b0", {"phi": 1, "width": 2.0}, "leave out phi"),
    ("resnet18", {"width": 0.5, "pretrained": True}, "no pretrained weights"),
]


@pytest.mark.parametrize(("backbone", "arguments", "says"), REFUSED, ids=str)
def test_scaling_that_makes_no_sense_is_refused(backbone, arguments, says):
    with pytest.raises(zoo.ConvzooError, match=says):
        on_meta(backbone, **arguments)


# From here on: the configuration.


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
        (["data.image_size=null", "model.phi=1"], (258, 258)),
        (["data.image_size=null", "model=xception"], (299, 299)),
        (["model=timm", "model.name=regnety_004", "scale=resolution", "scale.factor=2"], (32, 64)),
    ],
    ids=str,
)
def test_the_image_that_a_configuration_asks_for(overrides, sizes):
    config = cell_config(*overrides)
    check(config)
    assert image_sizes(config) == sizes


def test_compound_is_model_phi_with_the_image():
    compound, phi = (find_scale(cell_config(*o)) for o in (["scale=compound", "scale.phi=2"], ["model.phi=2"]))
    assert (compound.depth, compound.width) == (phi.depth, phi.width) == pytest.approx((1.44, 1.21))
    assert compound.resolution == pytest.approx(1.3225) and phi.resolution == 1


def test_the_cell_has_scale_columns_only_where_they_apply():
    plain = describe_cell(cell_config(), "cpu")
    assert not {"scale", "phi", "depth", "width", "resolution", "match"} & set(plain)
    width = describe_cell(cell_config("scale=width", "scale.factor=0.5"), "cpu")
    assert {k: v for k, v in width.items() if k not in plain} == {"scale": "width", "width": 0.5}
    stages = describe_cell(cell_config("model=resnet", "scale=depth", "scale.factor=[1,2,1,1]"), "cpu")
    assert (stages["scale"], stages["depth"]) == ("depth", "1,2,1,1")
    compound = describe_cell(cell_config("scale=compound", "scale.phi=1"), "cpu")
    assert compound["phi"] == 1 and compound["variant"] == "b0"
    assert (compound["depth"], compound["width"], compound["resolution"]) == (1.2, 1.1, 1.15)


WRONG = [
    (["scale=compound", "scale.phi=-1"], "scale.phi=-1"),
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
    (["model=xception", "model.match=native"], "no depth and width"),
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


# From here on: matched cost.


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv1_100"])
@pytest.mark.parametrize("budget", [{"macs": 300e6}, {"params": 3e6}], ids=str)
def test_no_other_width_is_nearer_to_the_budget(backbone, budget):
    ((what, amount),) = budget.items()
    found = zoo.match(backbone, "separable", **budget, num_classes=10, image_size=160)

    def off(width):
        net = on_meta(backbone, conv="separable", num_classes=10, width=width)
        return abs(getattr(zoo.cost(net, 160), what) - amount)

    assert off(found.width) == abs(getattr(found.cost, what) - amount)
    assert found.miss == pytest.approx((getattr(found.cost, what) - amount) / amount)
    assert all(off(found.width) <= off(round(found.width + step / 1000, 3)) for step in (-25, -3, -1, 1, 3, 25))


def test_the_published_network_meets_its_own_cost():
    macs = zoo.cost(on_meta("mobilenetv2_100"), 224).macs
    found = zoo.match("mobilenetv2_100", macs=macs)
    assert found.width == 1 and found.miss == 0
    assert match_text("native", 96, "mobilenetv2_100", conv="separable", act="relu", in_chans=3).width == 1


def test_matching_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    zoo.match("resnet18", "spatial", params=5e6, image_size=32)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"backbone": "mobilenetv3_small_100", "params": 1e5}, "at width 0.05 it still has .* larger budget"),
        ({"backbone": "resnet18", "macs": 1e15}, "Type a smaller budget"),
        ({"backbone": "resnet18"}, "one budget"),
        ({"backbone": "resnet18", "macs": 1e9, "params": 1e6}, "one budget"),
        ({"backbone": "resnet18", "macs": -5}, "above 0"),
        ({"backbone": "convnext_atto", "macs": 1e9}, "no depth and width"),
    ],
    ids=str,
)
def test_budgets_that_cannot_be_met(arguments, says):
    with pytest.raises(zoo.ConvzooError, match=says):
        zoo.match(**arguments)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs:600M", {"macs": 600_000_000}),
        ("macs:1.8G", {"macs": 1_800_000_000}),
        ("macs:1.8B", {"macs": 1_800_000_000}),
        ("params:500k", {"params": 500_000}),
        ("params:1234567", {"params": 1_234_567}),
        ("native", {}),
    ],
)
def test_budgets_as_people_type_them(text, budget):
    assert parse_budget(text) == budget


# From here on: Xception.


# timm's figures. Chollet 2017, Table 3, has 22.86 M parameters for the original.
XCEPTION = [
    ("original", "legacy_xception", 22_855_952, 8.40e9),
    ("41", "xception41", 26_969_560, 9.28e9),
    ("65", "xception65", 39_916_312, 13.96e9),
    ("71", "xception71", 42_338_736, 18.09e9),
]


@pytest.mark.parametrize(("variant", "name", "params", "macs"), XCEPTION)
def test_xception(variant, name, params, macs):
    network = zoo.resolve("xception", variant)
    assert (network.backbone, network.image_size) == (name, 299)
    net = on_meta(network.backbone)
    assert shapes(net) == shapes(timms(name))
    cost = zoo.cost(net, network.image_size)
    # timm counts about 1 % more: batch norm and pooling are in its figure.
    assert cost.params == params and cost.macs == pytest.approx(macs, rel=0.01)


def test_native_xception_is_timms_bit_for_bit():
    torch.manual_seed(0)
    ours = zoo.build("legacy_xception", num_classes=4, in_chans=1).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("legacy_xception", num_classes=4, in_chans=1).eval()
    image = torch.randn(1, 1, 71, 71)
    with torch.no_grad():
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert torch.equal(ours(image), theirs(image))
