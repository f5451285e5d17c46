"""Read a table of image files: columns ``file``, ``label`` and perhaps ``split``; report what is wrong with it."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lightning_modules.data.files import shown
from lightning_modules.data.layout import SIZES_S, status_oddity
from lightning_modules.data.split import DANGLING, MISSING, NO_FILE, SPLITS, Split
from zoo.errors import ConvzooError

MOST = 5
"""Maximum number of wrong lines listed in a message."""


class Row(NamedTuple):
    """A line of the table; ``split`` is None if the table has no such column."""

    line: int
    file: str
    label: str
    split: str | None


def read_table(file: str, root: str | None) -> tuple[list[Row], Path]:
    """Return the lines of a table, and the folder that its paths are relative to: ``root``, or else the table's.

    Raises:
        ConvzooError: The table cannot be read, lacks a column or has wrong lines; the text names them.
    """
    path = Path(os.path.expanduser(file))
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [_row(reader.line_num, values, "split" in columns) for values in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
        raise ConvzooError(f"data.file={shown(path)} cannot be read: {reason}. Type data.file=TABLE.csv.") from None
    if missing := [name for name in ("file", "label") if name not in columns]:
        raise ConvzooError(
            f"{shown(path)} has no column {' and no column '.join(missing)}. Its first line must be file,label or "
            f"file,label,split; it is {shown(','.join(columns)) or 'empty'}."
        )
    if not rows:
        raise ConvzooError(f"{shown(path)} lists no images.")
    if wrong := list(_wrong(rows)):
        more = f"\n  … and {len(wrong) - MOST:,} more" if wrong[MOST:] else ""
        raise ConvzooError(f"{shown(path)} has {len(wrong):,} wrong lines:\n" + "\n".join(wrong[:MOST]) + more)
    if not any(row.split in (None, "train") for row in rows):
        raise ConvzooError(f"{shown(path)} has no line whose split is train.")
    return rows, path.parent if root is None else Path(os.path.expanduser(root))


def _row(line: int, values: dict[str, str | None], has_split: bool) -> Row:
    file, label, split = ((values.get(name) or "").strip() for name in ("file", "label", "split"))
    return Row(line, file, label, split if has_split else None)


def _wrong(rows: list[Row]) -> Iterator[str]:
    first: dict[str, Row] = {}
    for row in rows:
        if not row.file or not row.label:
            yield f"  line {row.line}: no {'label' if row.file else 'file'}"
        elif row.split is not None and row.split not in SPLITS:
            yield f"  line {row.line}: split {shown(row.split) or 'is empty'}. Allowed: {', '.join(SPLITS)}"
        elif (other := first.setdefault(os.path.normpath(row.file), row)) is not row:
            label = "" if other.label == row.label else f", as {shown(other.label)}"
            yield f"  line {row.line}: {shown(row.file)} is in line {other.line} already{label}"


def split_of(rows: list[Row], folder: Path, classes: list[str], name: str | None) -> Split | None:
    """Return the lines of a split, and which of its files are missing or odd; None if there are none.

    Args:
        rows: The table.
        folder: What its paths are relative to.
        classes: Names of the classes, in the order of their labels.
        name: ``train``, ``val`` or ``test``; None: the lines without a split.
    """
    labels = {kind: label for label, kind in enumerate(classes)}
    images = [(os.path.join(folder, row.file), labels[row.label]) for row in rows if row.split == name]
    if not images:
        return None
    split, until = Split(folder, classes, images, name=name or "train"), time.monotonic() + SIZES_S
    for path, _ in images:
        if time.monotonic() > until:
            split.unseen += 1
        elif what := _oddity(path):
            split.odd[what].append(path)
    return split


def _oddity(path: str) -> str | None:
    try:
        found = status_oddity(os.stat(path))
    except OSError:
        return DANGLING if os.path.islink(path) else MISSING
    return MISSING if found == NO_FILE else found
