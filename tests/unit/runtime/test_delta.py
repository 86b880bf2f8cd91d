"""The delta format: what is read back, and what a lying or damaged delta comes to."""

from __future__ import annotations

import io
import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shared.delta import DeltaEncoding
from shared.errors import DeltaError
from shared.runtime.delta import (
    HEADER,
    LITERAL,
    MAX_DICTIONARY_BYTES,
    MAX_SEGMENT_BYTES,
    PIECE_BYTES,
    RUN,
    WINDOW_LOG,
    add,
    read_header,
    rebuild,
)
from tests.support.deltas import applied, bomb, header_of, literal_delta, segment, weights

OLD = weights(5_000)
NEW = weights(6_000, seed=9)


def subtracted(*runs: tuple[int, int, bytes]) -> bytes:
    """Return the body of a subtract delta with these runs."""
    return zstandard.compress(b"".join(RUN.pack(start, length) + data for start, length, data in runs))


@given(
    pair=st.integers(0, 300).flatmap(
        lambda n: st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n))
    )
)
def test_add_is_the_sum_of_each_byte_whatever_its_neighbours(pair: tuple[bytes, bytes]) -> None:
    assert add(*pair) == bytes((a + b) % 256 for a, b in zip(*pair, strict=True))


def test_add_of_a_whole_piece_carries_nowhere() -> None:
    assert add(b"\xff" * PIECE_BYTES, b"\x01" * PIECE_BYTES) == bytes(PIECE_BYTES)


def test_rebuild_of_literals_is_the_new_file() -> None:
    assert applied(literal_delta(OLD, NEW), OLD) == NEW


def test_rebuild_of_runs_adds_to_their_counterparts() -> None:
    difference = bytes([1]) * 100
    delta = header_of(DeltaEncoding.SUBTRACT, OLD, b"", new_bytes=130) + subtracted(
        (4_000, 100, difference), (LITERAL, 30, NEW[:30])
    )
    assert applied(delta, OLD) == add(OLD[4_000:4_100], difference) + NEW[:30]


def test_rebuild_of_segments_uses_their_own_regions() -> None:
    known = zstandard.ZstdCompressionDict(OLD[1_000:3_000], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    body = zstandard.ZstdCompressor(dict_data=known, write_dict_id=False).compress(OLD[1_500:2_500])
    assert len(body) < 100
    delta = header_of(DeltaEncoding.PATCH, OLD, b"", new_bytes=1_100) + (
        segment(1_000, 2_000, 1_000, body) + segment(0, 0, 100, zstandard.compress(NEW[:100]))
    )
    assert applied(delta, OLD) == OLD[1_500:2_500] + NEW[:100]


def test_rebuild_hands_on_pieces_no_larger_than_promised() -> None:
    file = io.BytesIO(literal_delta(b"", bytes(1_000_000)))
    sizes = [len(piece) for piece in rebuild(read_header(file), file, io.BytesIO())]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= PIECE_BYTES


def test_empty_file_from_an_empty_file_is_empty() -> None:
    assert applied(literal_delta(b"", b""), b"") == b""


def test_header_says_which_file_of_which_other() -> None:
    header = read_header(io.BytesIO(literal_delta(OLD, NEW)))
    assert (header.encoding, header.old_bytes, header.new_bytes) == (DeltaEncoding.SUBTRACT, len(OLD), len(NEW))


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [(0, b"X", "no delta"), (8, b"\x02", "newer than this program"), (9, b"\x03", "newer than this program")],
)
def test_header_of_another_format_is_refused(at: int, value: bytes, why: str) -> None:
    delta = bytearray(literal_delta(OLD, NEW))
    delta[at : at + 1] = value
    with pytest.raises(DeltaError, match=why):
        applied(bytes(delta), OLD)


@pytest.mark.parametrize(
    "make",
    [
        literal_delta,
        lambda old, new: header_of(DeltaEncoding.PATCH, old, new) + segment(0, 0, len(new), zstandard.compress(new)),
    ],
)
def test_truncated_anywhere_is_one_clear_error(make: object) -> None:
    assert callable(make)
    whole = make(OLD, NEW)
    cuts = [*range(HEADER.size + 30), *random.Random(1).sample(range(len(whole)), 60), len(whole) - 1]
    for cut in cuts:
        try:
            made = applied(whole[:cut], OLD)
        except DeltaError:
            continue
        # Only what comes after the last byte of content may be missing unnoticed: zstd's own end mark.
        assert made == NEW


def test_damaged_anywhere_is_an_error_or_other_bytes_of_the_same_length() -> None:
    chance = random.Random(2)
    for _ in range(300):
        delta = bytearray(literal_delta(OLD, NEW))
        delta[chance.randrange(HEADER.size, len(delta))] ^= 1 << chance.randrange(8)
        try:
            assert len(applied(bytes(delta), OLD)) == len(NEW)
        except DeltaError:
            continue


@given(junk=st.binary(max_size=300))
def test_junk_after_a_header_raises_only_delta_errors(junk: bytes) -> None:
    for encoding in DeltaEncoding:
        with pytest.raises(DeltaError):
            applied(header_of(encoding, OLD, NEW) + junk, OLD)


def test_bomb_makes_no_more_than_the_header_says() -> None:
    delta = header_of(DeltaEncoding.PATCH, OLD, b"", new_bytes=1_000) + segment(0, 0, 1_000, bomb(300_000_000))
    assert applied(delta, OLD) == bytes(1_000)


@pytest.mark.parametrize(
    "run",
    [(0, 0), (0, 2_001), (4_000, 1_001), (2**63, 10), (LITERAL - 1, 1)],
    ids=["none", "long", "over", "far", "last"],
)
def test_run_that_lies_is_refused(run: tuple[int, int]) -> None:
    delta = header_of(DeltaEncoding.SUBTRACT, OLD, b"", new_bytes=2_000) + subtracted((*run, bytes(2_500)))
    with pytest.raises(DeltaError, match="a run claims"):
        applied(delta, OLD)


@pytest.mark.parametrize(
    ("start", "length", "makes"),
    [
        (0, 0, 0),
        (0, 0, 2_001),
        (4_000, 1_001, 100),
        (2**64 - 1, 1, 100),
        (0, MAX_DICTIONARY_BYTES + 1, 100),
    ],
    ids=["none", "long", "over", "far", "huge"],
)
def test_segment_that_lies_is_refused(start: int, length: int, makes: int) -> None:
    delta = header_of(DeltaEncoding.PATCH, OLD, b"", new_bytes=2_000) + segment(start, length, makes, b"")
    with pytest.raises(DeltaError, match="a segment claims"):
        applied(delta, OLD)


def test_segment_beyond_the_ceiling_is_refused_even_where_it_fits() -> None:
    delta = header_of(DeltaEncoding.PATCH, OLD, b"", new_bytes=MAX_SEGMENT_BYTES * 2)
    with pytest.raises(DeltaError, match="a segment claims"):
        applied(delta + segment(0, 0, MAX_SEGMENT_BYTES + 1, b""), OLD)


def test_frame_that_asks_for_a_larger_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=WINDOW_LOG + 1, write_content_size=False)
    greedy = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = greedy.compress(RUN.pack(LITERAL, 100) + bytes(100)) + greedy.flush()
    with pytest.raises(DeltaError, match="cannot be read"):
        applied(header_of(DeltaEncoding.SUBTRACT, b"", b"", new_bytes=100) + frame, b"")


def test_frame_that_claims_terabytes_in_one_segment_is_refused() -> None:
    # RFC 8878, 3.1.1: magic, a descriptor with an 8-byte content size and a single segment, and that size.
    frame = struct.pack("<IBQ", 0xFD2FB528, 0b11100000, 1 << 40) + b"\x01\x00\x00"
    with pytest.raises(DeltaError, match="cannot be read"):
        applied(header_of(DeltaEncoding.SUBTRACT, b"", b"", new_bytes=100) + frame, b"")


@pytest.mark.parametrize("encoding", list(DeltaEncoding))
def test_old_file_that_is_shorter_than_told_is_refused(encoding: DeltaEncoding) -> None:
    body = subtracted((4_000, 500, bytes(500))) if encoding is DeltaEncoding.SUBTRACT else segment(4_000, 500, 500, b"")
    with pytest.raises(DeltaError, match="old file is shorter"):
        applied(header_of(encoding, OLD, b"", new_bytes=500) + body, OLD[:4_200])
