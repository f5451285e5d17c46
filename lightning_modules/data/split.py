"""The images of one split of an image folder, with what is odd about them, and a summary as text."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from lightning_modules.data.files import shown

SPLITS = ("train", "val", "test")
HIDDEN, NO_FILE, UNSEEN = "hidden, skipped", "not a regular file, skipped", "size not checked"
NO_BYTES, DANGLING, FORBIDDEN = "empty file", "dangling link", "no permission to read"
MISSING = "missing file"
BAD = (NO_BYTES, DANGLING, FORBIDDEN, MISSING)
"""Oddities of files that are listed anyway, and become bad images once they are read."""

NAMES = 3
"""Number of paths that are named for each kind of oddity."""


@dataclass
class Split:
    """The images, classes and oddities of one split.

    Attributes:
        folder: ``ROOT/train``, ``ROOT/val`` or ``ROOT/test``; or the folder that a table's paths are relative to.
        classes: Names of the classes, in the order of their labels.
        images: Paths and labels, in the order of torchvision's ``ImageFolder``.
        odd: Oddities that the user should know: description → paths.
        unseen: Number of files whose size was not queried.
        name: ``train``, ``val`` or ``test``; by default the folder's name.
    """

    folder: Path
    classes: list[str]
    images: list[tuple[str, int]] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unseen: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.folder.name

    def named(self, name: str) -> Split:
        """Return the split under another name."""
        return replace(self, name=name)

    def at(self, indices: Sequence[int], name: str = "") -> Split:
        """Return some of the images as a split; under another name, without what is odd about the whole."""
        images = [self.images[index] for index in indices]
        paths = {path for path, _ in images}
        kinds = (kind for kind in self.odd if kind in BAD or not name)
        odd = {kind: [p for p in self.odd[kind] if kind not in BAD or p in paths] for kind in kinds}
        return replace(self, images=images, odd=odd, name=name or self.name, unseen=0 if name else self.unseen)

    def __len__(self) -> int:
        return len(self.images)

    def counts(self) -> list[int]:
        """Return the number of images in each class."""
        counts = [0] * len(self.classes)
        for _, label in self.images:
            counts[label] += 1
        return counts

    def bad(self) -> list[tuple[str, str]]:
        """Return path and reason of the images that cannot be good."""
        return [(path, kind) for kind in BAD for path in self.odd.get(kind, ())]

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the names of all images, independent of the folder's location."""
        start = len(str(self.folder))
        names = "\0".join(path[start:] for path, _ in self.images)
        return f"{len(self.images)} images, {zlib.crc32(os.fsencode(names)):08x}"


def overview(splits: Sequence[Split]) -> str:
    """Return the sizes of the splits and the oddities found when they were scanned, as text.

    Args:
        splits: train, val, and test if it exists.
    """
    odd: dict[str, list[str]] = {}
    for split in splits:
        for what, paths in split.odd.items():
            odd.setdefault(what, []).extend(paths)
    counts = splits[0].counts()
    low, high = min(counts), max(counts)
    sizes = [f"{split.name} {len(split):,}" for split in splits]
    sizes[0] += f" ({low:,} a class)" if low == high else f" ({low:,} to {high:,} a class)"
    text = f"{len(counts):,} classes of images: {', '.join(sizes)}{'; test: val' if len(splits) < 3 else ''}"
    lines = [text, *table(odd, root=os.path.dirname(splits[0].folder))]
    if unseen := sum(split.unseen for split in splits):
        lines.append(
            f"  the sizes of {unseen:,} files were not checked: the disk is slow. data.check=true reads all files."
        )
    return "\n".join(lines)


def table(odd: Mapping[str, Sequence[str]], root: str) -> list[str]:
    """Return one line per kind: its name, its count, and the first `NAMES` paths, relative to ``root``."""
    rows = [(what, f"{len(paths):,}", _first(paths, root)) for what, paths in odd.items() if paths]
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    return [f"  {what:<{widths[0]}}  {n:>{widths[1]}}  {names}" for what, n, names in rows]


def _first(paths: Sequence[str], root: str) -> str:
    names = [shown(os.path.relpath(path, root)) for path in paths[:NAMES]]
    return ", ".join([*names, "…"] if len(paths) > NAMES else names)
