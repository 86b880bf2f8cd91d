"""`litefleet inspect`: what is in a .tflite file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.output import Format, FormatOption
from controller.cli.program import run_module


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The .tflite file.")],
    output: FormatOption = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="As --output json.")] = False,
) -> None:
    """Show what a .tflite file is made of: operators, parameters, arithmetic, inputs, outputs, types of weights.

    Exit codes: 0 shown; 1 the file is damaged or no .tflite.
    """
    words = ("--json",) if as_json or output is Format.JSON else ()
    run_module("converters.inspect", [str(file), *words])
