from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
import typer
from rich.console import Console
from rich.text import Text

from controller.cli import output
from controller.cli.output import (
    ago,
    counted,
    fail,
    percent,
    plain_table,
    say,
    short,
    show_json,
    show_table,
    size,
    word,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (93_600, "91.4 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_size_is_shown_in_the_unit_that_fits(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s ago"),
        (0, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_ago_rounds_down_and_knows_no_future(seconds: float, shown: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == shown


def test_ago_of_what_never_was_is_never() -> None:
    assert ago(None, NOW) == "never"


def test_percent_has_two_digits() -> None:
    assert percent(0.97992) == "97.99 %"


def test_counted_knows_one_and_many() -> None:
    assert [counted(count, "device") for count in (0, 1, 2)] == ["0 devices", "1 device", "2 devices"]


def test_short_is_the_random_end_of_an_id() -> None:
    assert short("01a20578-13f6-7553-b0a0-080dd63405b0") == "d63405b0"


def test_word_in_colour_is_still_the_word() -> None:
    assert (word("failed").plain, word("failed").style) == ("failed", "red")
    assert (word("pending").plain, word("pending").style) == ("pending", "")


def test_fail_writes_to_stderr_and_ends_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ending:
        fail("labels [red]{...} are wrong", reason="invalid_input", remedy="see litefleet device ls", code=2)
    assert ending.value.exit_code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error: labels [red]{...} are wrong (invalid_input)\n       see litefleet device ls\n"


def test_say_keeps_a_command_on_one_line_and_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    command = "litefleet rollout start [RELEASE] " + "--wave 1 " * 30
    say(command)
    assert capsys.readouterr().out == command + "\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"name": "ä", "items": [1, 2]})
    assert capsys.readouterr().out == '{\n  "name": "ä",\n  "items": [\n    1,\n    2\n  ]\n}\n'


def test_table_empty_says_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("A", "B"), (), empty="nothing; next: litefleet demo")
    assert capsys.readouterr().out == "nothing; next: litefleet demo\n"


def test_table_cells_are_literal(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("SHAPE", "WHY"), [("[red]x", Text("fine", style="green"))], empty="")
    assert "[red]x" in capsys.readouterr().out


def test_table_wraps_only_its_last_column() -> None:
    table = plain_table(("NAME", "WHY"))
    table.add_row("door-1", "a reason that is much too long for the little room that is left beside it")
    sink = io.StringIO()
    Console(file=sink, width=30).print(table)
    lines = sink.getvalue().splitlines()
    assert lines[1].startswith("door-1  a reason")
    assert all(len(line) <= 30 for line in lines)
    assert all(line.startswith("        ") for line in lines[2:])


def test_consoles_write_results_and_remarks_to_different_streams() -> None:
    assert (output.OUT.stderr, output.ERR.stderr) == (False, True)
