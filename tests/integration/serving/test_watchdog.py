"""A serving process that is alive and answers nobody."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from agent.serving.planned.link import HUNG_AFTER, ServingClient
from shared.errors import UnreachableError
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

DEAF = "import sys, pathlib, signal; from agent.serving.planned.sockets import listen_unix;"
DEAF += "door = listen_unix(pathlib.Path(sys.argv[1])); signal.pause()"


async def ask_in_vain(client: ServingClient, times: int) -> None:
    for _ in range(times):
        with pytest.raises(UnreachableError):
            await client.stats()


async def test_serving_that_never_answers_is_killed_after_several_questions(tmp_path: Path) -> None:
    path = tmp_path / "run" / "serving.sock"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", DEAF, str(path))
    client = ServingClient(path, stats_deadline_s=0.2)
    try:
        await asyncio.to_thread(wait_until, path.exists, within_s=20, what="the deaf process listens")
        # Nobody listens yet between `bind` and `listen`: refused, which counts for nothing.
        await ask_in_vain(client, HUNG_AFTER - 1)
        assert child.returncode is None
        await ask_in_vain(client, 2)
        async with asyncio.timeout(10):
            assert await child.wait() == -9
    finally:
        await client.close()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_serving_that_is_away_is_no_reason_to_kill_anybody(tmp_path: Path) -> None:
    client = ServingClient(tmp_path / "nobody.sock", stats_deadline_s=0.2)
    await ask_in_vain(client, HUNG_AFTER + 1)
    await client.close()
