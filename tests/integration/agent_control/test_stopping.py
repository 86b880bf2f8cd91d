from __future__ import annotations

import os
import subprocess
import sys

STUCK = """
import asyncio
from agent.stopping import until_stopped

async def stuck():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(stuck())
        group.create_task(until_stopped(end_within_s=0.2))

asyncio.run(main())
"""


def test_control_whose_part_never_ends_still_ends_with_its_supervisor() -> None:
    """Else it would hold the lock that the next control process waits for, until somebody drives there."""
    ended = subprocess.run([sys.executable, "-c", STUCK], input=b"", timeout=60, check=False)
    assert ended.returncode == os.EX_TEMPFAIL
