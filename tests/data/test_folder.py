"""Image folders: any format, decoded at the scale that is needed, the same whatever the processes and stops."""

import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from conftest import cell_config
from PIL import Image
from torchvision.transforms import v2

from lightning_modules import run_cell
from lightning_modules.checkpoint.last import LastCheckpoint
from lightning_modules.data import make_data
from lightning_modules.data.crop import Box, central, random_box
from lightning_modules.data.decode import decode
from lightning_modules.data.folder import FolderImages
from lightning_modules.data.layout import scan
from zoo.image_size import ImageSize


def scene(width=80, height=48):
    """Smooth, and every side different: red left, green below, blue at the top right."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (np.stack([1 - x, y, x * (1 - y)], axis=-1) * 255).round().astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path.read_bytes()


def near(image, expected, levels):
    assert image.shape == expected.shape and image.dtype == torch.uint8
    difference = (image.int() - torch.as_tensor(expected).int()).abs()
    assert difference.max() <= levels, f"{difference.max()} levels apart"


def test_every_format_gives_the_colours_that_one_sees(tmp_path):
    rgb = scene()
    image = Image.fromarray(rgb)
    grey = np.asarray(image.convert("L"))
    jpeg = {"quality": 95, "subsampling": 0}
    near(decode(saved(tmp_path / "rgb.png", image)), rgb, 0)
    near(decode(saved(tmp_path / "rgb.jpg", image, **jpeg)), rgb, 4)
    near(decode(saved(tmp_path / "cmyk.jpg", image.convert("CMYK"), **jpeg)), rgb, 6)
    near(decode(saved(tmp_path / "rgba.png", image.convert("RGBA"))), rgb, 0)
    near(decode(saved(tmp_path / "palette.png", image.quantize(256))), rgb, 40)
    transparent = image.quantize(256)
    near(decode(saved(tmp_path / "transparent.png", transparent, transparency=bytes(range(256)))), rgb, 40)
    for name, options in (("grey.png", {}), ("grey.jpg", jpeg)):
        near(decode(saved(tmp_path / name, image.convert("L"), **options)), np.stack([grey] * 3, -1), 3)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    near(decode(saved(tmp_path / "deep.png", deep)), np.stack([grey] * 3, -1), 0)
    near(
        decode(saved(tmp_path / "one_bit.png", Image.fromarray(grey > 127))), np.stack([(grey > 127) * 255] * 3, -1), 0
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_images_are_turned_as_their_exif_data_say(tmp_path, orientation, factor):
    """Stored on its side by a camera, seen upright; the cut-out is one of the upright image."""
    upright = scene(160, 96)
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    content = saved(path, Image.fromarray(np.ascontiguousarray(stored)), quality=95, subsampling=0, exif=exif)
    near(decode(content), upright, 5)
    seen = []

    def box(height, width):
        seen.append((height, width))
        return Box(16, 64, 64, 64)

    size = ImageSize.of(64 // factor)
    near(decode(content, box, size), np.asarray(_cut(upright, Box(16, 64, 64, 64), size)), 6)
    assert seen == [(96, 160)]


def _cut(pixels, box, size):
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return v2.functional.resized_crop(image, *box, list(size), antialias=True).permute(1, 2, 0)


@pytest.mark.parametrize("size", [ImageSize(112, 112), ImageSize(48, 112)], ids=str)
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_cut_out_is_exactly_torchvisions(tmp_path, extension, size):
    content = saved(tmp_path / f"x.{extension}", Image.fromarray(scene(200, 150)))
    pixels = np.array(Image.open(tmp_path / f"x.{extension}"))
    draws = random.Random(0)
    for _ in range(20):
        box = random_box(150, 200, (0.35, 1.0), draws, size)
        assert torch.equal(decode(content, lambda *_, b=box: b, size), _cut(pixels, box, size))


def test_a_jpeg_is_decoded_no_smaller_than_needed(tmp_path, monkeypatch):
    pixels = scene(640, 480)
    content = saved(tmp_path / "x.jpg", Image.fromarray(pixels), quality=95, subsampling=0)
    sizes = []
    original = torch.nn.functional.interpolate

    def interpolate(image, size, **options):
        sizes.append(tuple(image.shape[-2:]))
        return original(image, size, **options)

    monkeypatch.setattr("torchvision.transforms.v2.functional._geometry.interpolate", interpolate)
    draws = random.Random(1)
    for size in map(ImageSize.of, (40, 64, 100, 200, (40, 160), (300, 60))):
        for _ in range(10):
            box = random_box(480, 640, (0.1, 1.0), draws, size)
            image, (*_, decoded) = decode(content, lambda *_, b=box: b, size), sizes
            near(image, np.asarray(_cut(pixels, box, size)), 8)
            larger, had = (min(a / b for a, b in zip(shape, size, strict=True)) for shape in (decoded, box[2:]))
            assert larger >= min(had, 1)
            assert larger < 2 + 2 / size.shorter or had // larger >= 7, "it could have been smaller"


@pytest.mark.parametrize("shape", [(150, 200), (200, 150), (64, 64), (40, 300)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(shape):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    for size, share in ((32, 0.95), (64, 0.875), (48, 1.0)):
        theirs = v2.Compose([v2.Resize(round(size / share), antialias=True), v2.CenterCrop(size)])
        ours = central(pixels, ImageSize.of(size), share)
        assert torch.equal(ours, theirs(pixels.permute(2, 0, 1)).permute(1, 2, 0))


def test_a_rectangle_is_cut_from_the_middle_of_an_image_of_another_shape():
    torch.manual_seed(0)
    size = ImageSize(96, 128)
    wide, high, alike = (
        torch.randint(0, 256, (*shape, 3), dtype=torch.uint8) for shape in ((96, 300), (300, 128), (192, 256))
    )
    assert torch.equal(central(wide, size, 1.0), wide[:, 86:214])
    assert torch.equal(central(high, size, 1.0), high[102:198])
    smaller = v2.functional.resize(alike.permute(2, 0, 1), list(size)).permute(1, 2, 0)
    assert torch.equal(central(alike, size, 1.0), smaller)
    assert central(alike, size, 0.875).shape == (96, 128, 3)
    # An image as long as the result is not cut to LONGEST times its shorter side.
    strip = torch.randint(0, 256, (16, 256, 3), dtype=torch.uint8)
    assert torch.equal(central(strip, ImageSize(16, 256), 1.0), strip)


# The same whatever the processes and stops


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 16), ("val", 3)):
        for name in ("ant", "bee"):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(n):
                coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((60 + i, 50)).save(place / f"{i}.jpg")
    return tmp_path / "images"


def train_epoch(root, epoch=0, workers=0, seed=0, done=(0, 0)):
    data = cell_config("data=imagefolder", f"data.root={root}", "data.batch_size=8", f"data.workers={workers}")["data"]
    module = make_data({**data, "image_size": 24}, seed)
    module._done = done
    loader = module.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def test_what_an_image_gets_follows_seed_epoch_and_index(folder):
    files = scan(str(folder), "train").images
    twins = [files[3], files[3]]

    def taken(epoch, index, seed=0):
        return FolderImages(twins, 24, (0.35, 1.0), hflip=True, seed=seed).__getitems__((epoch, [index]))[0]

    assert torch.equal(taken(0, 0), taken(0, 0))
    for other in (taken(1, 0), taken(0, 1), taken(0, 0, seed=1)):
        assert not torch.equal(taken(0, 0), other)


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_an_epoch_is_the_same_with_any_number_of_processes(folder):
    alone = train_epoch(folder, epoch=1)
    assert len(alone) == 4 and alone[0][0].is_contiguous(memory_format=torch.channels_last)
    torch.rand(3), random.random()
    assert same(train_epoch(folder, epoch=1, workers=2), alone)
    assert same(train_epoch(folder, epoch=1, workers=1, done=(1, 3)), alone[3:])
    assert not same(train_epoch(folder, epoch=0), alone) and not same(train_epoch(folder, epoch=1, seed=1), alone)


def test_half_of_the_training_images_are_flipped(folder):
    """Each image's two halves: red at the left in the file."""
    for path in folder.glob("train/*/*.jpg"):
        Image.fromarray(scene(60, 60)).save(path)
    images = torch.cat([images for epoch in range(8) for images, _ in train_epoch(folder, epoch)])
    left_is_redder = images[:, 0, :, :12].float().mean((1, 2)) > images[:, 0, :, 12:].float().mean((1, 2))
    assert 0.4 < left_is_redder.float().mean() < 0.6


def test_a_stopped_run_on_an_image_folder_ends_like_an_undisturbed_one(folder, tmp_path, monkeypatch):
    """Stopped in the middle of an epoch, it goes on with other worker processes; all augmentation on, bad images."""
    for path in (*folder.glob("train/ant/1?.jpg"), folder / "val" / "bee" / "0.jpg"):
        path.write_bytes(path.read_bytes()[:300])
    recipe = ["data=imagefolder", f"data.root={folder}", "data.batch_size=8", "data.image_size=32", "hardware=cpu"]
    recipe += ["model=mobilenet", "model.variant=v3_small", "logger=none", "trainer.max_epochs=2", "hardware.threads=1"]
    recipe += [f"data.augment.{key}" for key in ("random_erasing=0.5", "mixup=0.2", "cutmix=1", "cutout=8")]
    config = cell_config(*recipe, "data.workers=2", "data.max_bad_images=0.5")

    def outcome(place):
        result = json.loads((place / "result.json").read_text())
        weights = torch.load(place / "best.ckpt", weights_only=True)["state_dict"]
        return {k: v for k, v in result["metrics"].items() if k.startswith(("test/", "val/", "data/"))}, weights

    run_cell(config, tmp_path / "undisturbed", "a command")
    with monkeypatch.context() as patch:
        seen = []

        def stop_at(self, trainer, module, images, index):
            seen.append(index)
            if len(seen) == 6:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(LastCheckpoint, "on_train_batch_start", stop_at)
        with pytest.raises(SystemExit):
            run_cell(config, tmp_path / "stopped", "a command")
    run_cell(cell_config(*recipe, "data.workers=1", "data.max_bad_images=8"), tmp_path / "stopped", "a command")
    (metrics, weights), (expected, expected_weights) = outcome(tmp_path / "stopped"), outcome(tmp_path / "undisturbed")
    assert metrics == expected and 4 <= metrics["data/bad_images"] <= 7
    assert all(torch.equal(weights[k], expected_weights[k]) for k in expected_weights)
