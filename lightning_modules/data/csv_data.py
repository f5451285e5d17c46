"""Data module of a table that lists image files with their labels."""

from __future__ import annotations

import zlib
from pathlib import Path

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.classes import class_order
from lightning_modules.data.csv_table import Row, read_table, split_of
from lightning_modules.data.file_data import FileData, with_val_share
from lightning_modules.data.registry import dataset
from lightning_modules.data.split import SPLITS, Split
from lightning_modules.data.subset import hold_out

USUAL_SHARE = 0.1
"""Share of the images that is held out for a split which the table does not name."""


def classes_of(rows: list[Row]) -> list[str]:
    """Return the names of the classes, sorted; by number if all are whole numbers."""
    found = sorted({row.label for row in rows})
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found


def table_splits(
    rows: list[Row], folder: Path, classes: list[str], val_share: float | None, test_share: float | None
) -> list[Split]:
    """Return the splits of a table: train, val, and test if there is one.

    Without a column ``split``, test is held out first, then val. With one, only val is held out: if the table has none,
    or if a share is given.

    Args:
        rows: The table.
        folder: What its paths are relative to.
        classes: Names of the classes, in the order of their labels.
        val_share, test_share: Shares to hold out; None: the usual one, where it is needed.

    Raises:
        ConvzooError: There are too few images.
    """
    whole = split_of(rows, folder, classes, None)
    if whole is not None:
        kept, tested = hold_out([label for _, label in whole.images], test_share or USUAL_SHARE)
        found = [whole.at(kept), whole.at(tested, "test")]
    else:
        named = (split_of(rows, folder, classes, name) for name in SPLITS)
        found = [split for split in named if split is not None]
    needed = not any(split.name == "val" for split in found)
    return with_val_share(found, val_share or (USUAL_SHARE if needed else None))


@dataset("csv", needs_root=False)
class CsvData(FileData):
    """Data module of the image files that a table lists.

    Raises:
        ConvzooError: The table is wrong, or does not match the configuration.
    """

    def __init__(self, options: DataOptions, seed: int = 0) -> None:
        self._rows, self._folder = read_table(options.file, options.root)
        classes = class_order(options.classes, classes_of(self._rows), options.file)
        super().__init__(options, seed, classes, options.file)

    @property
    def fingerprint(self) -> str:
        labels = bytes(str([label for _, label in self._split("train").images]), "ascii")
        return f"{super().fingerprint}, labels {zlib.crc32(labels):08x}"

    def _read(self) -> list[Split]:
        options = self.options
        return table_splits(self._rows, self._folder, self.classes, options.val_share, options.test_share)
