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
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)
SHORT_ID = 8
"""The end of a UUIDv7 is its random part: eight digits of it tell ids apart, its beginning is only a time."""
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
    line = Text.assemble(("error: ", "red"), message, (f" ({reason})" if reason else "", "dim"))
    ERR.print(line, soft_wrap=True)
    if remedy:
        ERR.print(Text(f"       {remedy}"), soft_wrap=True)
    raise typer.Exit(code)


def say(text: str | Text) -> None:
    """Write a line as it is: a command in it can be copied whole, and brackets in it are no markup."""
    OUT.print(Text(text) if isinstance(text, str) else text, soft_wrap=True)


def show_json(value: object) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, empty: str, to: Console | None = None
) -> None:
    """Write a table, or `empty` with the next command to type when there is nothing to show.

    Only the last column wraps; the others hold words that would be useless in pieces.
    """
    table = plain_table(columns)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    if table.row_count:
        (to or OUT).print(table)
    else:
        say(empty)


def plain_table(columns: Sequence[str]) -> Table:
    """Return a table without lines, whose last column takes what room is left."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    return table


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


def counted(count: int, thing: str) -> str:
    """Return `1 device`, `2 devices`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def short(minted_id: str) -> str:
    """Return the end of an id, by which every command takes it."""
    return minted_id[-SHORT_ID:]


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
    "aborting": "magenta",
    "failed": "red",
    "fail": "red",
    "rejected": "red",
    "aborted": "red",
    "timed_out": "red",
}


def word(state: str) -> Text:
    """Return a state word in its colour; the word itself stays, so that nothing hangs on the colour."""
    return Text(state, style=_COLOURS.get(state, ""))
