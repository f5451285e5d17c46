"""Augmentation: exactly what a draw says, and distributed like torchvision's (or like the paper says)."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cell_config
from scipy.stats import chi2_contingency, chisquare, ks_2samp
from torchvision.transforms import v2

from lightning_modules.classifier import Classifier
from lightning_modules.data import make_data
from lightning_modules.data.augment import Augment, Prepare, make_mix
from lightning_modules.data.batches import ShardedBatches
from lightning_modules.data.crop import random_box
from lightning_modules.data.store import Store, TensorLoader, Views
from zoo.image_size import ImageSize


def assert_alike(ours, theirs):
    """Whether two samples can be of one law, by Kolmogorov and Smirnov. The tests' seeds are fixed."""
    # Rounded: equal values that were computed differently must be equal.
    found = ks_2samp(np.round(ours, 3), np.round(theirs, 3), method="asymp")
    assert found.pvalue > 1e-3, f"distance {found.statistic:.3f}, p = {found.pvalue:.1e}"


# Where images are read: crop and flip


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4, 9])
def test_a_view_is_exactly_the_crop_of_the_padded_image(padding, mirrored):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 6, 5), dtype=torch.uint8)
    store = Store(images, padding, mirrored)
    assert torch.equal(store.images, images) and torch.equal(store.take(torch.tensor([5, 0])), images[[5, 0]])
    corners = [(0, 0), (0, 2 * padding), (2 * padding, 0), (padding, padding)]
    corners += torch.randint(0, 2 * padding + 1, (3, 2)).tolist()
    top, left = torch.tensor(corners).T
    flip = torch.rand(7) < 0.5 if mirrored else torch.zeros(7, dtype=torch.bool)
    order = torch.tensor([6, 0, 3, 2, 1, 4, 5])
    taken = store.take(order, Views(top, left, flip))
    assert taken.is_contiguous(memory_format=torch.channels_last)
    for image, i in zip(taken, order.tolist(), strict=True):
        whole = images[i].flip(-1) if flip[i] else images[i]
        assert torch.equal(image, F.pad(whole, [padding] * 4)[:, top[i] : top[i] + 6, left[i] : left[i] + 5])


def test_crop_and_flip_are_distributed_like_torchvisions():
    """All crops at even odds and independent of the flip: the shares of the 50 outcomes, ours and torchvision's."""
    image = torch.arange(36, dtype=torch.uint8).view(1, 6, 6) + 1
    n = 5000
    store = Store(image.expand(n, 1, 6, 6), padding=2, mirrored=True)
    ours = store.take(torch.arange(n), store.draw(torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    theirs = v2.Compose([v2.RandomCrop(6, padding=2), v2.RandomHorizontalFlip()])
    theirs = torch.stack([theirs(image) for _ in range(n)])
    both, outcome = torch.cat([ours, theirs]).flatten(1).unique(dim=0, return_inverse=True)
    assert len(both) == 50
    counts = torch.stack([torch.bincount(o, minlength=50) for o in outcome.split(n)]).double()
    assert chi2_contingency(counts).pvalue > 1e-3 and chisquare(counts[0]).pvalue > 1e-3


def test_an_images_view_follows_seed_epoch_and_index_only():
    store = Store(torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), padding=2, mirrored=True)

    def epoch(number, seed=3, **options):
        batches = ShardedBatches(40, 8, True, seed, **options)
        batches.set_epoch(number)
        return {
            int(y): x for xs, ys in TensorLoader(store, torch.arange(40), batches) for x, y in zip(xs, ys, strict=True)
        }

    def same(a, b):
        return all(torch.equal(a[i], b[i]) for i in a.keys() & b.keys())

    torch.manual_seed(0)
    whole = epoch(1)
    torch.rand(5)  # whatever else the run has drawn
    assert len(whole) == 40 and same(epoch(1), whole)
    assert not same(epoch(2), whole) and not same(epoch(1, seed=4), whole)
    ranks = [epoch(1, rank=rank, world=2) for rank in (0, 1)]
    assert ranks[0].keys().isdisjoint(ranks[1]) and same(ranks[0] | ranks[1], whole)
    rest = epoch(1, done=(1, 3))
    assert len(rest) == 16 and same(rest, whole)


def test_random_box_is_distributed_like_random_resized_crops():
    torch.manual_seed(0)
    draws = random.Random(0)
    square, flat = ImageSize(64, 64), ImageSize(32, 96)
    for height, width, scale, size in (
        (375, 500, (0.35, 1.0), square),
        (40, 160, (0.08, 1.0), square),
        (9, 7, (0.5, 0.9), square),
        (375, 500, (0.1, 1.0), flat),
    ):
        # For a rectangle, relative to its shape: crops are distorted no more than those of a square.
        theirs = v2.RandomResizedCrop(8, scale=scale, ratio=[r * size.width / size.height for r in (3 / 4, 4 / 3)])
        image = torch.empty(3, height, width)
        expected = [theirs.make_params([image]) for _ in range(1500)]
        ours = [random_box(height, width, scale, draws, size)._asdict() for _ in range(1500)]
        for box in ours:
            assert 0 <= box["top"] <= height - box["height"] and 0 <= box["left"] <= width - box["width"]
        for key in ("top", "left", "height", "width"):
            assert_alike([b[key] for b in ours], [b[key] for b in expected])
        for what in (lambda b: b["height"] * b["width"], lambda b: b["height"] / b["width"]):
            assert_alike([*map(what, ours)], [*map(what, expected)])


# Whole batches: rotate, zoom, shift


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24)])
def test_a_rectangle_turns_like_the_middle_of_a_square(height, width):
    images = torch.rand(8, 3, height, width)
    down, right = (40 - height) // 2, (40 - width) // 2
    square = torch.nn.functional.pad(images, (right, right, down, down))
    augment = Augment(rotate=40, zoom=0.3)
    torch.manual_seed(0)
    turned = augment.warp(images)
    torch.manual_seed(0)
    expected = augment.warp(square)[:, :, down : down + height, right : right + width]
    assert torch.allclose(turned, expected, atol=1e-4) and not torch.allclose(turned, images, atol=0.1)
    torch.manual_seed(0)
    moved = Augment(shift=0.25).warp(torch.ones(64, 1, height, width))
    black = (moved < 0.001)[:, 0]
    assert black.all(2).sum(1).max() == height // 4 and black.all(1).sum(1).max() == width // 4


def blob(n, size=33):
    """An ellipse off the centre, smooth: its moments say where it went, how large it is and how it is turned."""
    y, x = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    image = (-((x - 3) ** 2 / 18 + y**2 / 6)).exp()
    return image.expand(n, 1, size, size)


def moments(images):
    """Centre, size and angle of each image's content."""
    size = images.shape[-1]
    y, x = torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    weight = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)

    def mean(value):
        return (weight * value).sum((1, 2))

    right, down = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - right**2, mean(y * y) - down**2, mean(x * y) - right * down
    return {"right": right, "down": down, "size": (xx + yy).sqrt(), "angle": 0.5 * torch.atan2(2 * xy, xx - yy)}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"rotate": 30}, {"degrees": 30}),
        ({"zoom": 0.3}, {"degrees": 0, "scale": (0.7, 1.3)}),
        ({"shift": 0.12}, {"degrees": 0, "translate": (0.12, 0.12)}),
        ({"rotate": 60, "zoom": 0.2, "shift": 0.1}, {"degrees": 60, "scale": (0.8, 1.2), "translate": (0.1, 0.1)}),
    ],
    ids=str,
)
def test_rotate_zoom_and_shift_are_distributed_like_random_affine(ours, theirs):
    torch.manual_seed(0)
    n = 800
    found = moments(Augment(**ours).warp(blob(n)))
    transform = v2.RandomAffine(**theirs, interpolation=v2.InterpolationMode.BILINEAR)
    expected = moments(torch.stack([transform(image) for image in blob(n)]))
    for key, values in found.items():
        if values.std() < 0.02:  # what is not augmented stays
            torch.testing.assert_close(values.mean(), expected[key].mean(), atol=0.02, rtol=0)
        else:
            assert_alike(values, expected[key])


def test_what_is_off_does_nothing():
    x = torch.rand(4, 3, 8, 8)
    assert Augment().warp(x) is x and torch.equal(Augment().erase(x.clone()), x)
    assert make_mix(3) is None


# Whole batches: erasing


def rectangles(erased):
    """(N, H, W) of True where erased → top, left, bottom, right of each, and whether it is a whole rectangle."""
    rows, columns = erased.any(2), erased.any(1)
    boxes = []
    for line in (rows, columns):
        first = line.int().argmax(1)
        boxes += [first, first + line.sum(1)]
    top, bottom, left, right = boxes
    whole = erased.sum((1, 2)) == (bottom - top) * (right - left)
    return top, left, bottom, right, whole


@pytest.mark.parametrize("size", [4, 7])
def test_cutout_is_a_square_centred_anywhere_and_clipped_at_the_border(size):
    torch.manual_seed(0)
    n, height, width = 20000, 9, 12
    x = torch.ones(n, 3, height, width).to(memory_format=torch.channels_last)
    erased = Augment(cutout=size).erase(x) == 0
    assert torch.equal(erased[:, :1].expand_as(erased), erased), "all channels at once"
    top, left, bottom, right, whole = rectangles(erased[:, 0])
    assert whole.all()
    # The law: the centre is each pixel at even odds. All outcomes, with their exact odds.
    expected = [torch.zeros(length + 1, length + 1, dtype=torch.double) for length in (height, width)]
    for odds, length in zip(expected, (height, width), strict=True):
        for centre in range(length):
            low = centre - size // 2
            odds[max(low, 0), min(low + size, length)] += 1 / length
    for odds, ends in zip(expected, ((top, bottom), (left, right)), strict=True):
        counts = torch.zeros_like(odds).index_put_(ends, torch.ones(n, dtype=torch.double), accumulate=True)
        assert counts[odds == 0].sum() == 0
        assert chisquare(counts[odds > 0], n * odds[odds > 0]).pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([top, left]).float())[0, 1]) < 0.03


@pytest.mark.parametrize("shape", [(32, 32), (12, 20)])
def test_random_erasing_is_distributed_like_torchvisions(shape):
    torch.manual_seed(0)
    n = 3000
    ours = Augment(random_erasing=0.5).erase(torch.ones(n, 1, *shape))[:, 0] == 0
    theirs = v2.RandomErasing(p=0.5)
    expected = torch.stack([theirs(image) for image in torch.ones(n, 1, *shape)])[:, 0] == 0
    shares = [mask.any((1, 2)).float().mean().item() for mask in (ours, expected)]
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)
    measures = []
    for mask in (ours, expected):
        top, left, bottom, right, whole = rectangles(mask[mask.any((1, 2))])
        assert whole.all()
        high, wide = (bottom - top).float(), (right - left).float()
        measures.append([top, left, high, wide, high * wide, high / wide, high - top])
    for a, b in zip(*measures, strict=True):
        assert_alike(a, b)


# Whole batches: mixup and cutmix


def batch(n=6, size=16):
    """Images that say which one they are: all pixels of image i are i."""
    labels = torch.arange(n) % 3
    return torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 2, size, size).contiguous(), labels


def test_mixup_mixes_each_image_and_its_label_with_the_one_before():
    torch.manual_seed(1)
    x, labels = batch()
    mixed, soft = make_mix(3, mixup=0.4)(x, labels)
    share = 1 - (mixed[1, 0, 0, 0] - 1) / (0 - 1)  # image 1 and image 0
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * x + (1 - share) * x.roll(1, 0))
    one_hot = F.one_hot(labels, 3).float()
    torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot.roll(1, 0))


def test_cutmix_pastes_the_image_before_and_counts_its_pixels():
    torch.manual_seed(0)
    for _ in range(50):
        x, labels = batch()
        mixed, soft = make_mix(3, cutmix=1.0)(x.clone(), labels)
        pasted = mixed != x
        assert torch.equal(mixed, torch.where(pasted, x.roll(1, 0), x)) and (pasted == pasted[:1, :1]).all()
        share = 1 - pasted[0, 0].float().mean()
        one_hot = F.one_hot(labels, 3).float()
        torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot.roll(1, 0))


def test_with_both_on_each_has_half_of_the_batches():
    torch.manual_seed(0)
    x, labels = batch()
    cut = [
        set(make_mix(3, mixup=1.0, cutmix=1.0)(x.clone(), labels)[0][1].unique().tolist()) <= {0, 1} for _ in range(400)
    ]
    assert 160 < sum(cut) < 240


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soft_labels_and_label_smoothing_combine(dtype):
    """The classifier's loss: of soft labels it is the mix of the two labels' own losses."""
    torch.manual_seed(0)
    network = {"backbone": "mobilenetv3_small_050", "num_classes": 3}
    module = Classifier(network, {"label_smoothing": 0.1})
    logits = torch.randn(6, 3, dtype=dtype)
    module.forward = lambda x: logits
    x, labels = batch()
    mixed, soft = make_mix(3, mixup=1.0)(x, labels)
    share = 1 - (mixed[1, 0, 0, 0] - 1) / (0 - 1)
    loss = module.training_step((mixed, soft), 0)
    own, other = (module.training_step((x, y), 0) for y in (labels, labels.roll(1, 0)))
    torch.testing.assert_close(loss.float(), (share * own + (1 - share) * other).float(), rtol=1e-2, atol=1e-5)
    assert torch.isfinite(module.train_loss.compute())


# From bytes to the network


def test_prepare_scales_resizes_and_normalises():
    prepare = Prepare(8, [0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    x = prepare(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), training=True)
    assert x.shape == (2, 3, 8, 8) and x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_prepare_is_right_in_any_layout_and_dtype(dtype):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    expected = v2.functional.normalize(images.float() / 255, mean, std)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = Prepare(8, mean, std)(images.to(memory_format=layout), False, dtype)
        assert x.dtype == dtype and x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x, expected.to(dtype))


def test_evaluation_is_not_augmented():
    images = torch.randint(1, 256, (4, 1, 8, 8), dtype=torch.uint8)
    prepare = Prepare(8, [0.5], [0.5], Augment(rotate=30, zoom=0.3, shift=0.3, cutout=4, random_erasing=1))
    assert torch.equal(prepare(images, training=False), Prepare(8, [0.5], [0.5])(images, training=False))
    assert not torch.equal(prepare(images, training=True), prepare(images, training=False))


def test_the_configuration_reaches_the_batch():
    """Every key of data.augment, through the data module's own hook; validation batches stay as they are."""
    keys = ["rotate=10", "cutout=4", "random_erasing=0.5", "mixup=1", "cutmix=1", "crop_padding=2", "hflip=true"]
    config = cell_config("data=digits", *(f"data.augment.{key}" for key in keys))
    module = make_data(config["data"], seed=0)
    module.setup("fit")
    train, val = (next(iter(loader)) for loader in (module.train_dataloader(), module.val_dataloader()))
    assert module.prepare.augment == Augment(rotate=10, zoom=0.1, shift=0.12, cutout=4, random_erasing=0.5)
    model = SimpleNamespace(dtype=torch.float32)
    module.trainer = SimpleNamespace(training=True, lightning_module=model)
    images, labels = module.on_after_batch_transfer(train, 0)
    assert images.shape == (32, 1, 32, 32) and labels.shape == (32, 10)
    torch.testing.assert_close(labels.sum(1), torch.ones(32))
    module.trainer.training = False
    images, labels = module.on_after_batch_transfer(val, 0)
    assert labels is val[1] and torch.equal(
        images, Prepare(32, config["data"]["mean"], config["data"]["std"])(val[0], False)
    )
