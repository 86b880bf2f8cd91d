"""`litefleet converters`: the front ends, each an environment of its own that is installed when it is needed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.output import Format, FormatOption
from controller.cli.program import run_module

app = typer.Typer(help="Front ends of conversion: install one, list them, remove one.", no_args_is_help=True)

_MODULE = "converters.environments"


class FrontEnd(StrEnum):
    """An environment that can be installed."""

    TF = "tf"
    TORCH = "torch"
    ONNX = "onnx"
    JAX = "jax"
    TFLITE = "tflite"


FrontEndArgument = Annotated[
    FrontEnd,
    typer.Argument(
        help="tf: .keras, SavedModel, TensorFlow.js. torch: .pt2. onnx: .onnx. jax: JAX, scikit-learn. "
        "tflite: the old tflite-runtime, to check models on it."
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        "--root", envvar="LITEFLEET_WORKERS_DIR", help="Folder of front ends. Default: ~/.cache/litefleet/workers."
    ),
]


@app.command()
def install(front_end: FrontEndArgument, root: RootOption = None, output: FormatOption = Format.TABLE) -> None:
    """Install a front end: the exact libraries of its lock file, each checked by its hash. It may take minutes."""
    _run("install", front_end, root=root, output=output)


@app.command("list")
def list_front_ends(root: RootOption = None, output: FormatOption = Format.TABLE) -> None:
    """List the front ends, where each is installed, and what it holds."""
    _run("list", root=root, output=output)


@app.command()
def remove(front_end: FrontEndArgument, root: RootOption = None, output: FormatOption = Format.TABLE) -> None:
    """Remove a front end from the disk."""
    _run("remove", front_end, root=root, output=output)


def _run(*words: str, root: Path | None, output: Format) -> None:
    where = [f"--root={root}"] if root is not None else []
    run_module(_MODULE, [*words, *where, *(["--json"] if output is Format.JSON else [])])
