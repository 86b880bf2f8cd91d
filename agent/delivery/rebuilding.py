"""The child's side of `agent.delivery.delta`: one file put together from an older one and a delta, within fixed limits.

The only file of the agent that loads zstandard. Whatever a delta claims, it takes no more memory than set here, writes
no more bytes than the new file has, and ends with control.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.delivery.delta import RebuildReply, RebuildRequest
from agent.delivery.partfile import PartFile
from shared.errors import DeltaError, LitefleetError
from shared.runtime.delta import read_header, rebuild

if TYPE_CHECKING:
    from shared.runtime.delta import DeltaHeader

_MEMORY_BYTES = 40 * 1024 * 1024
"""Beyond what the interpreter has when it begins: two dictionaries and a window of the format at their ceilings."""
_PR_SET_PDEATHSIG = 1
_KILLED_FIRST = "1000"


def main() -> None:
    """Answer the one request on stdin."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=RebuildRequest)
    _settle(request.parent)
    sys.stdout.buffer.write(msgspec.json.encode(answer(request)))


def answer(request: RebuildRequest) -> RebuildReply:
    """Make the file, and say why there is none."""
    try:
        _make(request)
    except LitefleetError as exc:
        return RebuildReply(problem=str(exc))
    except MemoryError:
        return RebuildReply(problem=f"it takes more than {_MEMORY_BYTES} bytes of memory")
    except OSError as exc:
        return RebuildReply(problem=f"storage_failed: {exc}")
    return RebuildReply()


def _make(request: RebuildRequest) -> None:
    into = Path(request.into)
    with Path(request.delta).open("rb") as delta, Path(request.old).open("rb") as old:
        header = read_header(delta)
        _check(header, request)
        part = PartFile(into, request.ref)
        try:
            # What a power cut left of an earlier try is made again in less time than it takes to check it.
            part.restart()
            part.check_room(request.reserve_bytes)
            for piece in rebuild(header, delta, old):
                part.append(piece)
            part.publish()
        except BaseException:
            part.discard()
            raise
        finally:
            part.close()


def _check(header: DeltaHeader, request: RebuildRequest) -> None:
    """Refuse a delta of another pair before a byte of it is used."""
    if header.old_sha256 != request.old_sha256:
        raise DeltaError(f"it builds on {header.old_sha256}, not on {request.old_sha256}")
    if (header.new_sha256, header.new_bytes) != (request.ref.sha256, request.ref.length_bytes):
        raise DeltaError(f"it makes {header.new_sha256} of {header.new_bytes} bytes, not {request.ref.sha256}")


def _settle(parent: int) -> None:
    """Bound this process's memory, and its life by control's."""
    if sys.platform == "linux":
        # An orphan would write on where the next control's child writes too.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("control has ended")
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST, encoding="ascii")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
