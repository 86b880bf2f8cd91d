"""What controller, converters and devices agree on about deltas, beside the format itself (`shared.runtime.delta`).

A delta tells one artifact as its difference from another that a device holds. It is a file of the repository like any
other, so that its length and digest are signed; nobody needs it, since the artifact itself is always there as well.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from shared.ids import Sha256

MAX_SHARE = 0.6
"""Of the artifact's length: above it, what a device saves does not pay for the memory and time of putting together."""


class DeltaEncoding(StrEnum):
    """How the difference is told; both are compressed with zstd."""

    SUBTRACT = "subtract"
    """Byte by byte against the counterpart in the old file: training further moves most weights by a little."""
    PATCH = "patch"
    """Piece by piece, each with a region of the old file as its dictionary: for what moved about, and stayed equal."""


class DeltaOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What `python -m converters.delta` says on stdout."""

    encoding: DeltaEncoding | None = None
    """None: no delta is small enough to be worth it, and none was written."""
    length_bytes: int = 0
    """Of the smallest one found, written or not."""


def delta_path(old: Sha256, new: Sha256) -> str:
    """Return the repository path of the delta that makes the artifact `new` of the artifact `old`."""
    return f"deltas/{old}-{new}.delta"
