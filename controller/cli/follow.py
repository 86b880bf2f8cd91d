"""Following a rollout to its end: lanes that move in a terminal, a line for each decision anywhere else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer
from rich.live import Live
from rich.text import Text

from controller.cli.naming import release_names, rollout_id
from controller.cli.output import ERR, OUT, Format, fail, short, show_json
from controller.cli.rollout_screen import release_of, rollout_panel
from controller.cli.session import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TIMEOUT, Session
from shared.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.client import Client
    from controller.views import RolloutView

_POLL_S = 0.5
_PATIENCE_S = 60.0
"""A controller that restarts is back sooner; what does not answer for longer is down."""
ENDED = frozenset({"completed", "aborted", "rolled_back"})


def follow(session: Session, typed: str, *, timeout_s: float, output: Format) -> None:
    """Follow a rollout and end the program: 0 completed, 1 ended otherwise, 3 not ended in time."""
    follower = _Follower(typed, table=output is Format.TABLE)
    try:
        session.run(lambda api: follower.within(api, timeout_s))
    except typer.Exit as ending:
        if ending.exit_code == EXIT_INTERRUPTED and follower.seen is not None:
            ERR.print(f"the rollout goes on; litefleet rollout watch {short(follower.seen.rollout_id)}")
        raise
    found = follower.seen
    if found is None or found.state not in ENDED:
        why = f": {found.explanation or found.reason}" if found is not None else ""
        fail(f"rollout {typed} has not ended after {timeout_s:g} s{why}", reason="timeout", code=EXIT_TIMEOUT)
    if output is Format.JSON:
        show_json(found)
    else:
        OUT.print(rollout_panel(found, release=release_of(found, follower.names)))
    if found.state != "completed":
        raise typer.Exit(EXIT_FAILED)


class _Follower:
    """One rollout, read again and again."""

    def __init__(self, typed: str, *, table: bool) -> None:
        self._typed = typed
        self._table = table
        self._lines = 0
        self.seen: RolloutView | None = None
        self.names: Mapping[str, str] = {}

    async def within(self, api: Client, timeout_s: float) -> None:
        """Follow until the rollout ends, at most so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._follow(api, await rollout_id(api, self._typed))
        except TimeoutError:
            return

    async def _follow(self, api: Client, rollout: str) -> None:
        if self._table:
            self.names = await release_names(api)
        with Live(console=OUT, auto_refresh=False, transient=True) as live:
            while True:
                before = self.seen
                found = self.seen = await self._read(api, rollout)
                if self._table:
                    if before is None or (before.reason, before.state) != (found.reason, found.state):
                        await self._tell_decisions(api, rollout, live)
                    if OUT.is_terminal:
                        live.update(rollout_panel(found, release=release_of(found, self.names)), refresh=True)
                if found.state in ENDED:
                    return
                await asyncio.sleep(_POLL_S)

    async def _read(self, api: Client, rollout: str) -> RolloutView:
        """Read the rollout; a controller that restarts meanwhile is waited for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_PATIENCE_S if self.seen is not None else 0.0)
        told = False
        while True:
            try:
                return await api.rollout(rollout)
            except UnreachableError as exc:
                if loop.time() >= deadline:
                    raise
                if not told:
                    ERR.print(Text(f"{exc}; trying again for {_PATIENCE_S:g} s"), soft_wrap=True)
                told = True
                await asyncio.sleep(_POLL_S)

    async def _tell_decisions(self, api: Client, rollout: str, live: Live) -> None:
        decisions = await api.decisions(rollout)
        for decision in decisions[self._lines :]:
            line = Text.assemble((f"{decision.at:%H:%M:%S}  ", "dim"), decision.explanation or decision.reason)
            live.console.print(line)
        self._lines = len(decisions)
