"""What the demo shows: one line for each thing that happened, and the rollout's lanes while one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from controller.cli.rollout_screen import waves_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller.demo.load import Tally
    from controller.views import RolloutView
    from shared.clock import Clock


class Screen:
    """Prints to the terminal; without one (a pipe, CI) only the lines are printed, none of the moving parts."""

    def __init__(self, clock: Clock) -> None:
        self._console = Console(highlight=False)
        self._clock = clock
        self._started = clock.monotonic()
        self._live: Live | None = None

    def title(self, text: str) -> None:
        """Start a chapter."""
        self._console.print(f"\n[bold]{text}[/bold]")

    def step(self, text: str) -> None:
        """Say what is being done."""
        self._line(Text("…", style="dim"), text)

    def done(self, text: str) -> None:
        """Say what was achieved."""
        self._line(Text("✓", style="green"), text)

    def verdict(self, text: str) -> None:
        """Show a decision of the controller."""
        self._line(Text("▸", style="cyan"), text)

    def warn(self, text: str) -> None:
        """Say what is not as it should be in earnest use."""
        self._line(Text("!", style="yellow"), text)

    def show(self, *renderables: RenderableType) -> None:
        """Print tables and text as they are."""
        self._console.print(*renderables, sep="\n")

    def commands(self, *lines: str) -> None:
        """Print lines to be copied, none of them wrapped."""
        self._console.print("\n".join(lines), soft_wrap=True, markup=False)

    def rollout(self, rollout: RolloutView, tally: Tally | None) -> None:
        """Show how a rollout stands, in place."""
        if not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        requests = f"  inference: {tally.requests} requests, {tally.failed} failed" if tally else ""
        why = Text(f"{rollout.explanation or rollout.reason}{requests}", style="dim")
        self._live.update(Group(waves_table(rollout.waves), why), refresh=True)

    def settle(self) -> None:
        """End the moving part; what follows is printed below the lines so far."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, sign: Text, text: str) -> None:
        elapsed = Text(f"{self._clock.monotonic() - self._started:5.1f} s", style="dim")
        if not self._console.is_terminal:  # a log is read in windows of any width, and searched by line
            self._console.print(Text.assemble(elapsed, " ", sign, " ", text), soft_wrap=True)
            return
        # Three columns, so that what does not fit a line goes on below its own beginning.
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(elapsed, sign, Text(text))
        self._console.print(line)
