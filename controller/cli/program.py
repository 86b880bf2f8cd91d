"""Programs of the converters package, run as processes: the operator's command line has none of their libraries."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import typer

from controller.cli.output import fail
from controller.cli.session import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_NO_ENVIRONMENT = 5
_END_S = 2.0
_ALWAYS = ("converters", "numpy", "ai_edge_litert")


def check_installed() -> None:
    """End the program with the command to type when this installation has no converters."""
    missing = next((name for name in _ALWAYS if importlib.util.find_spec(name) is None), "")
    if missing:
        remedy = "pip install 'litefleet[converters]'"
        fail(f"{missing} is not installed here", reason="no_environment", remedy=remedy, code=EXIT_NO_ENVIRONMENT)


def become_module(module: str, arguments: Sequence[str]) -> None:
    """Become `python -m module`: what runs until it is told to end gets every signal itself."""
    check_installed()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell, and our own program


def run_module(module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module` on this terminal; one that fails ends this program with the same exit code."""
    check_installed()
    # Safe path: the operator may stand in a folder of downloaded models, whose files are no modules of ours.
    with subprocess.Popen([sys.executable, "-P", "-m", module, *arguments]) as program:
        try:
            code = program.wait()
        except KeyboardInterrupt:
            # The terminal sent the signal to both; whoever takes too long over it is ended.
            try:
                program.wait(_END_S)
            except subprocess.TimeoutExpired:
                program.kill()
            raise typer.Exit(EXIT_INTERRUPTED) from None
    if code:
        raise typer.Exit(code if code > 0 else 1)
