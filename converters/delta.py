"""`python -m converters.delta OLD NEW INTO`: tell one artifact as its difference from another, where that is worth it.

Writes the smaller of the two encodings to INTO, proves it by putting NEW together from it again, and says on stdout
what came of it, as a `DeltaOutcome`. The same two files always give the same bytes, with one version of zstandard.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import numpy as np
import zstandard

from converters.alignment import align
from shared.delta import MAX_SHARE, DeltaEncoding, DeltaOutcome
from shared.errors import DeltaError
from shared.ids import Sha256
from shared.runtime.delta import (
    LITERAL,
    MAX_DICTIONARY_BYTES,
    MAX_RUN_BYTES,
    MAX_SEGMENT_BYTES,
    PIECE_BYTES,
    RUN,
    SEGMENT,
    WINDOW_LOG,
    DeltaHeader,
    read_header,
    rebuild,
    write_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converters.alignment import Bytes

_LEVEL = 19
"""The highest that needs no larger window; making is done once, and the fleet pays for every byte."""
_SKETCH_LEVEL = 3
"""Enough to tell which region of the old file a segment resembles."""
_ARGUMENTS = 3


def main(arguments: list[str]) -> int:
    """Make the delta that the command line asks for."""
    if len(arguments) != _ARGUMENTS:
        sys.stderr.write("usage: python -m converters.delta OLD NEW INTO\n")
        return 2
    old, new, into = (Path(argument) for argument in arguments)
    sys.stdout.buffer.write(msgspec.json.encode(make(old, new, into)) + b"\n")
    return 0


def make(old: Path, new: Path, into: Path) -> DeltaOutcome:
    """Write the smallest delta to `into`, if it is small enough to be worth it.

    Raises:
        DeltaError: it does not make the new file again, so that nothing was written.
        OSError: a file cannot be read or written.
    """
    drafts = {encoding: into.with_name(f"{into.name}.{encoding}") for encoding in DeltaEncoding}
    try:
        for encoding, draft in drafts.items():
            write(encoding, old, new, draft)
        best = min(drafts, key=lambda encoding: drafts[encoding].stat().st_size)
        length_bytes = drafts[best].stat().st_size
        if length_bytes > MAX_SHARE * new.stat().st_size:
            return DeltaOutcome(length_bytes=length_bytes)
        _prove(drafts[best], old)
        drafts[best].replace(into)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    return DeltaOutcome(encoding=best, length_bytes=length_bytes)


def write(encoding: DeltaEncoding, old: Path, new: Path, into: Path) -> None:
    """Write a delta in one encoding, whatever its size. Raises OSError."""
    header = DeltaHeader(
        encoding=encoding,
        old_bytes=old.stat().st_size,
        new_bytes=new.stat().st_size,
        old_sha256=_sha256(old),
        new_sha256=_sha256(new),
    )
    body = _differences if encoding is DeltaEncoding.SUBTRACT else _patches
    with old.open("rb") as before, new.open("rb") as after, into.open("wb") as delta:
        delta.write(write_header(header))
        for piece in body(before, after):
            delta.write(piece)


def _differences(old: BinaryIO, new: BinaryIO) -> Iterator[bytes]:
    before, after = _array(old), _array(new)
    frame = zstandard.ZstdCompressor(compression_params=_parameters(_LEVEL, len(after))).compressobj()
    begin = 0
    for run in align(before, after):
        for start in range(begin, begin + run.length, MAX_RUN_BYTES):
            length = min(MAX_RUN_BYTES, begin + run.length - start)
            place = LITERAL if run.old_start is None else run.old_start + start - begin
            yield frame.compress(RUN.pack(place, length))
            for offset in range(start, start + length, PIECE_BYTES):
                piece = after[offset : min(offset + PIECE_BYTES, start + length)]
                if run.old_start is not None:
                    piece = piece - before[run.old_start + offset - begin :][: len(piece)]
                yield frame.compress(piece.tobytes())
        begin += run.length
    yield frame.flush()


def _array(file: BinaryIO) -> Bytes:
    # An empty file cannot be mapped.
    return np.memmap(file, dtype=np.uint8, mode="r") if _size(file) else np.zeros(0, dtype=np.uint8)


def _patches(old: BinaryIO, new: BinaryIO) -> Iterator[bytes]:
    sizes = _size(old), _size(new)
    start = 0
    while segment := new.read(MAX_SEGMENT_BYTES):
        places = _places(start, len(segment), *sizes)
        # Where several regions of a large file come into question, the one with which a quick try gets smallest.
        place = min(places, key=lambda place: len(_compressed(segment, _region(old, place), _SKETCH_LEVEL)))
        region = _region(old, place)
        body = _compressed(segment, region, _LEVEL)
        yield SEGMENT.pack(place, len(region), len(segment), len(body)) + body
        start += len(segment)


def _places(start: int, size: int, old_bytes: int, new_bytes: int) -> list[int]:
    """Return where in the old file the dictionary of a segment may begin, without repetition.

    The content may be where it was, as far from the end as it was, or as far along: something was added behind it,
    before it, or everywhere.
    """
    room = (MAX_DICTIONARY_BYTES - size) // 2
    along = start * old_bytes // max(new_bytes, 1)
    wanted = (start, start + old_bytes - new_bytes, along)
    last = max(0, old_bytes - MAX_DICTIONARY_BYTES)
    return list(dict.fromkeys(min(max(0, place - room), last) for place in wanted))


def _region(old: BinaryIO, place: int) -> bytes:
    old.seek(place)
    return old.read(MAX_DICTIONARY_BYTES)


def _compressed(segment: bytes, region: bytes, level: int) -> bytes:
    known = zstandard.ZstdCompressionDict(region, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if region else None
    parameters = _parameters(level, len(segment) + len(region))
    return zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(segment)


def _parameters(level: int, reach: int) -> zstandard.ZstdCompressionParameters:
    """Return parameters whose window reaches over `reach` bytes, as far as a device allows."""
    window_log = min(max(reach.bit_length(), 10), WINDOW_LOG)
    return zstandard.ZstdCompressionParameters.from_level(
        level, source_size=reach, window_log=window_log, enable_ldm=level == _LEVEL, write_dict_id=False
    )


def _prove(delta: Path, old: Path) -> None:
    made = hashlib.sha256()
    with delta.open("rb") as file, old.open("rb") as before:
        header = read_header(file)
        for piece in rebuild(header, file, before):
            made.update(piece)
    if made.hexdigest() != header.new_sha256:
        raise DeltaError("it does not make the new file again")


def _sha256(path: Path) -> Sha256:
    with path.open("rb") as file:
        return Sha256(hashlib.file_digest(file, "sha256").hexdigest())


def _size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
