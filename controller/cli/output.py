"""How things are shown: tables for people, JSON for programs, errors on stderr with their remedy."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
_KIB = 1024
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]


def fail(message: str, *, reason: str = "", remedy: str = "", code: int = 1) -> NoReturn:
    """End the program with an error line on stderr, and what would help."""
    suffix = f" [dim]({reason})[/dim]" if reason else ""
    ERR.print(f"[red]error:[/red] {message}{suffix}", soft_wrap=True)
    if remedy:
        ERR.print(f"       {remedy}", soft_wrap=True)
    raise typer.Exit(code)


def show_json(value: object) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Write a table, or `empty` with the next command to type when there is nothing to show."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    if table.row_count:
        OUT.print(table)
    else:
        OUT.print(empty)


def size(count: int) -> str:
    """Return bytes as people read them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} GiB"


def percent(share: float) -> str:
    """Return a share (0..1) as per cent."""
    return f"{100 * share:.2f} %"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was, short."""
    if at is None:
        return "never"
    seconds = int((now - at.astimezone(UTC)).total_seconds())
    for unit, length in (("d", _DAY_S), ("h", _HOUR_S), ("min", _MINUTE_S)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{max(0, seconds)} s ago"


_COLOURS = {
    "running": "cyan",
    "in_progress": "cyan",
    "baking": "cyan",
    "completed": "green",
    "succeeded": "green",
    "pass": "green",
    "paused": "yellow",
    "inconclusive": "yellow",
    "rolling_back": "magenta",
    "rolled_back": "magenta",
    "failed": "red",
    "fail": "red",
    "rejected": "red",
    "aborted": "red",
    "timed_out": "red",
}


def word(state: str) -> str:
    """Return a state word in its colour; the word itself stays, so that nothing hangs on the colour."""
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state
