"""Logging never ends the process that logs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

from agent.logs import Forgiving, set_up_for_people

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_line_for_a_full_disk_is_lost_and_the_next_is_tried() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    stream = Forgiving("utf-8", descriptor)
    try:
        for text in ("one", "two"):
            stream.write(text)
            stream.write("\n")
            stream.flush()
    finally:
        os.close(descriptor)


def test_line_with_letters_that_the_encoding_lacks_is_written_in_other_words(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        stream = Forgiving("ascii", descriptor)
        stream.write("ö\n")
        stream.flush()
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"\\xf6\n"


def test_command_that_a_person_watches_keeps_its_stdout_free_of_log_lines(capfd: pytest.CaptureFixture[str]) -> None:
    set_up_for_people()
    try:
        structlog.get_logger("any").info("slot_loaded")
    finally:
        structlog.reset_defaults()
    said = capfd.readouterr()
    assert said.out == ""
    assert "slot_loaded" in said.err
