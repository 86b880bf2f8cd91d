"""The journal against what happens to disks and processes."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from agent.core.state import AgentState
from agent.journal import Journal, Opened
from shared.errors import StorageFullError
from tests.support.device_core import Bench
from tests.support.file_size import file_size_limit
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]


def some_state(revision: int = 1) -> AgentState:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    return replace(bench.state, report_revision=revision)


async def write(path: Path, *states: AgentState) -> None:
    async with Journal(path) as journal:
        await journal.open()
        for state in states:
            await journal.commit(state)


async def read(path: Path) -> Opened:
    async with Journal(path) as journal:
        return await journal.open()


async def test_journal_new_is_empty_without_complaint(tmp_path: Path) -> None:
    async with Journal(tmp_path / "deep" / "journal.db") as journal:
        opened = await journal.open()
    assert (opened.state, opened.problem) == (None, "")


async def test_journal_gives_back_the_newest_state_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await write(path, some_state(1), some_state(2))
    async with Journal(path) as journal:
        assert (await journal.open()).state == some_state(2)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 100])


def _scribble(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    path.write_bytes(bytes(data))


def _other_row(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE agent_state SET state = ?", (b'{"settings": 7}',))
    database.close()


@pytest.mark.parametrize("damage", [_cut, _scribble, _flip, _other_row])
async def test_journal_damaged_is_moved_aside_and_begun_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "journal.db"
    await write(path, *(some_state(number) for number in range(20)))
    damage(path)
    async with Journal(path) as journal:
        opened = await journal.open()
        assert opened.state is None
        assert opened.problem.startswith("journal_rebuilt: ")
        await journal.commit(some_state(7))
    assert (tmp_path / "journal.db.damaged").exists()
    async with Journal(path) as journal:
        assert (await journal.open()).state == some_state(7)


async def test_journal_that_may_not_be_opened_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.mkdir()
    async with Journal(path) as journal:
        with pytest.raises(sqlite3.OperationalError):
            await journal.open()
    assert path.is_dir()


async def test_journal_on_a_full_disk_keeps_what_stood_there_and_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        await journal.open()
        await journal.commit(some_state(1))
        size = (tmp_path / "journal.db-wal").stat().st_size
        large = replace(some_state(2), note="x" * 200_000)
        with file_size_limit(size + 4096), pytest.raises(StorageFullError, match="journal"):
            await journal.commit(large)
        await journal.commit(some_state(3))
    async with Journal(path) as journal:
        assert (await journal.open()).state == some_state(3)


WRITER = """
import asyncio, sys
from pathlib import Path
from msgspec.structs import replace
from agent.journal import Journal
from tests.support.device_core import Bench

async def main() -> None:
    bench = Bench()
    bench.start()
    bench.commit("v1")
    async with Journal(Path(sys.argv[1])) as journal:
        await journal.open()
        revision = 0
        while True:
            revision += 1
            await journal.commit(replace(bench.state, report_revision=revision, note="x" * (revision * 37 % 9000)))
            print(revision, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [3, 10, 25, 40])
def test_journal_of_a_writer_killed_in_mid_commit_holds_all_that_was_confirmed(tmp_path: Path, after: int) -> None:
    path, confirmed = tmp_path / "journal.db", tmp_path / "confirmed.txt"
    with confirmed.open("wb") as out:
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=out, cwd=ROOT)
        try:
            wait_until(lambda: confirmed.read_bytes().count(b"\n") >= after, within_s=60, what="commits")
        finally:
            writer.kill()
            writer.wait(10)
    last = int(confirmed.read_bytes().split(b"\n")[-2])
    opened = asyncio.run(read(path))
    assert opened.problem == ""
    assert opened.state is not None
    assert opened.state.report_revision in {last, last + 1}
    assert msgspec.json.decode(msgspec.json.encode(opened.state), type=AgentState) == opened.state
