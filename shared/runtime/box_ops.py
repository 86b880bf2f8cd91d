"""A detector's outputs as boxes: decoded, sorted, and of those that overlap only the surest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.box_terms import BoxFormat, BoxSizes, BoxUnits, CornerOrder
from shared.errors import ModelFailedError, PipelineError
from shared.runtime.values import Box
from shared.steps import given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.runtime.frames import Frame
    from shared.steps import AnchorLayer, DetectBoxes

    Tensor = NDArray[Any]

MAX_CANDIDATES = 3000
"""Boxes over the score that are looked at, the surest first: what overlaps is found pair by pair."""
_LARGEST_POWER = 50.0
"""e to this is more than any image has pixels, and no infinity."""
_CORNERS = 4


class BoxFinder:
    """`detect_boxes` for one model, its anchors laid out once."""

    def __init__(self, step: DetectBoxes, labels: Sequence[str]) -> None:
        self._step, self._labels = step, labels
        self._anchors = lay_anchors(step.anchors) if step.format is BoxFormat.SSD else None

    def find(self, outputs: Sequence[Tensor], frame: Frame) -> tuple[Box, ...]:
        """Return the boxes in the image as it was sent, best first; `frame` is that of what the model was fed.

        Raises:
            PipelineError: outputs of other shapes than the format has.
            ModelFailedError: the model answered NaN.
        """
        step = self._step
        boxes, scores, classes = self._decoded([output.astype(np.float64) for output in outputs])
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ModelFailedError("the model answered NaN or infinity")
        chosen = np.flatnonzero(scores >= step.min_score)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MAX_CANDIDATES]
        boxes, scores, classes = boxes[chosen], scores[chosen], classes[chosen]
        if step.format is BoxFormat.SSD or step.units is BoxUnits.NORMALISED:
            boxes = boxes * np.array([frame.width, frame.height, frame.width, frame.height])
        kept = suppress(boxes, classes if step.per_class else np.zeros_like(classes), step.max_overlap, step.count)
        sent = frame.to_sent(boxes[kept], normalised=step.answer is BoxUnits.NORMALISED)
        return tuple(
            Box(label=self._label(int(number)), score=float(score), left=left, top=top, right=right, bottom=bottom)
            for (left, top, right, bottom), score, number in zip(
                sent.tolist(), scores[kept], classes[kept], strict=True
            )
        )

    def _decoded(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return corners (left, top, right, bottom), scores and classes (without the background), one a box."""
        step = self._step
        if step.format is BoxFormat.CORNERS and len(outputs) > 2:  # noqa: PLR2004 - boxes and scores of all classes
            return self._judged(outputs)
        if step.format is BoxFormat.YOLO:
            rows = _matrix(outputs[0], 5 + step.objectness)
            boxes, scores = _from_centres(rows[:, :_CORNERS]), rows[:, _CORNERS + step.objectness :]
            scores = scores * rows[:, _CORNERS : _CORNERS + 1] if step.objectness else scores
        else:
            boxes, scores = _matrix(outputs[0], _CORNERS), _matrix(outputs[1], 1)
            if boxes.shape[1] != _CORNERS or len(boxes) != len(scores):
                raise PipelineError(f"detect_boxes takes (N, 4) boxes and N scores, got {boxes.shape}, {scores.shape}")
            boxes = self._from_anchors(boxes) if step.format is BoxFormat.SSD else self._ordered(boxes)
        scores = scores[:, 1:] if step.background else scores
        if scores.shape[1] == 0:
            raise PipelineError("detect_boxes was given the scores of no class")
        return boxes, scores.max(axis=1), scores.argmax(axis=1)

    def _judged(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Take what a detector has decoded itself: boxes, classes, scores, and how many of them count."""
        boxes, classes, scores = _matrix(outputs[0], _CORNERS), outputs[1].ravel(), outputs[2].ravel()
        if boxes.shape[1] != _CORNERS or not len(boxes) == len(classes) == len(scores):
            shapes = ", ".join(str(output.shape) for output in outputs[:3])
            raise PipelineError(f"detect_boxes takes (N, 4) boxes, N classes and N scores, got {shapes}")
        if not np.isfinite(classes).all():
            raise ModelFailedError("the model answered NaN or infinity")
        count = len(boxes)
        if len(outputs) == 4 and outputs[3].size:  # noqa: PLR2004 - the fourth is the count
            said = float(outputs[3].ravel()[0])
            count = int(min(max(said, 0), count)) if np.isfinite(said) else 0
        numbers = classes[:count].round().astype(np.int64) - self._step.background
        real = numbers >= 0
        return self._ordered(boxes[:count])[real], scores[:count][real], numbers[real]

    def _ordered(self, boxes: Tensor) -> Tensor:
        return boxes if self._step.order is CornerOrder.XYXY else boxes[:, [1, 0, 3, 2]]

    def _from_anchors(self, offsets: Tensor) -> Tensor:
        """Source: Liu et al., SSD: Single Shot MultiBox Detector, 2.2, with TensorFlow's order of numbers."""
        anchors = self._anchors
        if anchors is None or len(offsets) != len(anchors):
            raise PipelineError(f"the model has {len(offsets)} boxes, and the pipeline {len(anchors or ())} anchors")
        # In this format the two orders are those of the axes, as they are of corners.
        ordered = offsets if self._step.order is CornerOrder.YXYX else offsets[:, [1, 0, 3, 2]]
        scaled = ordered * np.array(self._step.variances)
        heights, widths = anchors[:, 2], anchors[:, 3]
        middles_y, middles_x = anchors[:, 0] + scaled[:, 0] * heights, anchors[:, 1] + scaled[:, 1] * widths
        if given(self._step.sizes, BoxSizes.EXPONENTIAL) is BoxSizes.LINEAR:
            # Source: Bazarevsky et al., BlazeFace, and its TensorsToDetectionsCalculator in MediaPipe.
            grown = np.maximum(scaled[:, 2:], 0.0)
        else:
            grown = np.exp(np.minimum(scaled[:, 2:], _LARGEST_POWER))
        return _from_centres(np.stack([middles_x, middles_y, grown[:, 1] * widths, grown[:, 0] * heights], axis=1))

    def _label(self, number: int) -> str:
        return self._labels[number] if number < len(self._labels) else str(number)


def lay_anchors(layers: Sequence[AnchorLayer]) -> Tensor:
    """Return anchors `(N, 4)`: middle y, middle x, height, width, in shares of the image."""
    laid = []
    for layer in layers:
        rows = (np.arange(layer.rows) + 0.5) / layer.rows
        columns = (np.arange(layer.columns) + 0.5) / layer.columns
        sizes = np.array(layer.sizes)
        y, x, size = np.meshgrid(rows, columns, np.arange(len(sizes)), indexing="ij")
        laid.append(np.stack([y.ravel(), x.ravel(), sizes[size.ravel(), 0], sizes[size.ravel(), 1]], axis=1))
    return np.concatenate(laid)


def suppress(boxes: Tensor, classes: Tensor, max_overlap: float, count: int) -> list[int]:
    """Return the places of the boxes that stay, of boxes sorted by score: non-maximum suppression within a class."""
    left, top, right, bottom = boxes.T if len(boxes) else np.zeros((4, 0))
    areas = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    kept: list[int] = []
    waiting = np.arange(len(boxes))
    while len(waiting) and len(kept) < count:
        best, others = int(waiting[0]), waiting[1:]
        kept.append(best)
        across = np.minimum(right[best], right[others]) - np.maximum(left[best], left[others])
        down = np.minimum(bottom[best], bottom[others]) - np.maximum(top[best], top[others])
        both = np.maximum(across, 0) * np.maximum(down, 0)
        # Of two boxes without an area neither covers the other.
        union = np.maximum(areas[best] + areas[others] - both, np.finfo(np.float64).tiny)
        waiting = others[(both / union <= max_overlap) | (classes[others] != classes[best])]
    return kept


def _matrix(output: Tensor, least: int) -> Tensor:
    matrix = output.reshape(-1, 1) if output.ndim == 1 else output
    if matrix.ndim != 2 or matrix.shape[1] < least:  # noqa: PLR2004 - rows and columns
        raise PipelineError(f"detect_boxes takes a row of {least} numbers or more a box, got {output.shape}")
    return matrix


def _from_centres(boxes: Tensor) -> Tensor:
    halves = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - halves, boxes[:, :2] + halves], axis=1)
