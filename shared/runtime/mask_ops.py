"""A segmenter's output as areas: which class covers which part of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import ModelFailedError, PipelineError
from shared.runtime.values import Area, Areas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.runtime.frames import Frame
    from shared.steps import Segment

    Tensor = NDArray[Any]

_MASK_AXES, _SCORES_AXES = 2, 3


def segment(output: Tensor, step: Segment, labels: Sequence[str], frame: Frame) -> Areas:
    """Return what covers which part; `frame` is that of what the model was fed, whose bars are cut off the mask.

    Raises:
        PipelineError: no scores `(H, W, classes)` and no classes `(H, W)`.
        ModelFailedError: the model answered NaN.
    """
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        raise ModelFailedError("the model answered NaN or infinity")
    if output.ndim == _SCORES_AXES and output.shape[2] > 1 and output.size:
        classes = output.argmax(axis=2)
    elif output.ndim in {_MASK_AXES, _SCORES_AXES} and output.size:
        classes = np.rint(output.reshape(output.shape[:2])).astype(np.int64)
    else:
        raise PipelineError(f"segment takes (H, W, classes) or (H, W), got {output.shape}")
    rows, columns = frame.visible(*classes.shape)
    mask = classes[rows, columns]
    # Boxes are told in the image as it was sent: from cells of the whole mask to pixels of what the model was fed.
    cell = np.array([frame.width / classes.shape[1], frame.height / classes.shape[0]] * 2)
    start = np.array([columns.start, rows.start] * 2)
    found = []
    for number, count in zip(*np.unique(mask, return_counts=True), strict=True):
        if number != step.background and count / mask.size >= step.min_share:
            covered = mask == number
            around = frame.to_sent(((_around(covered) + start) * cell)[np.newaxis], normalised=False)[0].tolist()
            label = labels[number] if 0 <= number < len(labels) else str(number)
            runs = _runs(covered) if step.runs else ()
            found.append(Area(label=label, share=float(count / mask.size), box=tuple(around), runs=runs))
    found.sort(key=lambda area: -area.share)
    return Areas(height=mask.shape[0], width=mask.shape[1], areas=tuple(found))


def _around(covered: Tensor) -> Tensor:
    """Return left, top, right, bottom around all that is covered."""
    down, across = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    return np.array([across[0], down[0], across[-1] + 1, down[-1] + 1])


def _runs(covered: Tensor) -> tuple[int, ...]:
    """Return start and length of each run, of the mask row by row as one line."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], covered.ravel(), [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    return tuple(np.stack([starts, ends - starts], axis=1).ravel().tolist())
