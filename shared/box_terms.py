"""The words in which a detector's boxes are declared: what its numbers mean, and in which order they come."""

from __future__ import annotations

from enum import StrEnum


class BoxFormat(StrEnum):
    """How a detector says where something is."""

    YOLO = "yolo"
    """One tensor `(N, 4 + classes)`, or `(N, 5 + classes)` with an objectness between; centre x, y, width, height."""
    SSD = "ssd"
    """Two tensors: offsets from anchors `(N, 4)`, and scores `(N, classes)`."""
    CORNERS = "corners"
    """Boxes `(N, 4)` and scores `(N, classes)`; or boxes, classes `(N,)`, scores `(N,)` and perhaps their count."""


class CornerOrder(StrEnum):
    """In which order a box's corners come."""

    XYXY = "xyxy"
    YXYX = "yxyx"
    """As TensorFlow has it: top, left, bottom, right."""


class BoxSizes(StrEnum):
    """How a detector with anchors says how large something is."""

    EXPONENTIAL = "exponential"
    """`anchor * e^x`: SSD, RetinaNet, EfficientDet."""
    LINEAR = "linear"
    """`anchor * x`: BlazeFace, of which all anchors have the size of the image."""


class BoxUnits(StrEnum):
    """What a box's numbers are multiples of."""

    NORMALISED = "normalised"
    """Of the width and height: 0..1."""
    PIXELS = "pixels"
