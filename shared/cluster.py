"""What a controller and a worker machine say to each other over a cluster, whichever engine that is.

A conversion is one call of `convert` on some machine. It says what it lacks, is given that in pieces, says how far it
is, and offers what it made until the controller has taken it and wants it no longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from shared.conversion import ConversionProgress, ConversionRequest
from shared.conversion_process import ConvertLimits
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPIC = "litefleet-conversions"
"""Where worker machines say things; everybody hears all of it, and minds what bears its own key."""
RESOURCE = "conversion"
"""What a worker machine has one of for each slot, and a conversion takes."""
PIECE_BYTES = 16 * 1024 * 1024
"""Of a file on its way. A scheduler between both holds a piece or two of each conversion in memory."""
RESULT_FILE = "result.json"
"""The ConversionResult among the files that are offered; its paths are names of others among them."""


class NamedContent(msgspec.Struct, frozen=True, kw_only=True):
    """A file by what it holds."""

    sha256: Sha256
    length_bytes: int


class RemoteOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion, as a worker machine is given it."""

    key: str
    request: ConversionRequest
    """Its paths are empty."""
    limits: ConvertLimits
    source: NamedContent
    source_name: str
    document: bytes
    """The dataset's."""
    shards: tuple[NamedContent, ...]


class OfferedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a conversion made."""

    name: str
    length_bytes: int


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """A machine took the order up, and waits for what it lacks."""

    missing: tuple[Sha256, ...]


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The conversion program ended, and this is what can be had of it."""

    files: tuple[OfferedFile, ...]


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a worker machine says of one order."""

    key: str
    attempt: str
    """Drawn anew each time that a machine takes the order up."""
    worker: str
    """Its address in the cluster."""
    host: str
    what: Began | ConversionProgress | Ended


class Workplace(Protocol):
    """The worker machine's side."""

    async def convert(self, order: RemoteOrder) -> None:
        """Carry an order out and offer what it made, until nobody wants it any longer."""
        ...

    async def put(self, attempt: str, sha256: Sha256, offset_bytes: int, piece: bytes) -> None:
        """Take the next piece of a file that is missing."""
        ...

    async def get(self, attempt: str, name: str, offset_bytes: int) -> bytes:
        """Return a piece of a file that is offered."""
        ...


class _Workplaces:
    """The one of this process, if it has any: calls from the cluster arrive at functions, not at objects."""

    def __init__(self) -> None:
        self.open: Workplace | None = None

    @property
    def the_one(self) -> Workplace:
        """Return it. Raises RuntimeError on a machine that converts nothing."""
        if self.open is None:
            raise RuntimeError("this machine converts nothing: start its worker by `litefleet converters serve`")
        return self.open


_workplaces = _Workplaces()


def open_workplace(workplace: Workplace) -> None:
    """From now on, what the cluster calls in this process is for `workplace`."""
    _workplaces.open = workplace


async def convert(order: bytes) -> None:
    """Carry out a RemoteOrder in JSON; called on a worker machine."""
    await _workplaces.the_one.convert(msgspec.json.decode(order, type=RemoteOrder))


async def put_piece(attempt: str, sha256: Sha256, offset_bytes: int, piece: bytes) -> None:
    """Take the next piece of a file that is missing; called on a worker machine."""
    await _workplaces.the_one.put(attempt, sha256, offset_bytes, piece)


async def get_piece(attempt: str, name: str, offset_bytes: int) -> bytes:
    """Return a piece of a file that is offered; called on a worker machine."""
    return await _workplaces.the_one.get(attempt, name, offset_bytes)


def are_plain(files: Sequence[OfferedFile]) -> bool:
    """Whether each name is a file beside the others and not the way to another place."""
    return all(file.name not in {"", ".", ".."} and not set(file.name) & set("/\\\0") for file in files)
