"""The size of an image, which travels in place of a number: squares and rectangles alike. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from zoo.errors import ConvzooError

Size = int | str | Sequence[int]
"""How an image size may be given: the side of a square, (height, width), or ``96x128`` for height × width."""


class ImageSize(NamedTuple):
    """Height and width of an image in pixels. A tuple, so it compares and unpacks like one."""

    height: int
    width: int

    @classmethod
    def of(cls, value: Size, key: str = "image_size") -> ImageSize:
        """Returns the size that a value stands for.

        Args:
            value: The side of a square, (height, width), or a text such as ``96x128``.
            key: What messages call it.

        Raises:
            ConvzooError: The value is no size of whole pixels.
        """
        if isinstance(value, str):
            found = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", value.strip(), re.ASCII)
            sides: tuple[object, ...] = tuple(map(int, found.groups())) if found else ()
        else:
            sides = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
        whole = [side for side in sides if type(side) is int and side > 0]
        if len(sides) != 2 or whole != list(sides):
            raise ConvzooError(f"{key}={value} is not an image size. Type 224, or 192x256 for height × width.")
        return cls(*whole)

    @classmethod
    def parse(cls, text: str, option: str = "--image-size") -> ImageSize:
        """Returns the size that a text of a command line stands for: ``224`` or ``192x256``.

        Raises:
            ConvzooError: Any other text.
        """
        return cls.of(int(text) if re.fullmatch(r"[1-9]\d{0,4}", text.strip(), re.ASCII) else text, option)

    @property
    def shorter(self) -> int:
        """The shorter side."""
        return min(self)

    @property
    def longer(self) -> int:
        """The longer side."""
        return max(self)

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    def scaled(self, factor: float) -> ImageSize:
        """Returns the size with both sides multiplied, each rounded to the nearest integer."""
        return ImageSize(*(round(side * factor) for side in self))

    @property
    def plain(self) -> int | list[int]:
        """As the configuration and checkpoints hold it: the side of a square, or [height, width]."""
        return self.height if self.height == self.width else list(self)

    @property
    def column(self) -> int | str:
        """As a single value, for tables and result.json: the side of a square, or ``96x128``."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    def __str__(self) -> str:
        return str(self.column)
