"""The delta format, and putting a file together from an older one and a delta: streamed, bounded, trusting nothing.

    header     96 bytes: magic, format version, encoding, length and sha256 of the old and of the new file
    subtract   one zstd frame: runs, each 12 bytes (where in the old file its counterpart begins, or that there is none;
               how many bytes it makes) and as many differences, (new - old) mod 256
    patch      segments, each 20 bytes (where in the old file its dictionary lies and how long it is; how many bytes it
               makes; how many follow) and one zstd frame that was compressed with that dictionary

All numbers are little-endian and unsigned. Of the old file only the region of one segment is held in memory, of the new
one only a zstd window, whatever the sizes of the files. A reader never allocates what a header claims: windows and
dictionaries have ceilings of their own, and not a byte more is decompressed than the new file has.
Source of the frames: RFC 8878.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from shared.delta import DeltaEncoding
from shared.errors import DeltaError
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"LFDELTA\n"
FORMAT_VERSION = 1
PIECE_BYTES = 64 * 1024
"""Read, added and handed on at a time."""
WINDOW_LOG = 23
"""8 MiB: covers a whole artifact of the usual size, and with the dictionary stays far below what a device can spare."""
MAX_DICTIONARY_BYTES = 8 * 1024 * 1024
MAX_SEGMENT_BYTES = 4 * 1024 * 1024
"""Made by one segment. Smaller than the window, or the far end of the dictionary would slide out of reach."""
HEADER = struct.Struct("<8sBB6xQQ32s32s")
SEGMENT = struct.Struct("<QIII")
RUN = struct.Struct("<QI")
LITERAL = 2**64 - 1
"""In place of where a run's counterpart begins: it has none, and its bytes stand for themselves."""
MAX_RUN_BYTES = 2**32 - 1
ENCODINGS = {1: DeltaEncoding.SUBTRACT, 2: DeltaEncoding.PATCH}
"""By the number that stands in the header; numbers are never reused."""

_HIGH_BITS = int.from_bytes(b"\x80" * PIECE_BYTES, "little")
_LOW_BITS = int.from_bytes(b"\x7f" * PIECE_BYTES, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaHeader:
    """Which file a delta makes of which other one."""

    encoding: DeltaEncoding
    old_bytes: int
    new_bytes: int
    old_sha256: Sha256
    new_sha256: Sha256


def read_header(delta: BinaryIO) -> DeltaHeader:
    """Read the header of a delta, and leave the file where the body begins. Raises DeltaError."""
    text = delta.read(HEADER.size)
    if len(text) < HEADER.size:
        raise DeltaError("it ends inside its header")
    magic, version, number, old_bytes, new_bytes, old_sha256, new_sha256 = HEADER.unpack(text)
    if magic != MAGIC:
        raise DeltaError("it is no delta")
    encoding = ENCODINGS.get(number)
    if version != FORMAT_VERSION or encoding is None:
        raise DeltaError(f"its format {version}, encoding {number}, is newer than this program")
    return DeltaHeader(
        encoding=encoding,
        old_bytes=old_bytes,
        new_bytes=new_bytes,
        old_sha256=Sha256(old_sha256.hex()),
        new_sha256=Sha256(new_sha256.hex()),
    )


def write_header(header: DeltaHeader) -> bytes:
    """Return the header's bytes."""
    number = next(number for number, encoding in ENCODINGS.items() if encoding is header.encoding)
    digests = bytes.fromhex(header.old_sha256), bytes.fromhex(header.new_sha256)
    return HEADER.pack(MAGIC, FORMAT_VERSION, number, header.old_bytes, header.new_bytes, *digests)


def rebuild(header: DeltaHeader, delta: BinaryIO, old: BinaryIO) -> Iterator[bytes]:
    """Make the new file, piece by piece, of a delta whose header was just read and the old file.

    The pieces have together exactly the length that the header names. Whether they are the right ones is the caller's
    to check, against a digest that somebody signed.

    Raises:
        DeltaError: the delta, or the old file, is not what the header says.
    """
    try:
        if header.encoding is DeltaEncoding.SUBTRACT:
            yield from _added(delta, old, header)
        else:
            yield from _patched(delta, old, header)
    except zstandard.ZstdError as exc:
        raise DeltaError(f"its zstd data cannot be read: {exc}") from exc


def add(old: bytes, difference: bytes) -> bytes:
    """Return the sums mod 256 of two pieces of one length, at most PIECE_BYTES, byte by byte.

    Whole pieces as one number each, so that a device needs no numpy for it: the low seven bits of all bytes are added
    at once, which carries into no neighbour, and the high bits without carry.
    """
    size = len(old)
    high, low = _masks(size)
    a, b = int.from_bytes(old, "little"), int.from_bytes(difference, "little")
    return (((a & low) + (b & low)) ^ ((a ^ b) & high)).to_bytes(size, "little")


def _masks(size: int) -> tuple[int, int]:
    spare_bits = 8 * (PIECE_BYTES - size)
    return _HIGH_BITS >> spare_bits, _LOW_BITS >> spare_bits


def _added(delta: BinaryIO, old: BinaryIO, header: DeltaHeader) -> Iterator[bytes]:
    frame = _Frame(delta)
    missing = header.new_bytes
    while missing:
        start, length = RUN.unpack(frame.exactly(RUN.size))
        if not 0 < length <= missing:
            raise DeltaError(f"a run claims {length} bytes where {missing} are missing")
        if start == LITERAL:
            yield from frame.pieces(length)
        elif start + length > header.old_bytes:
            raise DeltaError(f"a run claims {length} bytes at {start} of {header.old_bytes}")
        else:
            old.seek(start)
            for difference in frame.pieces(length):
                yield add(_exactly(old, len(difference)), difference)
        missing -= length


def _patched(delta: BinaryIO, old: BinaryIO, header: DeltaHeader) -> Iterator[bytes]:
    missing = header.new_bytes
    while missing:
        text = delta.read(SEGMENT.size)
        if len(text) < SEGMENT.size:
            raise DeltaError(f"it ends {missing} bytes before the new file does")
        start, length, makes, follows = SEGMENT.unpack(text)
        if not 0 < makes <= min(missing, MAX_SEGMENT_BYTES):
            raise DeltaError(f"a segment claims to make {makes} bytes where {missing} are missing")
        if length > MAX_DICTIONARY_BYTES or start + length > header.old_bytes:
            raise DeltaError(f"a segment claims a dictionary of {length} bytes at {start} of {header.old_bytes}")
        begin = delta.tell()
        yield from _Frame(delta, _region(old, start, length)).pieces(makes)
        # zstd was handed whole pieces, which reach into the next segment.
        delta.seek(begin + follows)
        missing -= makes


def _region(old: BinaryIO, start: int, length: int) -> zstandard.ZstdCompressionDict | None:
    if length == 0:
        return None
    old.seek(start)
    return zstandard.ZstdCompressionDict(_exactly(old, length), dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _exactly(old: BinaryIO, size: int) -> bytes:
    read = old.read(size)
    if len(read) != size:
        raise DeltaError("the old file is shorter than the delta says")
    return read


class _Frame:
    """One zstd frame, read in pieces: nobody may ask it for all that it claims to hold."""

    def __init__(self, delta: BinaryIO, dictionary: zstandard.ZstdCompressionDict | None = None) -> None:
        # A frame that asks for a larger window is refused before any of it is allocated.
        reader = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << WINDOW_LOG)
        self._stream = reader.stream_reader(delta, read_size=PIECE_BYTES, closefd=False)

    def pieces(self, size: int) -> Iterator[bytes]:
        """Return the next `size` bytes, in pieces."""
        missing = size
        while missing:
            # Asked for by its size: some bytes of a bomb would else become gigabytes in one call.
            piece = self._stream.read(min(missing, PIECE_BYTES))
            if not piece:
                raise DeltaError(f"its zstd data end {missing} bytes too early")
            missing -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        """Return the next `size` bytes, a few, at once."""
        return b"".join(self.pieces(size))
