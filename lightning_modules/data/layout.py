"""Scan image folders in ImageNet's layout (SPLIT/CLASS/image), and report oddities without opening any file."""

from __future__ import annotations

import os
import stat
import time
import unicodedata
from collections.abc import Iterator, Set
from pathlib import Path

from lightning_modules.data.files import shown
from lightning_modules.data.image_formats import endings, endings_text
from lightning_modules.data.split import DANGLING, FORBIDDEN, HIDDEN, NO_BYTES, NO_FILE, UNSEEN, Split
from zoo.errors import ConvzooError

LAYOUT = "ROOT/train/CLASS/image.jpg and ROOT/val/CLASS/image.jpg"
SYSTEMS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that archivers, file servers and file systems create; ignored like hidden ones."""
SIZES_S = 1.0
"""Maximum time in seconds for querying a split's file sizes: a million files on a network file system take minutes."""


def class_names(root: str) -> list[str]:
    """Return the names of the class folders in ``root/train``.

    Raises:
        ConvzooError: ``root`` does not have the expected layout.
    """
    train = _folder(root, "train")
    names = _class_folders(train) if train.is_dir() else []
    if not names:
        raise ConvzooError(f"{shown(train)} has no class folders. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    return names


def split_names(root: str, val: bool = True) -> list[str]:
    """Return the names of the splits: ``train``, ``val``, and ``test`` if that folder exists.

    Args:
        root: The folder.
        val: Whether ``val`` is needed; otherwise it is a split if that folder exists.
    """
    return ["train", *(name for name in ("val", "test") if (val and name == "val") or _folder(root, name).is_dir())]


def scan(root: str, name: str, classes: list[str] | None = None) -> Split:
    """List the images of a split, in all folders below its class folders.

    Args:
        root: The folder of all splits.
        name: ``train``, ``val`` or ``test``.
        classes: Names of the class folders, in the order of their labels; None: those of ``train``, sorted.

    Skipped, and reported in ``odd``, are: hidden files and folders (including `SYSTEMS`), extensions that Pillow cannot
    decode, anything that is not a regular file, and images beside the class folders.

    Raises:
        ConvzooError: The split is missing or has no images, its classes are not those of ``train``, or a class of
            ``train`` has no image.
    """
    folder = _folder(root, name)
    if not folder.is_dir():
        raise ConvzooError(f"{shown(folder)} is missing. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    split = Split(folder, classes or class_names(root))
    if name != "train":
        _compare(folder, _class_folders(folder), split.classes)
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if _is_hidden(entry):
            split.odd[HIDDEN].append(entry.path)
        elif not _is_folder(entry):
            split.odd["outside of a class folder, skipped"].append(entry.path)
    until = time.monotonic() + SIZES_S
    for label, kind in enumerate(split.classes):
        # Sort by folder, then by name, like ImageFolder; sorting by path gives another order.
        found = sorted(_files(folder / kind, split, until, set()))
        split.images += [(f"{place}{os.sep}{name}", label) for place, name in found]
    _check_counts(split)
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


def _files(folder: str | Path, split: Split, until: float, parents: Set[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Yield the images below a folder as (folder, name); ``parents`` identifies its parents, to find circular links."""
    status = os.stat(folder)
    identity = status.st_dev, status.st_ino
    if identity in parents:
        split.odd["link to a folder around it, skipped"].append(str(folder))
        return
    for entry in _entries(folder):
        if _is_hidden(entry):
            split.odd[HIDDEN].append(entry.path)
        elif _is_folder(entry):
            yield from _files(entry.path, split, until, {*parents, identity})
        elif not entry.name.lower().endswith(endings()):
            split.odd["another extension, skipped"].append(entry.path)
        else:
            what = _oddity(entry, until)
            if what == UNSEEN:
                split.unseen += 1
            elif what:
                split.odd[what].append(entry.path)
            if what != NO_FILE:
                yield str(folder), entry.name


def _oddity(entry: os.DirEntry[str], until: float) -> str | None:
    """Return what is wrong with a file, as far as its metadata show; `UNSEEN` after the time ``until``."""
    # A link may point to anything; its target is checked together with the size.
    if not entry.is_symlink() and not entry.is_file():
        return NO_FILE
    if time.monotonic() > until:
        return UNSEEN
    try:
        status = entry.stat()
    except OSError:
        return DANGLING
    return status_oddity(status)


def status_oddity(status: os.stat_result) -> str | None:
    """Return what is wrong with a file, by its status."""
    if not stat.S_ISREG(status.st_mode):
        return NO_FILE
    if not status.st_size:
        return NO_BYTES
    return FORBIDDEN if not status.st_mode & 0o444 and os.geteuid() else None


def _compare(folder: Path, found: list[str], expected: list[str]) -> None:
    """Raise ConvzooError if the class folders are not those of ``train``."""
    missing, more = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if not (missing or more):
        return
    text = f"{shown(folder)} and {shown(folder.parent / 'train')} have different classes."
    for what, names in (("Missing", missing), ("Not in train", more)):
        if names:
            text += f" {what}: {_first(names)}."
    if {unicodedata.normalize("NFC", n) for n in missing} == {unicodedata.normalize("NFC", n) for n in more}:
        text += " They look the same, but their accented letters are in different Unicode forms (NFC, NFD)."
    raise ConvzooError(f"{text} Each split needs a folder for each class of train; it may be empty, except in train.")


def _check_counts(split: Split) -> None:
    """Raise ConvzooError if the split, or a class of ``train``, has no image; record classes with one image or none."""
    folder, train = split.folder, split.name == "train"
    if not split.images:
        raise ConvzooError(f"{shown(folder)} has no images in its class folders. Images are files {endings_text()}.")
    empty, single = (
        [kind for kind, n in zip(split.classes, split.counts(), strict=True) if n == number] for number in (0, 1)
    )
    if empty and train:
        raise ConvzooError(
            f"{len(empty)} classes of {shown(folder)} have no images: {_first(empty)}. Remove these folders, from the "
            f"other splits too, or fill them. Images are files {endings_text()}."
        )
    for what, kinds in (("class without an image", empty), ("class with one image", single if train else [])):
        if kinds:
            split.odd[what] += [str(folder / kind) for kind in kinds]


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(shown, names[:10])) + more
