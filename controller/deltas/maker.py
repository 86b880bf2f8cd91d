"""Runs the program that makes deltas, within limits: it reads models, and models come from strangers."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import msgspec

from controller.blobs import FULL
from controller.deltas.ports import MadeDelta
from shared import limited
from shared.delta import DeltaOutcome
from shared.errors import NotFoundError, StorageFullError
from shared.limited import ProcessLimits

if TYPE_CHECKING:
    from pathlib import Path

    from controller.blobs import Blobs
    from shared.ids import Sha256

_MEMORY_BYTES = 2 * 1024**3
"""zstd at its highest level takes some 150 MB at the ceilings of the format, whatever the files' sizes."""
_CPU_S = 1800
"""Level 19 makes one or two megabytes a second of each of two encodings."""
_MAX_ANSWER_BYTES = 64 * 1024


class ProgramMaker:
    """Makes one delta at a time; `scratch` holds a folder while it does, and nothing after."""

    def __init__(
        self, *, command: tuple[str, ...], blobs: Blobs, scratch: Path, file_bytes: int, wall_s: float
    ) -> None:
        self._command, self._blobs, self._scratch, self._wall_s = command, blobs, scratch, wall_s
        self._limits = ProcessLimits(cpu_s=_CPU_S, address_space_bytes=_MEMORY_BYTES, file_bytes=file_bytes)

    async def make(self, old: Sha256, new: Sha256) -> MadeDelta:
        """Return what came of it; a delta is then among the blobs. Raises StorageFullError."""
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        try:
            (self._scratch / "tmp").mkdir(parents=True)
            return await self._run(old, new)
        except NotFoundError as exc:
            return _failed(f"an artifact of it is gone: {exc}")
        except OSError as exc:
            if exc.errno in FULL:
                raise StorageFullError("the disk has no room for a delta", retry_after_s=30.0) from exc
            return _failed(f"the scratch folder cannot be used: {exc}")
        finally:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    async def _run(self, old: Sha256, new: Sha256) -> MadeDelta:
        into, chatter = self._scratch / "delta", self._scratch / "stderr.log"
        command = (*self._command, str(self._blobs.path(old)), str(self._blobs.path(new)), str(into))
        with chatter.open("wb") as stderr:
            process = await limited.start(
                command, self._limits, folder=self._scratch, stderr=stderr.fileno(), line_bytes=_MAX_ANSWER_BYTES
            )
        try:
            async with asyncio.timeout(self._wall_s):
                answer = b"" if process.stdout is None else await process.stdout.readline()
                code = await process.wait()
        except TimeoutError:
            return _failed(f"not finished after {self._wall_s:g} s")
        except ValueError as exc:
            return _failed(f"the program does not speak its protocol: {exc}")
        finally:
            await limited.end(process)
        if code != 0:
            last = next((line for line in reversed(limited.tail(chatter).splitlines()) if line.strip()), "")[:500]
            return _failed(f"ended with {code}: {last}")
        return await self._keep(answer, into)

    async def _keep(self, answer: bytes, into: Path) -> MadeDelta:
        try:
            outcome = msgspec.json.decode(answer, type=DeltaOutcome)
        except msgspec.DecodeError as exc:
            return _failed(f"the program does not speak its protocol: {exc}")
        if outcome.encoding is None:
            return MadeDelta(sha256=None, length_bytes=outcome.length_bytes)
        sha256 = await self._blobs.put_file(into)
        # What is published is what was kept, whatever the program says of it.
        return MadeDelta(sha256=sha256, length_bytes=self._blobs.size_bytes(sha256))


def _failed(problem: str) -> MadeDelta:
    return MadeDelta(sha256=None, length_bytes=0, problem=problem)
