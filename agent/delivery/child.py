"""A short-lived child of control: one JSON request on stdin, one JSON reply on stdout, and its memory is gone."""

from __future__ import annotations

import asyncio
import sys

_STDERR_TAIL = 300


async def ask(module: str, request: bytes, *, deadline_s: float) -> tuple[bytes, str]:
    """Run `python -m module`, and return what it replied and how it ended, for an error that tells of it.

    Raises:
        TimeoutError: it took longer, and was killed.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        # Safe path: no file of the folder that the agent was started in is a module of ours.
        "-P",
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(deadline_s):
            stdout, stderr = await child.communicate(request)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    tail = stderr.decode(errors="replace").strip()[-_STDERR_TAIL:]
    return stdout, f"ended with {child.returncode}: {tail}"
