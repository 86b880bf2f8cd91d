"""An artifact by a delta: from a server that attacks, in a child that is killed, and never at the cost of a rollout."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.delivery.delta import DELTA, Delta, RebuildRequest, rebuild_in_child, rebuilt
from agent.delivery.download import DownloadLimits
from agent.delivery.rebuilding import answer
from agent.delivery.slots import MODEL
from agent.link.https import DeviceApi
from agent.link.identity import client_tls, identity_files
from converters.delta import make, write
from shared.delta import DeltaEncoding, delta_path
from shared.errors import DeltaError, UnreachableError
from shared.runtime.delta import MAX_DICTIONARY_BYTES, WINDOW_LOG
from shared.wire import TargetRef
from tests.support.deltas import (
    bomb,
    digest_of,
    header_of,
    literal_delta,
    peak_kib,
    segment,
    tuned,
    weights,
    write_pair,
)
from tests.support.device_api import DeviceServer, Fault
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LIMITS = DownloadLimits(max_bytes=100_000_000, reserve_bytes=0, grace_s=0.5)
OLD = weights(400_000)
NEW = OLD[:1_000] + b"a new name" + tuned(OLD[1_000:], share=0.05)
REF = TargetRef(path="artifacts/new", length_bytes=len(NEW), sha256=digest_of(NEW))
PATH = delta_path(digest_of(OLD), REF.sha256)
MEMORY_KIB = 40 * 1024


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the delta that converters make."""
    folder = tmp_path_factory.mktemp("delta")
    assert make(*write_pair(folder, OLD, NEW), folder / "delta").encoding is DeltaEncoding.SUBTRACT
    return (folder / "delta").read_bytes()


class Place:
    """A device that holds the old artifact, and a server with a delta."""

    def __init__(self, server: DeviceServer, api: DeviceApi, folder: Path) -> None:
        self.server, self.api, self.folder = server, api, folder
        self.held = folder.parent / "held"
        self.held.write_bytes(OLD)

    async def bring(self, delta: bytes, *, promised: bytes | None = None) -> bool:
        """Serve a delta, and have the device use it."""
        self.server.repository.targets[PATH] = delta
        signed = delta if promised is None else promised
        ref = TargetRef(path=PATH, length_bytes=len(signed), sha256=digest_of(signed))
        chosen = Delta(ref=ref, old=self.held, old_sha256=digest_of(OLD))
        return await rebuilt(self.api, chosen, REF, self.folder, LIMITS)

    def assert_nothing_left(self) -> None:
        assert list(self.folder.iterdir()) == []


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    folder = tmp_path / "staged"
    folder.mkdir()
    async with DeviceServer(tmp_path) as server:
        server.enrol_here(tmp_path / "state")
        tls = client_tls(identity_files(tmp_path / "state"))
        async with DeviceApi(controller_url=server.url, tls=tls) as api:
            yield Place(server, api, folder)


async def test_delta_makes_the_artifact(place: Place, honest: bytes) -> None:
    assert await place.bring(honest)
    assert (place.folder / MODEL).read_bytes() == NEW
    assert len(honest) < len(NEW) / 10


@pytest.mark.parametrize("fault", [Fault.MISSING, Fault.ERROR, Fault.FLIP, Fault.REDIRECT, Fault.STALL, Fault.LONGER])
async def test_delta_that_does_not_come_whole_and_right_is_left(place: Place, honest: bytes, fault: Fault) -> None:
    place.server.faults[PATH] = fault
    assert not await place.bring(honest)
    place.assert_nothing_left()


async def test_link_cut_while_the_delta_comes_goes_on_from_there(place: Place, honest: bytes) -> None:
    place.server.faults[PATH], place.server.cut_after = Fault.TRUNCATE, 10_000
    part = place.folder / DELTA / "delta.part"
    place.server.cut_when = lambda: part.exists() and part.stat().st_size == 10_000
    with pytest.raises(UnreachableError):
        await place.bring(honest)
    place.server.faults.clear()
    place.server.ranges.clear()
    assert await place.bring(honest)
    assert place.server.ranges == ["bytes=10000-"]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "junk": lambda: random.Random(1).randbytes(5_000),
    "of another pair": lambda: literal_delta(b"x", NEW),
    "to another file": lambda: literal_delta(OLD, OLD),
    "other bytes of the right length": lambda: (
        header_of(DeltaEncoding.SUBTRACT, OLD, NEW) + literal_delta(OLD, bytes(len(NEW)))[96:]
    ),
    "endless": lambda: header_of(DeltaEncoding.PATCH, OLD, NEW) + segment(0, 0, len(NEW), bomb(50_000_000)),
    "too short": lambda: literal_delta(OLD, NEW)[:-1_000],
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_delta_is_left_though_it_is_signed(place: Place, kind: str) -> None:
    assert not await place.bring(HOSTILE[kind]())
    place.assert_nothing_left()


async def test_old_artifact_that_rotted_since_makes_nothing(place: Place, honest: bytes) -> None:
    place.held.write_bytes(OLD[:-1] + b"x")
    assert not await place.bring(honest)
    place.assert_nothing_left()


@pytest.fixture
def request_of(tmp_path: Path, honest: bytes) -> RebuildRequest:
    """What a child is asked."""
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "delta").write_bytes(honest)
    (tmp_path / "out").mkdir()
    return RebuildRequest(
        delta=str(tmp_path / "delta"),
        old=str(tmp_path / "old"),
        old_sha256=digest_of(OLD),
        into=str(tmp_path / "out" / MODEL),
        ref=REF,
        reserve_bytes=0,
        parent=os.getpid(),
    )


def test_delta_cut_anywhere_leaves_no_file_or_the_right_one(
    request_of: RebuildRequest, tmp_path: Path, honest: bytes
) -> None:
    into = tmp_path / "out" / MODEL
    for cut in sorted(random.Random(3).sample(range(len(honest)), 100)):
        (tmp_path / "delta").write_bytes(honest[:cut])
        if answer(request_of).problem:
            assert list(into.parent.iterdir()) == []
        else:
            assert into.read_bytes() == NEW
            into.unlink()


def test_power_cut_at_any_write_leaves_no_file_or_the_right_one(request_of: RebuildRequest, tmp_path: Path) -> None:
    into, part = tmp_path / "out" / MODEL, tmp_path / "out" / f"{MODEL}.part"
    chance = random.Random(4)
    for left in (0, 1, len(NEW) - 1, len(NEW), len(NEW) + 9, *(chance.randrange(len(NEW)) for _ in range(30))):
        # What a cut leaves of unwritten pages is anything: a prefix, zeros, rubbish.
        part.write_bytes(chance.choice([(NEW * 2)[:left], bytes(left), chance.randbytes(left)]))
        assert not into.exists()
        assert answer(request_of).problem == ""
        assert into.read_bytes() == NEW
        assert not part.exists()
        into.unlink()


def _has_come(into: Path, part: Path, size_bytes: int) -> bool:
    return into.exists() or (part.exists() and part.stat().st_size >= size_bytes)


def test_child_killed_at_any_moment_leaves_no_file_or_the_right_one(tmp_path: Path) -> None:
    old = weights(1_500_000)
    new = tuned(old, share=0.05)
    paths = write_pair(tmp_path, old, new)
    make(*paths, tmp_path / "delta")
    (tmp_path / "out").mkdir()
    into, part = tmp_path / "out" / MODEL, tmp_path / "out" / f"{MODEL}.part"
    ref = TargetRef(path="artifacts/new", length_bytes=len(new), sha256=digest_of(new))
    asked = msgspec.json.encode(
        RebuildRequest(
            delta=str(tmp_path / "delta"),
            old=str(paths[0]),
            old_sha256=digest_of(old),
            into=str(into),
            ref=ref,
            reserve_bytes=0,
            parent=os.getpid(),
        )
    )
    chance = random.Random(5)
    cut = 0
    # The first dies before it has written anything: on a quick machine all others may be done when the signal comes.
    for until in (-1, *(chance.randrange(len(new)) for _ in range(8))):
        part.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-m", "agent.delivery.rebuilding"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdin is not None
            child.stdin.write(asked)
            child.stdin.close()
            if until >= 0:
                wait_until(partial(_has_come, into, part, until), what="the child writes")
            child.send_signal(signal.SIGKILL)
        cut += not into.exists()
        if into.exists():
            assert digest_of(into.read_bytes()) == ref.sha256
            into.unlink()
    assert cut
    assert answer(msgspec.json.decode(asked, type=RebuildRequest)).problem == ""
    assert into.read_bytes() == new


async def test_child_that_takes_too_long_is_ended(request_of: RebuildRequest) -> None:
    with pytest.raises(DeltaError, match="took longer"):
        await rebuild_in_child(request_of, deadline_s=0.001)


async def test_child_that_outlives_control_does_nothing(request_of: RebuildRequest, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="control has ended"):
        await rebuild_in_child(msgspec.structs.replace(request_of, parent=1))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("encoding", list(DeltaEncoding))
async def test_applying_takes_bounded_memory_whatever_the_size(tmp_path: Path, encoding: DeltaEncoding) -> None:
    # Larger than every window, dictionary and segment, so that all are at their ceilings.
    old = weights(9_000_000)
    new = tuned(old, share=0.001)
    paths = write_pair(tmp_path, old, new)
    write(encoding, *paths, tmp_path / "delta")
    asked = RebuildRequest(
        delta=str(tmp_path / "delta"),
        old=str(paths[0]),
        old_sha256=digest_of(old),
        into=str(tmp_path / MODEL),
        ref=TargetRef(path="artifacts/new", length_bytes=len(new), sha256=digest_of(new)),
        reserve_bytes=0,
        parent=os.getpid(),
    )
    idle, busy = await asyncio.to_thread(peak_kib, None), await asyncio.to_thread(peak_kib, asked)
    assert busy - idle < MEMORY_KIB
    # And within the limit that the child sets itself.
    await rebuild_in_child(asked)


def test_ceilings_of_the_format_fit_into_a_childs_memory() -> None:
    # The region as read, zstd's copy of it, and the window.
    assert 2 * MAX_DICTIONARY_BYTES + (1 << WINDOW_LOG) < MEMORY_KIB * 1024


def test_staged_release_keeps_its_delta_apart() -> None:
    assert DELTA not in {MODEL, f"{MODEL}.part"}
