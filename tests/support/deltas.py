"""Pairs of files such as deltas are made of, and deltas that lie."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import zstandard

from shared.delta import DeltaEncoding
from shared.ids import Sha256
from shared.runtime.delta import LITERAL, RUN, SEGMENT, DeltaHeader, read_header, rebuild, write_header

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator

    from agent.delivery.delta import RebuildRequest


def digest_of(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def weights(size: int, *, seed: int = 1) -> bytes:
    """Return what the weights of an int8 network look like."""
    drawn = np.random.default_rng(seed).normal(0, 28, size)
    return np.clip(drawn, -127, 127).astype(np.int8).tobytes()


def tuned(old: bytes, *, share: float, seed: int = 2) -> bytes:
    """Return weights of which a share (0..1) moved by one, as training further moves them."""
    generator = np.random.default_rng(seed)
    data = np.frombuffer(old, dtype=np.uint8).copy()
    moved = generator.random(len(data)) < share
    data[moved] += generator.choice(np.array([1, 255], dtype=np.uint8), int(moved.sum()))
    return data.tobytes()


def random_pair(generator: Generator) -> tuple[bytes, bytes]:
    """Return two files that share something, or nothing: other lengths, pieces moved, added and lost, empty, equal."""
    old = weights(int(generator.integers(0, 20_000)), seed=int(generator.integers(1 << 30)))
    match int(generator.integers(0, 7)):
        case 0:
            return old, old
        case 1:
            return old, b""
        case 2:
            return b"", old
        case 3:
            return old, generator.bytes(int(generator.integers(0, 20_000)))
        case 4:
            return old, tuned(old, share=float(generator.random()), seed=int(generator.integers(1 << 30)))
        case _:
            return old, _shuffled(old, generator)


def _shuffled(old: bytes, generator: Generator) -> bytes:
    """Cut a file into pieces, and lose, move, change and insert some."""
    cuts = sorted(int(cut) for cut in generator.integers(0, len(old) + 1, 6))
    pieces = [old[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(old)], strict=True)]
    made = []
    for piece in pieces:
        chance = generator.random()
        if chance < 0.1:
            continue
        if chance < 0.3:
            made.append(generator.bytes(int(generator.integers(0, 300))))
        made.append(tuned(piece, share=0.1) if chance > 0.6 else piece)
    if generator.random() < 0.3:
        made.reverse()
    return b"".join(made)


def applied(delta: bytes, old: bytes) -> bytes:
    """Return what a delta makes of an old file."""
    file = io.BytesIO(delta)
    return b"".join(rebuild(read_header(file), file, io.BytesIO(old)))


def header_of(encoding: DeltaEncoding, old: bytes, new: bytes, *, new_bytes: int | None = None) -> bytes:
    """Return the header of a delta, which may lie about the new file's length."""
    header = DeltaHeader(
        encoding=encoding,
        old_bytes=len(old),
        new_bytes=len(new) if new_bytes is None else new_bytes,
        old_sha256=digest_of(old),
        new_sha256=digest_of(new),
    )
    return write_header(header)


def literal_delta(old: bytes, new: bytes, *, new_bytes: int | None = None) -> bytes:
    """Return a delta that takes nothing from the old file."""
    body = RUN.pack(LITERAL, len(new)) + new if new else b""
    return header_of(DeltaEncoding.SUBTRACT, old, new, new_bytes=new_bytes) + zstandard.compress(body)


def segment(start: int, length: int, makes: int, body: bytes) -> bytes:
    """Return one segment of a patch."""
    return SEGMENT.pack(start, length, makes, len(body)) + body


def bomb(size: int) -> bytes:
    """Return a zstd frame that makes `size` zeros, whatever it says of its size: it says nothing."""
    packer = zstandard.ZstdCompressor(level=19).compressobj()
    return packer.compress(bytes(size)) + packer.flush()


def write_pair(folder: Path, old: bytes, new: bytes) -> tuple[Path, Path]:
    """Write both files."""
    paths = folder / "old", folder / "new"
    for path, data in zip(paths, (old, new), strict=True):
        path.write_bytes(data)
    return paths


def peak_kib(asked: RebuildRequest | None) -> int:
    """Return the peak of a child that makes a file, or that only comes up."""
    program = (
        "import sys, msgspec\n"
        "from agent.delivery.rebuilding import answer\n"
        "from agent.delivery.delta import RebuildRequest\n"
        "text = sys.stdin.buffer.read()\n"
        "problem = answer(msgspec.json.decode(text, type=RebuildRequest)).problem if text else ''\n"
        "assert not problem, problem\n"
        # Not ru_maxrss, which a process inherits of whoever forked it.
        "status = open('/proc/self/status').read()\n"
        "print(status.split('VmHWM:')[1].split()[0])\n"
    )
    text = b"" if asked is None else msgspec.json.encode(asked)
    return int(subprocess.run([sys.executable, "-c", program], input=text, stdout=subprocess.PIPE, check=True).stdout)
