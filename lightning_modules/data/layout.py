"""ImageNet's layout, a folder of class folders for each split: what is there, and what is odd. Opens no file."""

from __future__ import annotations

import os
import stat
import time
import unicodedata
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lightning_modules.data.files import shown
from lightning_modules.data.image_formats import endings, endings_text
from zoo.errors import ConvzooError

LAYOUT = "ROOT/train/CLASS/image.jpg and ROOT/val/CLASS/image.jpg"
SYSTEMS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that archivers, file servers and file systems leave behind: hidden ones under another name."""
SIZES_S = 1.0
"""For how long the sizes of a split's files are asked for: a million files on a network file system take minutes."""

HIDDEN = "hidden, left out"
NO_BYTES, DANGLING, FORBIDDEN = "no bytes", "link to nothing", "may not be read"
BAD = (NO_BYTES, DANGLING, FORBIDDEN)
"""What is listed all the same, and is a bad image once it is read."""


@dataclass
class Split:
    """One split.

    Attributes:
        folder: ``ROOT/train``, ``ROOT/val`` or ``ROOT/test``.
        classes: Names of the class folders, sorted.
        images: Paths and labels, in the order of torchvision's ``ImageFolder``.
        odd: What a person should know: paths, by what is odd about them.
        unseen: Files whose size nobody has asked for.
    """

    folder: Path
    classes: list[str]
    images: list[tuple[str, int]] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unseen: int = 0

    @property
    def name(self) -> str:
        return self.folder.name

    def __len__(self) -> int:
        return len(self.images)

    def counts(self) -> list[int]:
        """Images of each class."""
        counts = [0] * len(self.classes)
        for _, label in self.images:
            counts[label] += 1
        return counts

    def bad(self) -> list[tuple[str, str]]:
        """Images that cannot be good: path and reason."""
        return [(path, kind) for kind in BAD for path in self.odd.get(kind, ())]

    @cached_property
    def fingerprint(self) -> str:
        """Of the names of all images, wherever the folder lies."""
        start = len(str(self.folder))
        names = "\0".join(path[start:] for path, _ in self.images)
        return f"{len(self.images)} images, {zlib.crc32(os.fsencode(names)):08x}"


def class_names(root: str) -> list[str]:
    """The class folders of ``root/train``.

    Raises:
        ConvzooError: ``root`` does not have the layout.
    """
    train = _folder(root, "train")
    names = _class_folders(train) if train.is_dir() else []
    if not names:
        raise ConvzooError(f"{shown(train)} has no class folders. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    return names


def has_split(root: str, name: str) -> bool:
    """Whether there is a folder of that name."""
    return _folder(root, name).is_dir()


def scan(root: str, name: str) -> Split:
    """Lists the images of a split, in all folders below its class folders.

    Left out, and told in ``odd``: hidden files and folders (`SYSTEMS` too), endings that Pillow cannot decode, what is
    no file, images beside the class folders.

    Raises:
        ConvzooError: The split is missing or has no images, its classes are not those of ``train``, or a class has no
            image to learn from.
    """
    folder = _folder(root, name)
    if not folder.is_dir():
        raise ConvzooError(f"{shown(folder)} is missing. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    split = Split(folder, class_names(root))
    if name != "train":
        _compare(folder, _class_folders(folder), split.classes)
    until = time.monotonic() + SIZES_S
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if _is_hidden(entry):
            _keep(split, entry, HIDDEN)
        elif not _is_folder(entry):
            _keep(split, entry, "outside of a class folder, left out")
    for label, kind in enumerate(split.classes):
        # Sorted by folder, then by name: not the same as by path.
        found = sorted(_files(folder / kind, split, until, {}))
        split.images += [(f"{place}{os.sep}{name}", label) for place, name in found]
    _judge(split)
    return split


def _folder(root: str, name: str) -> Path:
    return Path(os.path.expanduser(root)) / name


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ConvzooError(f"{shown(folder)} cannot be read: {error.strerror}.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _class_folders(split: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(split) if _is_folder(entry) and not _is_hidden(entry))


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name in SYSTEMS


def _files(folder: str | Path, split: Split, until: float, seen: dict[tuple[int, int], str]) -> list[tuple[str, str]]:
    """Images below a folder, as (folder, name); ``seen`` are the folders on the way here, against links in a circle."""
    found, entries, status = [], _entries(folder), os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in seen:
        split.odd["link to a folder around it, left out"].append(str(folder))
        return []
    for entry in entries:
        if _is_hidden(entry):
            _keep(split, entry, HIDDEN)
        elif _is_folder(entry):
            found += _files(entry.path, split, until, {**seen, identity: str(folder)})
        elif not entry.name.lower().endswith(endings()):
            _keep(split, entry, "another ending, left out")
        elif _is_file(entry, split, until):
            found.append((str(folder), entry.name))
    return found


def _keep(split: Split, entry: os.DirEntry[str], what: str) -> None:
    split.odd[what].append(entry.path)


def _is_file(entry: os.DirEntry[str], split: Split, until: float) -> bool:
    """Notes what is wrong with a file; False: it is none, and opening it could take for ever."""
    # Behind a link may be anything: it is asked for with the size.
    if not entry.is_symlink() and not entry.is_file():
        _keep(split, entry, "no file, left out")
        return False
    if time.monotonic() > until:
        split.unseen += 1
        return True
    try:
        status = entry.stat()
    except OSError:
        _keep(split, entry, DANGLING)
        return True
    if not stat.S_ISREG(status.st_mode):
        _keep(split, entry, "no file, left out")
        return False
    if not status.st_size:
        _keep(split, entry, NO_BYTES)
    elif not status.st_mode & 0o444 and os.geteuid():
        _keep(split, entry, FORBIDDEN)
    return True


def _compare(folder: Path, found: list[str], expected: list[str]) -> None:
    """Raises ConvzooError where the class folders are not those of ``train``."""
    if found == expected:
        return
    missing, more = (sorted(set(a) - set(b)) for a, b in ((expected, found), (found, expected)))
    text = f"{shown(folder)} and {shown(folder.parent / 'train')} have different classes."
    for what, names in (("Missing", missing), ("Not in train", more)):
        if names:
            text += f" {what}: {', '.join(map(shown, names[:10]))}{f' and {len(names) - 10} more' * (len(names) > 10)}."
    if {unicodedata.normalize("NFC", n) for n in missing} == {unicodedata.normalize("NFC", n) for n in more}:
        text += " They look the same and are other bytes: accented letters in another Unicode form."
    raise ConvzooError(f"{text} Each split needs a folder for each class of train; it may be empty, except in train.")


def _judge(split: Split) -> None:
    """Raises ConvzooError where there is nothing to learn from; notes classes that are empty or nearly so."""
    folder, counts = split.folder, split.counts()
    if not split.images:
        raise ConvzooError(f"{shown(folder)} has no image in its class folders. Endings of images: {endings_text()}.")
    empty = [str(folder / name) for name, n in zip(split.classes, counts, strict=True) if n == 0]
    if empty and split.name == "train":
        names = ", ".join(shown(os.path.basename(path)) for path in empty[:10])
        raise ConvzooError(
            f"{len(empty)} classes of {shown(folder)} have no image: {names}{', …' * (len(empty) > 10)}. Remove the "
            f"folders, in the other splits too, or fill them. Endings of images: {endings_text()}."
        )
    if empty:
        split.odd["class without an image"] += empty
    single = [str(folder / name) for name, n in zip(split.classes, counts, strict=True) if n == 1]
    if single and split.name == "train":
        split.odd["class with one image"] += single
