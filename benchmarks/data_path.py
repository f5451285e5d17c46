"""Benchmark the data path, from stored to augmented images, against PIL + torchvision + DataLoader, in images/s.

    python benchmarks/data_path.py [--rounds 5] [--output FILE.json]       about three minutes

Every variant does the same work in each round: it yields shuffled batches of normalized float images on the CPU. "PIL"
is the approach of common templates: one PIL image at a time through torchvision's v2 transforms, in the main process or
in two persistent worker processes, started beforehand. "plain tensors" is a straightforward implementation on whole
batches. Every process uses one thread. Ratios are relative to PIL without workers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from turns import in_turn, options, show, text, write

from lightning_modules.data import make_data
from lightning_modules.data.bad_images import BadImages
from lightning_modules.data.batches import EpochBatches
from lightning_modules.data.folder import FolderImages, FolderLoader
from lightning_modules.data.layout import scan

BATCH = 128
BASELINE = "PIL, no worker"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
Variant = Callable[[], float]


class Pictures(Dataset):
    """Converts arrays to PIL images and transforms them, like torchvision's CIFAR10."""

    def __init__(self, images: torch.Tensor, transform: Any) -> None:
        self.arrays, self.transform = images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy(), transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), 0


def timed(batches: Callable[[], Iterable[torch.Tensor]], images: int) -> Variant:
    """Return a variant that measures seconds per image over the first ``images`` of an epoch."""

    def variant() -> float:
        start, seen = time.perf_counter(), 0
        for x in batches():
            seen += len(x)
            if seen >= images:
                break
        return (time.perf_counter() - start) / seen

    return variant


def pil(dataset: Dataset, images: int, batch: int = BATCH) -> dict[str, Variant]:
    """Return the PIL variants. Each loader's epoch has only the timed images, so that no worker has work left over."""
    part = torch.utils.data.Subset(dataset, range(min(images, len(dataset))))
    variants = {}
    for workers in (0, 2):
        loader = DataLoader(part, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        next(iter(loader))
        name = f"PIL, {workers} workers" if workers else BASELINE
        variants[name] = timed(lambda loader=loader: (x for x, _ in loader), images)
    return variants


def finish(channels: int) -> list[Any]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN[:channels], STD[:channels])]


def ours(size: int, channels: int, n: int, images: int, **augment: Any) -> tuple[torch.Tensor, Variant]:
    """Return noise images of shape (n, channels, size, size), and convzoo's data module on them as a variant."""
    data = {"name": "synthetic", "download": False, "num_classes": 10, "in_chans": channels, "image_size": size}
    data |= {"batch_size": BATCH, "images": n, "mean": MEAN[:channels], "std": STD[:channels], "augment": augment}
    module = make_data(data)
    module.setup()
    loader = module.train_dataloader()
    module.prepare(next(iter(loader))[0], training=True)
    return module._splits.train.images, timed(lambda: (module.prepare(x, training=True) for x, _ in loader), images)


def plain(
    images: torch.Tensor, augment: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[], Iterable[torch.Tensor]]:
    channels = images.shape[1]
    mean, std = (torch.tensor(v[:channels]).view(1, -1, 1, 1) for v in (MEAN, STD))
    images = images.contiguous()

    def batches() -> Iterable[torch.Tensor]:
        for indices in torch.randperm(len(images)).split(BATCH):
            yield (augment(images[indices].float() / 255) - mean) / std

    return batches


def plain_crop_and_flip(x: torch.Tensor) -> torch.Tensor:
    n, channels, height, width = x.shape
    padded = F.pad(x, [4] * 4)
    top, left = torch.randint(0, 9, (2, n, 1)).unbind()
    rows, columns = (top + torch.arange(height))[:, None, :, None], (left + torch.arange(width))[:, None, None, :]
    x = padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None], rows, columns]
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(-1), x)


def plain_affine(x: torch.Tensor) -> torch.Tensor:
    angle, zoom, right, down = (2 * torch.rand(4, len(x)) - 1).unbind()
    angle, zoom = angle * np.pi / 18, 1 + zoom * 0.1
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    matrix = torch.stack([cos, -sin, 0.24 * right, sin, cos, 0.24 * down], dim=1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(matrix, x.shape, align_corners=False), align_corners=False)


def crop_and_flip(size: int, n: int) -> dict[str, Variant]:
    timed_pil, timed_ours = max(256, 2048 * 32 // size), min(n, 16384)
    images, own = ours(size, 3, n, timed_ours, crop_padding=4, hflip=True)
    transform = v2.Compose([v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip(), *finish(3)])
    tensors = timed(plain(images, plain_crop_and_flip), min(n, 4096))
    return pil(Pictures(images, transform), timed_pil) | {"plain tensors": tensors, "convzoo": own}


def affine() -> dict[str, Variant]:
    images, own = ours(32, 1, 16384, 16384, rotate=10, zoom=0.1, shift=0.12)
    bilinear = v2.InterpolationMode.BILINEAR
    moved = v2.RandomAffine(10, translate=(0.12, 0.12), scale=(0.9, 1.1), interpolation=bilinear)
    tensors = timed(plain(images, plain_affine), 8192)
    return pil(Pictures(images, v2.Compose([moved, *finish(1)])), 2048) | {"plain tensors": tensors, "convzoo": own}


def photographs(folder: Path, n: int, width: int = 500, height: int = 375) -> None:
    """Write JPEGs of coarse colors and grain, by default about as large as ImageNet's (some 110 KB each)."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        grainy = (image + rng.integers(-24, 25, image.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "train" / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grainy).save(place / f"{i}.jpg", quality=90)


def jpegs(root: Path, size: int, n: int) -> dict[str, Variant]:
    """Return variants that read files and apply RandomResizedCrop to ``size`` and horizontal flips."""
    from lightning_modules.data.augment import Prepare

    crop = v2.RandomResizedCrop(size, scale=(0.35, 1.0))
    usual = v2.Compose([crop, v2.RandomHorizontalFlip(), *finish(3)])
    variants = pil(ImageFolder(root / "train", usual), n, batch=32)
    prepare = Prepare(size, list(MEAN), list(STD))
    images = FolderImages(scan(str(root), "train").images, size, (0.35, 1.0), hflip=True, seed=0)
    for workers in (0, 2):
        loader = FolderLoader(
            images,
            BadImages(0, len(images)),
            batch_sampler=EpochBatches(len(images), 32, shuffle=True),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        next(iter(loader))
        name = f"convzoo, {workers} workers" if workers else "convzoo, no worker"
        variants[name] = timed(lambda loader=loader: (prepare(x, training=True) for x, _ in loader), n)
    return variants


def measure(title: str, variants: dict[str, Variant], rounds: int) -> dict[str, Any]:
    turns = in_turn(variants, BASELINE, rounds, title)
    rows = [(name, f"{1 / turns.median(name):,.0f}", text(turns.ratios(name))) for name in variants]
    show(title, ("variant", "images/s", "× PIL, no worker (quartiles)"), rows)
    return {name: {"s_per_image": turns.samples[name], "ratio": turns.ratios(name)} for name in variants}


def main() -> None:
    arguments = options(__doc__, rounds=5).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    for size, n in ((32, 50_000), (64, 8192), (128, 2048)):
        title = f"crop + flip, {size}×{size}, {n:,} images"
        results[title] = measure(title, crop_and_flip(size, n), arguments.rounds)
    title = "rotate, zoom, shift, 32×32, grey"
    results[title] = measure(title, affine(), arguments.rounds)
    for width, height, n in ((500, 375, 192), (2000, 1500, 32)):
        with tempfile.TemporaryDirectory() as folder:
            photographs(Path(folder), n, width, height)
            title = f"JPEG {width}×{height}, RandomResizedCrop to 224 + flip"
            results[title] = measure(title, jpegs(Path(folder), 224, n), arguments.rounds)
    write(arguments.output, results)


if __name__ == "__main__":
    main()
