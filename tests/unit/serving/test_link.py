from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.plan import GetStats, Plan, Route, SetPlan, SlotSpec, ToServing
from agent.serving.planned.link import MAX_FRAME_BYTES, frame, read_frame
from shared.ids import ModelName, ReleaseId, Sha256

texts = st.text(max_size=20)
slots = st.builds(
    SlotSpec,
    model=texts.map(ModelName),
    release_id=texts.map(ReleaseId),
    version_number=st.integers(0, 2**40),
    folder=texts,
    artifact_sha256=texts.map(Sha256),
    manifest_sha256=texts.map(Sha256),
)
routes = st.builds(
    Route, model=texts.map(ModelName), primary=st.none() | texts.map(ReleaseId), unavailable_reason=texts
)
plans = st.builds(
    Plan,
    serial=st.integers(0, 2**40),
    slots=st.lists(slots, max_size=3).map(tuple),
    routes=st.lists(routes, max_size=3).map(tuple),
)


def reader_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


@given(plans)
def test_frames_come_out_as_they_went_in(plan: Plan) -> None:
    async def both() -> list[ToServing]:
        reader = reader_of(frame(SetPlan(plan=plan)) + frame(GetStats()))
        return [msgspec.msgpack.decode(await read_frame(reader), type=ToServing) for _ in range(2)]

    assert asyncio.run(both()) == [SetPlan(plan=plan), GetStats()]


async def test_frame_that_is_cut_off_is_an_end_of_stream() -> None:
    with pytest.raises(EOFError):
        await read_frame(reader_of(frame(GetStats())[:-1]))


async def test_frame_that_claims_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(ConnectionAbortedError, match="larger than"):
        await read_frame(reader_of((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


def test_what_control_imports_of_serving_brings_no_numpy() -> None:
    code = "import sys, agent.serving.planned.link, agent.serving.children.trial; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_what_the_supervisor_imports_is_the_standard_library() -> None:
    code = (
        "import sys, agent.__main__;"
        "ours = {n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names) - {'agent', '__main__'};"
        "print(sorted(ours)); sys.exit(bool({'msgspec', 'aiohttp', 'structlog', 'shared', 'numpy'} & ours))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=30, capture_output=True)
    assert done.returncode == 0, done.stdout
