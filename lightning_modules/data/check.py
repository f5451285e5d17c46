"""Read and decode every image of a folder, and report what is wrong and what is unusual.

``data.check=true`` runs it before training. Without training: ``python -m zoo data-check ROOT``.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from lightning_modules.data.bad_images import BadImages, gather
from lightning_modules.data.channels import NPY
from lightning_modules.data.crop import LONGEST
from lightning_modules.data.decode import decode, open_image, orientation_of
from lightning_modules.data.files import PATIENCE_S, BadImage, read, shown
from lightning_modules.data.image_formats import endings_of
from lightning_modules.data.split import Split, table
from lightning_modules.data.workers import WatchedImages, WatchedLoader, captured_stderr, is_death
from zoo.log import log
from zoo.text import typed

FILE = "data_check.txt"
"""File with one line per finding: what, path and details, separated by tabs."""

CHUNK = 16
"""Number of images that a worker reads per request."""

SMALL = 8
"""Images with a side shorter than this, in pixels, are reported."""

MODES = {"L": "grey", "P": "palette", "CMYK": "CMYK", "1": "one bit per pixel", "F": "floating point"}
TRANSPARENT = ("LA", "PA", "RGBA", "RGBa", "La")


class Seen(NamedTuple):
    """Result of reading one image: index, what is wrong (None: nothing), what is unusual, hash of its content."""

    index: int
    bad: BadImage | None
    odd: tuple[str, ...] = ()
    digest: bytes = b""


class _Images(WatchedImages):
    """Maps indices of paths to the results of reading them, in worker processes."""

    def __init__(self, paths: Sequence[str], channels: int) -> None:
        super().__init__(paths)
        self.channels = channels

    def __getitems__(self, indices: list[int]) -> list[Seen]:
        until, seen = time.monotonic() + PATIENCE_S, []
        for index in indices:
            self.start_reading(index)
            seen.append(look_at(index, self.paths[index], until, self.channels))
        self.start_reading(-1)
        return seen


def look_at(index: int, path: str, until: float, channels: int = 3) -> Seen:
    """Read (with retries until a time, see `read`) and decode one image; report what is wrong or unusual."""
    try:
        content = read(path, until)
        with captured_stderr() as complaints:
            decode(content, channels=channels)
            odd = ["decoded despite errors"] if complaints() else []
    except BadImage as error:
        return Seen(index, error)
    return Seen(index, None, (*_odd(path, content), *odd), hashlib.blake2b(content, digest_size=16).digest())


def _odd(path: str, content: bytes) -> Iterator[str]:
    if content.startswith(NPY):
        return
    with open_image(content) as image:
        form, mode, (width, height) = image.format or "", image.mode, image.size
        if mode in MODES or mode.startswith("I"):
            yield MODES.get(mode, "16-bit grey")
        if mode in TRANSPARENT or "transparency" in image.info:
            yield "transparent (dropped)"
        if orientation_of(image) != 1:
            yield "rotated by EXIF"
        if getattr(image, "is_animated", False) and form != "MPO":
            yield "animated (the first frame is used)"
    if min(width, height) < SMALL:
        yield f"smaller than {SMALL} pixels"
    if max(width, height) > LONGEST * min(width, height):
        yield f"more than {LONGEST} times as long as wide"
    if not path.lower().endswith(endings_of(form)):
        yield f"extension of another format than its content ({form})"


def check_all(
    splits: Sequence[Split],
    bad: BadImages,
    folder: Path | None,
    workers: int,
    rank: int = 0,
    world: int = 1,
    say: Callable[[str], None] = log.info,
    channels: int = 3,
) -> int:
    """Read all images, sharded over the ranks of a job; report the findings and write them to a file.

    All ranks must call this function.

    Args:
        splits: The splits whose images are read.
        bad: Receives the bad images.
        folder: Folder for `FILE`; None: do not write it.
        workers: Number of worker processes per rank.
        rank, world: This process's rank, and the number of ranks.
        say: Receives the lines of the report.
        channels: Number of channels that the network takes.

    Returns:
        The number of bad images.

    Raises:
        TooManyBadImages: There are more bad images than allowed.
    """
    paths = [path for split in splits for path, _ in split.images]
    say(f"data.check: reading {len(paths):,} images")
    mine = list(_read(paths, range(rank, len(paths), world), workers, rank == 0, channels))
    seen = sorted(image for images in gather(mine, world) for image in images)
    lines = [(f"bad: {image.bad.kind}", paths[image.index], image.bad.detail) for image in seen if image.bad]
    lines += [(what, path, f"the same as {shown(twin)}") for what, path, twin in _twins(splits, seen)]
    lines += [(what, paths[image.index], "") for image in seen for what in image.odd]
    found: dict[str, list[str]] = defaultdict(list)
    for what, path, _ in lines:
        found[what].append(path)
    say("\n".join(table(found, os.path.dirname(splits[0].folder))) or "  no problems found")
    if folder and rank == 0:
        text = "".join(f"{what}\t{shown(path)}\t{shown(detail)}\n" for what, path, detail in lines)
        try:
            (folder / FILE).write_text(text)
            say(f"  full list: {typed(folder / FILE)}")
        except OSError as error:
            log.warning(f"  {shown(folder / FILE)} cannot be written: {error.strerror}.")
    for image in seen:
        if image.bad:
            bad.note(paths[image.index], str(image.bad), write=rank == 0)
    bad.check()
    return sum(image.bad is not None for image in seen)


def _read(paths: Sequence[str], indices: Sequence[int], workers: int, show: bool, channels: int) -> Iterator[Seen]:
    """Yield the result of every index. A file that kills its worker process is bad; reading continues without it."""
    left = dict.fromkeys(indices)
    with tqdm(total=len(left), unit=" images", disable=not (show and sys.stderr.isatty()), leave=False) as bar:
        while left:
            todo = list(left)
            chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
            loader = WatchedLoader(_Images(paths, channels), batch_sampler=chunks, num_workers=workers)
            try:
                for seen in loader:
                    for image in seen:
                        del left[image.index]
                        yield image
                    bar.update(len(seen))
            except RuntimeError as error:
                # Something else may have killed the worker; then the file is good, but the advice is the same.
                culprits = [index for index, _ in loader.deaths() if index in left] if is_death(error) else []
                if not culprits:
                    raise
                for index in culprits:
                    del left[index]
                    yield Seen(index, BadImage("crashes the decoder", str(error).splitlines()[0]))


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
