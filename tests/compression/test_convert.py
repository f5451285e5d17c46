"""From dense to separable: exact at full rank, the best there is below it, and the structure of the zoo's own cells."""

import itertools

import pytest
import timm
import torch
from conftest import QUICK, cell_config
from torch import nn

import zoo
from lightning_modules import run_cell
from zoo.compression.convert import factorise
from zoo.convs import closed_forms

KINDS = closed_forms()
COMMAND = "python train.py init=svd"

SETTINGS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"kernel_size": (5, 3), "padding": "same", "dilation": (2, 1)},
    {"kernel_size": 4, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
    {"kernel_size": (1, 7), "padding": (0, 3), "groups": 3},
]
FULL = 10**6


def convolution(seed: int = 0, **settings) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(6, 12, **{"kernel_size": 3, "padding": 1, **settings}, dtype=torch.float64)


def kernel_of(module: nn.Module, channels: int, size: int) -> torch.Tensor:
    """The dense kernel (C′, C, k, k) that a module without a bias, with padding k // 2, computes."""
    middle, half = size, size // 2
    delta = torch.zeros(channels, channels, 2 * size + 1, 2 * size + 1, dtype=torch.float64)
    delta[range(channels), range(channels), middle, middle] = 1
    out = module(delta)[:, :, middle - half : middle + half + 1, middle - half : middle + half + 1]
    return out.flip(2, 3).transpose(0, 1).detach()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_at_full_rank_a_layer_computes_what_it_did(kind, settings):
    conv = convolution(**settings)
    for rank in (FULL, 1.0):
        module, made = factorise(conv, kind, rank)
        image = torch.randn(2, 6, 15, 18, dtype=torch.float64)
        torch.testing.assert_close(module(image), conv(image), rtol=1e-10, atol=1e-12)
        assert made.energy == pytest.approx(1, abs=1e-14)
    assert factorise(conv, kind, FULL)[1].rank == made.full_rank


@pytest.mark.parametrize("kind", KINDS)
def test_tf_same_padding_is_kept(kind):
    conv = timm.layers.Conv2dSame(6, 12, 3, stride=2).double()
    module, _ = factorise(conv, kind, FULL)
    for height, width in itertools.product((7, 8), (9, 10)):
        image = torch.randn(1, 6, height, width, dtype=torch.float64)
        torch.testing.assert_close(module(image), conv(image), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "rank"), list(itertools.product(KINDS, (1, 2, 4))))
def test_below_full_rank_the_error_is_eckart_youngs(kind, rank):
    """The Frobenius norm of what is lost is that of the singular values left out, matrix by matrix."""
    conv = convolution(bias=False)
    kernel = conv.weight.detach()
    matrices = {
        "spatial": [torch.cat([torch.cat([*kernel[:, c, i, :].T]) for c in range(6) for i in range(3)]).view(18, 36)],
        "separable": [kernel[:, c].reshape(12, 9) for c in range(6)],
        "blueprint": [kernel[o].reshape(6, 9) for o in range(12)],
    }[kind]
    lost = sum(torch.linalg.svdvals(m)[rank:].square().sum() for m in matrices)
    module, made = factorise(conv, kind, rank)
    error = kernel_of(module, 6, 3) - kernel
    assert error.square().sum().item() == pytest.approx(lost.item(), rel=1e-10)
    assert made.energy == pytest.approx(1 - (lost / kernel.square().sum()).item(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sobel_has_rank_one(kind):
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=torch.float64)
    for kernel in (sobel, sobel.T):
        conv = nn.Conv2d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
        conv.weight.data[0, 0] = kernel
        module, made = factorise(conv, kind, 1)
        torch.testing.assert_close(kernel_of(module, 1, 3)[0, 0], kernel, rtol=0, atol=1e-14)
        assert made.energy == pytest.approx(1, abs=1e-15)
        assert factorise(conv, kind, 1.0)[1].rank == 1
    # Both at once still need one pass each where the factors are shared over the outputs.
    both = nn.Conv2d(1, 2, 3, padding=1, bias=False, dtype=torch.float64)
    both.weight.data[:, 0] = torch.stack([sobel, sobel.T])
    assert factorise(both, kind, 1.0)[1].rank == {"spatial": 2, "separable": 2, "blueprint": 1}[kind]


@pytest.mark.parametrize(("kind", "share"), list(itertools.product(KINDS, (0.3, 0.75, 0.99))))
def test_a_share_keeps_as_few_as_it_takes(kind, share):
    conv = convolution()
    _, made = factorise(conv, kind, share)
    assert made.energy >= share
    assert made.rank == 1 or factorise(conv, kind, made.rank - 1)[1].energy < share


@pytest.mark.parametrize("rank", [0, -1, 1.5, 0.0, True, "two", float("nan")], ids=repr)
def test_ranks_that_make_no_sense(rank):
    net = zoo.build("resnet18", num_classes=2)
    with pytest.raises(zoo.ConvzooError, match="a whole number from 1"):
        zoo.convert(net, "separable", rank)


def trained(name: str, seed: int = 0, **settings) -> nn.Module:
    """A network whose weights and statistics look trained: no branch starts at zero."""
    torch.manual_seed(seed)
    net = zoo.build(name, num_classes=7, **settings).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "conv"),
    [("test_resnet", "spatial"), *itertools.product(("test_resnet", "resnext26ts"), ("separable", "blueprint"))],
)
def test_at_full_rank_a_network_computes_what_it_did(name, conv):
    net = trained(name).float()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before32 = net(image)
        net, image = net.double(), image.double()
        before = net(image)
        report = zoo.convert(net, conv, FULL)
        assert report.rewritten and report.energy_min == pytest.approx(1, abs=1e-12)
        assert (net(image) - before).norm() < 1e-10 * before.norm()
        assert (net.float()(image.float()) - before32).norm() < 5e-6 * before32.norm()


@pytest.mark.parametrize(
    ("name", "conv"),
    [
        ("resnet18", "separable"),
        ("resnet18", "blueprint"),
        ("test_resnet", "spatial"),
        ("resnext26ts", "separable"),
        ("efficientnetv2_rw_t", "separable"),
        ("mobilenetv1_100", "separable"),
        ("convnext_atto", "spatial"),
    ],
)
def test_the_default_rank_gives_the_zoos_own_cell(name, conv):
    net, cell = zoo.build(name, num_classes=3), zoo.build(name, conv, num_classes=3)
    report = zoo.convert(net, conv)
    assert [(k, type(m)) for k, m in net.named_modules()] == [(k, type(m)) for k, m in cell.named_modules()]
    cell.load_state_dict(net.state_dict())
    rewritten = zoo.rewrite(zoo.build(name, num_classes=3), conv)
    assert [(e.name, e.became, e.reason) for e in report.entries] == [
        (e.name, e.became, e.reason) for e in rewritten.entries
    ]
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in cell.parameters())
    # The same cell, by the ranks that the report gives.
    if report.rewritten:
        zoo.build(name, conv, num_classes=3, ranks=report.ranks).load_state_dict(net.state_dict())


@pytest.mark.parametrize("rank", [3, 0.8])
def test_a_network_is_rebuilt_from_its_ranks(rank):
    net = trained("test_resnet")
    report = zoo.convert(net, "separable", rank)
    clone = zoo.build("test_resnet", "separable", num_classes=7, ranks=report.ranks).double().eval()
    clone.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(clone(image), net(image))
    assert all(e.energy >= 0.8 for e in report.rewritten) if rank == 0.8 else set(report.ranks.values()) == {3}


def test_a_dense_mobilenet_is_rebuilt_from_its_ranks():
    net = zoo.build("mobilenetv2_050", "standard", num_classes=7)
    report = zoo.convert(net, "blueprint", 2)
    assert report.rewritten
    zoo.build("mobilenetv2_050", "blueprint", num_classes=7, ranks=report.ranks).load_state_dict(net.state_dict())


def test_the_report_says_what_was_kept_and_lost():
    net = zoo.build("resnet18", num_classes=2)
    report = zoo.convert(net, "separable", 2)
    text = str(report)
    assert "16 converted, 1 kept" in text.splitlines()[0] and "kept: stem" in text
    energies = [e.energy for e in report.rewritten]
    assert report.energy_min == min(energies) and report.energy_mean == pytest.approx(sum(energies) / 16)
    assert f"energy {energies[0]:.4f}" in text and "rank    2 of 9" in text
    assert zoo.convert(net, "separable").rewritten == (), "what has the form already is kept"


@pytest.mark.parametrize(
    ("name", "conv", "match"),
    [
        ("resnet18", "standard", "no closed form"),
        ("resnet18", "spatail", "Did you mean conv=spatial"),
        ("mobilenetv2_050", "spatial", "blocks.0.0 is a DepthwiseSeparableConv"),
        ("mobilenetv1_100", "blueprint", "a BatchNorm and an activation"),
        ("vit_tiny_patch16_224", "separable", "VisionTransformer.*conv=separable"),
    ],
)
def test_what_has_no_closed_form_is_refused_and_left_alone(name, conv, match):
    net = timm.create_model(name, num_classes=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(zoo.ConvzooError, match=match):
        zoo.convert(net, conv)
    after = net.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize(("built", "conv", "between"), list(itertools.product(KINDS, KINDS, ("none", "bn_act"))))
def test_a_network_of_factors_is_kept_or_refused_and_left_alone(built, conv, between):
    net = zoo.build("test_resnet", built, num_classes=2, conv_options={"between": between})
    before = {k: v.clone() for k, v in net.state_dict().items()}
    if built == conv:
        report = zoo.convert(net, conv)
        assert not report.rewritten and f"{conv} already" in {e.reason for e in report.kept}
    else:
        with pytest.raises(zoo.ConvzooError, match=rf"layer1.0.conv1 is {built} already.*Type conv={built}"):
            zoo.convert(net, conv)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_kernel_without_values_is_refused():
    with torch.device("meta"):
        net = zoo.build("resnet18", num_classes=2)
    with pytest.raises(zoo.ConvzooError, match=r"layer1.0.conv1: .* meta device"):
        zoo.convert(net, "separable")


def test_frozen_weights_stay_frozen_and_modes_stay():
    net = zoo.build("resnet18", num_classes=2).eval()
    net.layer1.requires_grad_(False)
    zoo.convert(net, "separable")
    assert not any(p.requires_grad for p in net.layer1.parameters())
    assert all(p.requires_grad for p in net.layer2.parameters())
    assert not any(m.training for m in net.modules())


def test_batchnorm_statistics_are_those_of_the_data():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).eval()
    batches = [(torch.randn(8, 3, 5, 5) * 2 + 3, torch.zeros(8)) for _ in range(4)]
    zoo.reestimate_batchnorm(net, iter(batches))
    means = torch.stack([images.mean((0, 2, 3)) for images, _ in batches]).mean(0)
    variances = torch.stack([images.var((0, 2, 3)) for images, _ in batches]).mean(0)
    torch.testing.assert_close(net[0].running_mean, means)
    torch.testing.assert_close(net[0].running_var, variances)
    assert not net.training and net[0].momentum == 0.1
    with pytest.raises(zoo.ConvzooError, match="batch"):
        zoo.reestimate_batchnorm(net, [])
    torch.testing.assert_close(net[0].running_mean, means)


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> str:
    """A dense checkpoint: some steps of training, so that its statistics are there."""
    folder = tmp_path_factory.mktemp("dense")
    quick = ["trainer.max_epochs=1", "trainer.limit_train_batches=8", "trainer.limit_val_batches=1"]
    return run_cell(svd_config(init="random", quick=quick), folder, COMMAND)["checkpoint"]


def svd_config(*overrides: str, init: str = "svd", quick: tuple[str, ...] | list[str] = QUICK) -> dict:
    """A cell of a small ResNet on digits."""
    net = ["model=timm", "model.name=test_resnet", "model.stem=imagenet", "logger=none", f"init={init}"]
    return cell_config(*net, "trainer.limit_test_batches=1", *quick, *overrides)


@pytest.mark.parametrize("rank", [None, 0.9])
def test_a_run_that_starts_from_a_dense_checkpoint(rank, dense, tmp_path):
    given = [] if rank is None else [f"init.rank={rank}"]
    # A learning rate of nearly nothing: the weights that come out are those that the conversion put in.
    config = svd_config(f"init.checkpoint={dense}", "conv=separable", "optim.lr=1e-12", *given)
    result = run_cell(config, tmp_path, COMMAND)
    expected = zoo.load(dense)
    report = zoo.convert(expected, "separable", rank)
    metrics, cell = result["metrics"], result["cell"]
    assert metrics["init/energy_min"] == report.energy_min and metrics["init/energy_mean"] == report.energy_mean
    assert (cell["init"], cell.get("init_rank"), cell["init_checkpoint"]) == ("svd", rank, dense)
    network = torch.load(result["checkpoint"], weights_only=True)["hyper_parameters"]["network"]
    assert network.get("ranks") == (None if rank is None else report.ranks)
    net = zoo.load(result["checkpoint"])
    assert metrics["cost/params"] == sum(p.numel() for p in net.parameters())
    parameters = dict(net.named_parameters())
    assert set(parameters) == {name for name, _ in expected.named_parameters()}
    for name, value in expected.named_parameters():
        torch.testing.assert_close(parameters[name], value, rtol=1e-4, atol=1e-6)


def test_the_batchnorms_are_reestimated_on_training_images(dense, tmp_path):
    """With all of the energy kept the statistics are those of the dense network on the same data."""
    config = svd_config(f"init.checkpoint={dense}", "conv=separable", "init.rank=1.0", "optim.lr=1e-12")
    config["trainer"]["limit_train_batches"] = 1
    net = zoo.load(run_cell(config, tmp_path, COMMAND)["checkpoint"])
    from lightning_modules import make_data

    data = make_data(config["data"])
    data.setup("fit")
    expected = zoo.load(dense)
    zoo.reestimate_batchnorm(expected, [data.prepare(x, training=True) for x, _ in data.train_dataloader()])
    stale, fresh, found = (
        torch.cat([m.running_var.log() for m in n.modules() if isinstance(m, nn.BatchNorm2d)])
        for n in (zoo.load(dense), expected, net)
    )
    assert (found - fresh).abs().mean() < 0.1 < (found - stale).abs().mean()


def test_a_dense_cell_may_start_from_a_dense_checkpoint(dense, tmp_path):
    result = run_cell(svd_config(f"init.checkpoint={dense}", "conv=native", "optim.lr=1e-12"), tmp_path, COMMAND)
    assert not any(name.startswith("init/") for name in result["metrics"])
    weights = zoo.load(result["checkpoint"]).get_parameter("layer4.0.conv1.weight")
    torch.testing.assert_close(weights, zoo.load(dense).get_parameter("layer4.0.conv1.weight"))


def test_a_run_that_starts_from_timms_weights(tmp_path, monkeypatch):
    """timm's own loading, from a file in place of the download; it adapts classifier and first convolution."""
    torch.manual_seed(3)
    published = timm.create_model("test_resnet")
    torch.save(published.state_dict(), tmp_path / "test_resnet.pth")
    create, overlay = timm.create_model, {"file": str(tmp_path / "test_resnet.pth")}
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **k, pretrained_cfg_overlay=overlay))
    config = svd_config("model.pretrained=true", "conv=blueprint", "optim.lr=1e-12")
    result = run_cell(config, tmp_path / "run", COMMAND)
    report = zoo.convert(published, "blueprint")
    found = zoo.load(result["checkpoint"]).layer1[0].conv1
    torch.testing.assert_close(found.depthwise.weight, published.layer1[0].conv1.depthwise.weight)
    torch.testing.assert_close(found.pointwise.weight, published.layer1[0].conv1.pointwise.weight)
    assert result["cell"]["pretrained"] == "true" and result["metrics"]["init/energy_min"] == report.energy_min


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["conv=separable"], "none was given"),
        (["conv=separable", "init.checkpoint=nowhere.ckpt"], "init.checkpoint=nowhere.ckpt is no file"),
        (["conv=separable", "init.checkpoint=DENSE", "model.pretrained=true"], "two at once"),
        (["conv=standard", "init.checkpoint=DENSE"], "conv=standard has no closed form"),
        (["conv=separable", "init.checkpoint=DENSE", "init.rank=0"], "init.rank=0 is not allowed"),
        (["conv=separable", "init=random", "init.rank=2"], "init.rank belongs to init=svd"),
        (["conv=separable", "init.checkpoint=DENSE", "model.name=resnet18"], "backbone=test_resnet there and resnet18"),
        (["conv=separable", "init.checkpoint=DENSE", "data.num_classes=12"], "num_classes=10 there and 12 here"),
        (["conv=separable", "init.checkpoint=OTHER"], "is not a checkpoint of convzoo's"),
        (["conv=separable", "init.checkpoint=README"], "not a checkpoint"),
        (["conv=spatial", "init.checkpoint=CONVERTED"], r"conv=separable\. init=svd starts from a dense network"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_trained(overrides, match, dense, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "readme.md").write_text("# nothing of that kind")
    content = torch.load(dense, weights_only=True)
    content["hyper_parameters"]["network"]["conv"] = "separable"
    torch.save(content, tmp_path / "converted.ckpt")
    files = {"OTHER": "other.ckpt", "README": "readme.md", "CONVERTED": "converted.ckpt"}
    for name, path in {"DENSE": dense, **{k: str(tmp_path / v) for k, v in files.items()}}.items():
        overrides = [o.replace(name, path) for o in overrides]
    config = svd_config(*overrides, init="random" if "init=random" in overrides else "svd")
    with pytest.raises(zoo.ConvzooError, match=match):
        run_cell(config, tmp_path / "run", COMMAND)


@pytest.fixture
def own_kind(monkeypatch):
    """Registers a kind of a user's, which keeps whole channels: 1×1 to ``rank`` of them, then k×k."""
    monkeypatch.setattr(zoo.KINDS, "_choices", dict(zoo.KINDS._choices))

    @zoo.conv_kind("bottleneck", fits=lambda spec: "has groups" if spec.groups > 1 else None)
    class Bottleneck(zoo.Factored):
        def __init__(self, spec: zoo.ConvSpec, rank: int = 4) -> None:
            super().__init__(spec)
            self.reduce = spec.pointwise(out_channels=rank, bias=False).conv()
            self.conv = spec.but(in_channels=rank).conv()

        @staticmethod
        def from_dense(weight, rank, spec):
            found = zoo.low_rank(weight.transpose(0, 1).flatten(1)[None], 4 if rank is None else rank)
            kernels = found.right.unflatten(2, (spec.out_channels, spec.area))
            return found.into(reduce=found.left.transpose(1, 2), conv=kernels.transpose(1, 2))

        def forward(self, x):
            return self.conv(self.reduce(x))

    return Bottleneck


def test_a_users_kind_is_converted_like_ours(own_kind, dense, tmp_path):
    assert zoo.check_kind("bottleneck") == 6
    net, image = trained("test_resnet"), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = net(image)
        report = zoo.convert(net, "bottleneck", FULL)
        assert report.rewritten and (net(image) - before).norm() < 1e-10 * before.norm()
    config = svd_config(f"init.checkpoint={dense}", "conv=separable", "init.rank=0.5", "optim.lr=1e-12")
    result = run_cell({**config, "conv": {"name": "bottleneck", "rank": 4}}, tmp_path, COMMAND)
    assert 0.5 <= result["metrics"]["init/energy_min"] < 1


def test_a_wrong_from_dense_is_found(own_kind, monkeypatch):
    right = own_kind.from_dense

    def swapped(weight, rank, spec):
        return right(weight.flip(2), rank, spec)

    def short(weight, rank, spec):
        return zoo.FromDense({"conv": weight})

    wrong_forms = {swapped: "their outputs differ by", short: r"conv \(2,304\); the module's convolutions have"}
    for wrong, says in wrong_forms.items():
        monkeypatch.setattr(own_kind, "from_dense", staticmethod(wrong))
        with pytest.raises(zoo.ConvzooError, match=says):
            zoo.check_kind("bottleneck")
    monkeypatch.delattr(own_kind, "from_dense")
    with pytest.raises(zoo.ConvzooError, match="Allowed: native, separable, blueprint, spatial"):
        zoo.convert(zoo.build("resnet18", num_classes=2), "bottleneck")
