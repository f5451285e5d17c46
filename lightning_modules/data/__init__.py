"""Data sets as Lightning data modules: `ImageData` for those that fit in memory, `FolderData` for image folders."""

from lightning_modules.data.modules import FolderData, ImageData, make_data

__all__ = ["FolderData", "ImageData", "make_data"]
