"""Where the pixels of an image on its way lie in the image as it was sent, so that answers can be told in its terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Tensor = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An image's size, and how to get from its pixels to those that were sent: `sent = start + scale * own`."""

    sent_width: float
    sent_height: float
    width: float
    height: float
    left: float = 0.0
    """Where its left edge lies in the image that was sent, in pixels of that."""
    top: float = 0.0
    scale_x: float = 1.0
    """Pixels of the image that was sent for each of its own."""
    scale_y: float = 1.0

    @staticmethod
    def of(width: int, height: int) -> Frame:
        """Return the frame of an image as it was sent."""
        return Frame(sent_width=width, sent_height=height, width=width, height=height)

    def cropped(self, left: float, top: float, width: float, height: float) -> Frame:
        """Return the frame of a part; one that reaches beyond the image has bars there."""
        return replace(
            self,
            left=self.left + left * self.scale_x,
            top=self.top + top * self.scale_y,
            width=width,
            height=height,
        )

    def resized(self, width: float, height: float) -> Frame:
        """Return the frame of the whole in another size."""
        return replace(
            self,
            scale_x=self.scale_x * self.width / width,
            scale_y=self.scale_y * self.height / height,
            width=width,
            height=height,
        )

    def to_sent(self, boxes: Tensor, *, normalised: bool) -> Tensor:
        """Turn boxes `(N, 4)` (left, top, right, bottom) of this image into pixels of the one that was sent, or shares.

        What reaches beyond the image is cut off.
        """
        starts = np.array([self.left, self.top, self.left, self.top])
        scales = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        sides = np.array([self.sent_width, self.sent_height, self.sent_width, self.sent_height])
        sent: Tensor = np.clip(starts + boxes * scales, 0.0, sides)
        return sent / sides if normalised else sent

    def visible(self, rows: int, columns: int) -> tuple[slice, slice]:
        """Return which rows and columns of a mask over this image show the image that was sent, and no bars."""
        down = _shown(self.top, self.scale_y, self.sent_height, self.height, rows)
        across = _shown(self.left, self.scale_x, self.sent_width, self.width, columns)
        return down, across


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image `(H, W, C) uint8`, with where it lies in the one that was sent."""

    pixels: Tensor
    frame: Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An image as the decoder left it, RGB or grey, on its way to steps that take it so: no array is made of it."""

    image: Image.Image
    frame: Frame


def _shown(start: float, scale: float, sent: float, own: float, cells: int) -> slice:
    first, last = -start / scale, (sent - start) / scale
    begin = min(max(round(first / own * cells), 0), cells - 1)
    return slice(begin, min(max(round(last / own * cells), begin + 1), cells))
