"""Control's end of several serving processes, which answer as one: one Plan for all, and one cumulative Stats.

Every process gets the same plan, and a slot counts as loaded when all that answered have loaded it. One that is away
holds nobody up: control writes `boot.json` before it sends a plan, so that the process starts from it, and is told the
plan again as soon as its new life is noticed.

What they measured is added up. As a single process does, the sum starts again at zero under a new `boot_id` whenever
one of them does: then `base` is what the others had counted by that time. It is kept on disk, or a control process that
starts again would count that part twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
import structlog

from agent.core.plan import Applied, SlotState, Stats
from agent.serving.planned.link import ServingClient
from agent.serving.recording import sums
from shared.decoding import MALFORMED
from shared.errors import UnreachableError
from shared.ids import BootId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from agent.config import AgentConfig
    from agent.core.plan import Plan
    from shared.clock import Clock

Answer = TypeVar("Answer")

START_S: Final = 30.0
"""Until so long after the first question, all have to answer once: those of one start are one life."""

_RETRY_AFTER_S: Final = 0.5

_log = structlog.get_logger(__name__)


class Serving(Protocol):
    """All that answers inference on this device, as control sees it: one process, or several as one."""

    async def set_plan(self, plan: Plan) -> Applied:
        """Have it converge on `plan`; safe to repeat. Raises UnreachableError."""
        ...

    async def stats(self) -> Stats:
        """Ask what it has measured. Raises UnreachableError."""
        ...

    async def close(self) -> None:
        """Drop the connections."""
        ...


def serving_of(settings: AgentConfig, clock: Clock) -> Serving:
    """Return what speaks to the serving processes that the settings want."""
    paths = settings.serving_sockets
    memory = settings.run_dir / "serving-lives.msgpack"
    return ServingPool(paths, memory=memory, clock=clock) if len(paths) > 1 else ServingClient(paths[0])


class Lives(msgspec.Struct, frozen=True, kw_only=True):
    """Which processes make up the sum, and what each had counted before."""

    boot_id: BootId
    """Of the sum."""
    members: tuple[BootId, ...]
    base: tuple[Stats, ...] = ()


class ServingPool:
    """Speaks to all serving processes as `ServingClient` does to one."""

    def __init__(self, paths: Sequence[Path], *, memory: Path, clock: Clock) -> None:
        """`memory` is the file in which the lives of the processes outlive this one."""
        self._clients = [ServingClient(path) for path in paths]
        self._memory, self._clock = memory, clock
        self._lives = self._remembered()
        self._newest: dict[int, Stats] = {}
        self._since_s: float | None = None

    async def set_plan(self, plan: Plan) -> Applied:
        """Have all converge on `plan`; safe to repeat. Raises UnreachableError when none did."""
        if not self._lives.members:
            # The answer says whose it is, which nobody knows yet.
            await self.stats()
        answers = await self._of_all(lambda client: client.set_plan(plan))
        # One that has heard a newer plan meanwhile says nothing of this one.
        told = [each.slots for each in answers.values() if len(each.slots) == len(plan.slots)]
        slots = tuple(_worst(states) for states in zip(*told, strict=True))
        return Applied(serial=plan.serial, boot_id=self._lives.boot_id, slots=slots)

    async def stats(self) -> Stats:
        """Return the sum of what all have measured; one that never answers is killed, to be started again.

        Raises:
            UnreachableError: none answered this time, or not yet all of those that start with us.
        """
        answers = await self._of_all(ServingClient.stats)
        before, self._newest = self._newest, {**self._newest, **answers}
        if self._since_s is None:
            self._since_s = self._clock.monotonic()
        if len(self._newest) < len(self._clients) and self._clock.monotonic() - self._since_s < START_S:
            raise UnreachableError("not every serving process has started", retry_after_s=_RETRY_AFTER_S)
        # One that is away counts with its last word: what it counted has happened.
        newest = [self._newest[number] for number in sorted(self._newest)]
        await self._notice_lives(newest, {each.boot_id: each for each in before.values()})
        base = {each.boot_id: each for each in self._lives.base}
        grown = [sums.subtract(each, base[each.boot_id]) if each.boot_id in base else each for each in newest]
        return sums.add(grown, boot_id=self._lives.boot_id)

    async def close(self) -> None:
        """Drop the connections; a later call makes new ones."""
        for client in self._clients:
            await client.close()

    async def _notice_lives(self, newest: Sequence[Stats], before: Mapping[BootId, Stats]) -> None:
        """Begin the sum again when a process has; `before` is what the last sum was made of."""
        members = tuple(each.boot_id for each in newest)
        if members == self._lives.members:
            return
        # On first sight there is no last sum, and nothing was counted in one.
        base = tuple(before.get(each.boot_id, each) for each in newest if each.boot_id in self._lives.members)
        self._lives = Lives(boot_id=_name_of(members), members=members, base=base)
        await asyncio.to_thread(self._remember)

    def _remembered(self) -> Lives:
        try:
            return msgspec.msgpack.decode(self._memory.read_bytes(), type=Lives)
        except FileNotFoundError:
            _log.debug("serving_lives_absent", path=str(self._memory))
        except (OSError, *MALFORMED) as exc:
            _log.warning("serving_lives_forgotten", path=str(self._memory), error=str(exc))
        return Lives(boot_id=_name_of(()), members=())

    def _remember(self) -> None:
        fresh = self._memory.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.msgpack.encode(self._lives))
            fresh.replace(self._memory)
        except OSError as exc:
            # At worst, part of what was counted is counted twice after the next start of control.
            _log.warning("serving_lives_not_kept", path=str(self._memory), error=str(exc))

    async def _of_all(self, ask: Callable[[ServingClient], Awaitable[Answer]]) -> dict[int, Answer]:
        """Ask all at once; returns the answers by number. Raises UnreachableError when there is none."""
        answers: dict[int, Answer] = {}
        silent: list[UnreachableError] = []

        async def ask_one(number: int, client: ServingClient) -> None:
            try:
                answers[number] = await ask(client)
            except UnreachableError as exc:
                silent.append(exc)

        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(self._clients):
                group.create_task(ask_one(number, client))
        if not answers:
            raise silent[0]
        return answers


def _worst(states: Sequence[SlotState]) -> SlotState:
    """Return what is true of a slot in all processes: it is loaded when all have loaded it."""
    failed = next((each for each in states if not each.loaded), None)
    # One that sleeps in some is awake in others: it is the fewest words that hold.
    return failed or next((each for each in states if not each.asleep), states[0])


def _name_of(members: Sequence[BootId]) -> BootId:
    return BootId(hashlib.sha256(" ".join(members).encode()).hexdigest()[:32])
