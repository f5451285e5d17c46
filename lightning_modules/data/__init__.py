"""Data sets as Lightning data modules: `ImageData` for those that fit in memory, `FileData` for image files."""

from lightning_modules.data import builtin  # registers the built-in data sets
from lightning_modules.data.base import Data
from lightning_modules.data.csv_data import CsvData
from lightning_modules.data.folder_data import FolderData
from lightning_modules.data.memory import ImageData, Images, Splits
from lightning_modules.data.registry import DATASETS, dataset, make_data
from lightning_modules.data.timm_data import TimmData

__all__ = [
    "DATASETS",
    "CsvData",
    "Data",
    "FolderData",
    "ImageData",
    "Images",
    "Splits",
    "TimmData",
    "builtin",
    "dataset",
    "make_data",
]
