"""Data module of image folders: the folder's name is the class."""

from __future__ import annotations

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.classes import class_order
from lightning_modules.data.file_data import FileData, with_val_share
from lightning_modules.data.layout import class_names, scan, split_names
from lightning_modules.data.registry import dataset
from lightning_modules.data.split import Split


@dataset("imagefolder")
class FolderData(FileData):
    """Data module of image files in class folders.

    Raises:
        ConvzooError: The folder does not match the configuration.
    """

    def __init__(self, options: DataOptions, seed: int = 0) -> None:
        where = f"{options.root}/train"
        super().__init__(options, seed, class_order(options.classes, class_names(options.root), where), where)

    def _read(self) -> list[Split]:
        root, share = self.options.root, self.options.val_share
        names = split_names(root, val=share is None)
        return with_val_share([scan(root, name, self.classes) for name in names], share)
