"""Read and decode every image of a folder, and report what is wrong and what is unusual.

``data.check=true`` runs it before training. Without training: ``python -m lightning_modules.data.check ROOT``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from lightning_modules.data.bad_images import BadImages
from lightning_modules.data.decode import LONGEST, decode, open_image, orientation_of
from lightning_modules.data.files import PATIENCE_S, BadImage, read, shown
from lightning_modules.data.image_formats import endings_of
from lightning_modules.data.layout import Split, has_split, scan
from lightning_modules.data.overview import overview, table
from lightning_modules.data.workers import WatchedLoader, WorkerProgress, decoders_words, is_death
from zoo.devices import cores
from zoo.errors import ConvzooError
from zoo.text import typed

FILE = "data_check.txt"
"""File with one line per finding: what, path and details, separated by tabs."""

CHUNK = 16
"""Number of images that a worker reads per request."""

SMALL = 8
"""Images with a side shorter than this, in pixels, are reported."""

MODES = {"L": "grey", "P": "palette", "CMYK": "CMYK", "1": "one bit a pixel", "F": "floating point"}
TRANSPARENT = ("LA", "PA", "RGBA", "RGBa", "La")


class Seen(NamedTuple):
    """Result of reading one image: index, what is wrong (None: nothing), what is unusual, hash of its content."""

    index: int
    bad: tuple[str, str] | None
    odd: tuple[str, ...] = ()
    digest: bytes = b""


class _Images(Dataset):
    """Maps indices of paths to the results of reading them, in worker processes."""

    in_hand: WorkerProgress

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: list[int]) -> list[Seen]:
        until, seen = time.monotonic() + PATIENCE_S, []
        for index in indices:
            self.in_hand.take(index)
            seen.append(look_at(index, self.paths[index], until))
        self.in_hand.take(-1)
        return seen


def look_at(index: int, path: str, until: float) -> Seen:
    """Read and decode one image, and report what is wrong or unusual.

    Args:
        index: The image's index.
        path: Its path.
        until: See `lightning_modules.data.files.read`.
    """
    try:
        content = read(path, until)
        with decoders_words() as words:
            decode(content)
            complaint = words()
    except BadImage as error:
        return Seen(index, (error.kind, error.detail))
    odd = [*_odd(path, content), *(["the decoder complains, and reads it"] if complaint else [])]
    return Seen(index, None, tuple(odd), hashlib.blake2b(content, digest_size=16).digest())


def _odd(path: str, content: bytes) -> Iterator[str]:
    with open_image(content) as image:
        form, mode, (width, height) = image.format or "", image.mode, image.size
        if mode in MODES or mode.startswith("I"):
            yield MODES.get(mode, "16 bits of grey")
        if mode in TRANSPARENT or "transparency" in image.info:
            yield "transparent (left out)"
        if orientation_of(image) != 1:
            yield "turned, by EXIF"
        if getattr(image, "is_animated", False) and form != "MPO":
            yield "animated (the first picture is used)"
    if min(width, height) < SMALL:
        yield f"smaller than {SMALL} pixels"
    if max(width, height) > LONGEST * min(width, height):
        yield f"more than {LONGEST} times as long as wide"
    if not path.lower().endswith(endings_of(form)):
        yield f"another format than its name says ({form})"


def check_all(
    splits: Sequence[Split], bad: BadImages, folder: Path | None, workers: int, rank: int = 0, world: int = 1
) -> int:
    """Read all images, sharded over the ranks of a job; print the findings and write them to a file.

    All ranks must call this function.

    Args:
        splits: The splits whose images are read.
        bad: Receives the bad images.
        folder: Folder for `FILE`; None: do not write it.
        workers: Number of worker processes per rank.
        rank: This process's rank.
        world: Number of ranks.

    Returns:
        The number of bad images.

    Raises:
        ConvzooError: There are more bad images than allowed.
    """
    paths = [path for split in splits for path, _ in split.images]
    if rank == 0:
        print(f"data.check: reading {len(paths):,} images", flush=True)
    seen = list(_read(paths, range(rank, len(paths), world), workers, rank == 0))
    if world > 1:
        everybodys: list[list[Seen]] = [[] for _ in range(world)]
        torch.distributed.all_gather_object(everybodys, seen)
        seen = [image for images in everybodys for image in images]
    seen.sort()
    lines = [(f"bad: {image.bad[0]}", paths[image.index], image.bad[1]) for image in seen if image.bad]
    lines += [(what, path, f"the same as {shown(twin)}") for what, path, twin in _twins(splits, seen)]
    lines += [(what, paths[image.index], "") for image in seen for what in image.odd]
    if rank == 0:
        root = os.path.dirname(splits[0].folder)
        found: dict[str, list[str]] = defaultdict(list)
        for what, path, _ in lines:
            found[what].append(path)
        print("\n".join(table(found, root)) if found else "  nothing wrong", flush=True)
        if folder:
            text = "".join(f"{what}\t{shown(path)}\t{shown(detail)}\n" for what, path, detail in lines)
            try:
                (folder / FILE).write_text(text)
                print(f"  all of it: {typed(folder / FILE)}", flush=True)
            except OSError as error:
                print(f"  {shown(folder / FILE)} cannot be written: {error.strerror}.", flush=True)
    for image in seen:
        if image.bad:
            bad.note(paths[image.index], str(BadImage(*image.bad)), write=rank == 0)
    bad.check()
    return sum(image.bad is not None for image in seen)


def _read(paths: Sequence[str], indices: Sequence[int], workers: int, show: bool) -> Iterator[Seen]:
    """Yield the result of every index. A file that kills its worker process is bad; reading continues without it."""
    left = dict.fromkeys(indices)
    with tqdm(total=len(left), unit=" images", disable=not (show and sys.stderr.isatty()), leave=False) as bar:
        while left:
            todo = list(left)
            chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
            loader = WatchedLoader(_Images(paths), paths, batch_sampler=chunks, num_workers=workers)
            try:
                for seen in loader:
                    for image in seen:
                        del left[image.index]
                        yield image
                    bar.update(len(seen))
            except RuntimeError as error:
                # Something else may have killed the worker; then the file is good, but the advice is the same.
                culprits = [index for index in loader.of_the_dead() if index in left] if is_death(error) else []
                if not culprits:
                    raise
                for index in culprits:
                    del left[index]
                    yield Seen(index, ("kills the process that decodes it", str(error).splitlines()[0]))


def _twins(splits: Sequence[Split], seen: Sequence[Seen]) -> Iterator[tuple[str, str, str]]:
    """Yield images with the same content: description, the later one's path, the first one's path."""
    places = [(split.name, label, path) for split in splits for path, label in split.images]
    first: dict[bytes, int] = {}
    for image in seen:
        if image.bad:
            continue
        other = first.setdefault(image.digest, image.index)
        if other != image.index:
            (name, label, path), (before, its_label, twin) = places[image.index], places[other]
            what = f"the same in {before} and {name}" if name != before else f"twice in {name}"
            yield what + (", as two classes" if label != its_label else ""), path, twin


def main() -> None:
    """Check a folder without training; the exit code is 1 if an image is bad, 2 if the layout is wrong."""
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.data.check", description=__doc__)
    parser.add_argument("root", metavar="ROOT", help="has train/CLASS/, val/CLASS/ and perhaps test/CLASS/")
    parser.add_argument("--workers", type=int, default=cores(), help="processes; default: a core each")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help=f"write {FILE} there")
    given = parser.parse_args()
    try:
        names = ["train", "val", *(["test"] if has_split(given.root, "test") else [])]
        splits = [scan(given.root, name) for name in names]
        print(overview(splits), flush=True)
        total = sum(map(len, splits))
        code = 1 if check_all(splits, BadImages(total, total), given.output, given.workers) else 0
    except ConvzooError as error:
        code = 2
        print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
