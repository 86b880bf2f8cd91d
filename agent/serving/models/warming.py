"""Running recorded requests through a release before it answers, so that its first caller waits no longer than others.

The first run of an interpreter packs its weights and touches its memory, the first image loads the decoder, the first
batch of a size has buffers to make. The recorded requests are the golden cases of the manifest. This is no gate: the
trial was, and a release that cannot run what was recorded will say so to its callers.
"""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from agent.serving.models.batching import Batcher
    from agent.serving.models.lane import Lane
    from agent.serving.requests import Request

    Tensor = NDArray[Any]
    Recorded = Sequence[Tensor]
    """A golden case's inputs: the model's own, in its order."""

WARM_S: Final = 0.1
"""Most that is spent on a batcher beyond the first run of each lane; a slow model is warm after one."""

_IMAGE_SIZE: Final = 64


def warm(batcher: Batcher, recorded: Sequence[Recorded]) -> None:
    """Run what was recorded through every interpreter of a batcher, in batches of the size that each is for."""
    ends_s = time.monotonic() + WARM_S
    for size, lane in batcher.lanes.items():
        for number, request in enumerate(_requests(lane, recorded, size)):
            # The image comes first, where there is one, and the tensors' way through the pipeline is another.
            if number > lane.takes_images and time.monotonic() > ends_s:
                break
            with contextlib.suppress(PipelineError):
                lane.run(request)


def _requests(lane: Lane, recorded: Sequence[Recorded], size: int) -> Iterator[Request]:
    if lane.takes_images and size == 1:
        yield ClassifyRequest(encoded=_image())
    for case in recorded:
        inputs = zip(lane.inputs, case, strict=False)
        yield InferRequest(
            inputs=tuple(
                NamedTensor(name=spec.name, array=_rows(_as_sent(array, spec.dtype), size)) for spec, array in inputs
            )
        )


def _as_sent(array: Tensor, dtype: str) -> Tensor:
    """Return a tensor as callers send it: a pipeline may take other numbers than its model, of the same shape."""
    # Zero is in range of whatever they stand for.
    return array if array.dtype.name == dtype else np.zeros(array.shape, dtype)


def _rows(array: Tensor, size: int) -> Tensor:
    return np.concatenate([array[:1]] * size) if size > 1 and array.ndim else array


def _image() -> bytes:
    """Return a grey PNG of no content, which every image pipeline takes."""
    header = struct.pack(">IIBBBBB", _IMAGE_SIZE, _IMAGE_SIZE, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * _IMAGE_SIZE) * _IMAGE_SIZE)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
