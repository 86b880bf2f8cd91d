"""`litefleet converters`: the front ends, each an environment of its own that is installed when it is needed."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.output import Format, FormatOption, fail
from controller.cli.program import EXIT_NO_ENVIRONMENT, become_module, run_module

app = typer.Typer(
    help="Front ends of conversion: install, list, remove; serve lends this machine to a controller.",
    no_args_is_help=True,
)

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
        metavar="NAME",
        help="tf: .keras, SavedModel, TensorFlow.js. torch: .pt2. onnx: .onnx. jax: JAX, scikit-learn. "
        "tflite: the old tflite-runtime, to check models on it.",
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


@app.command()
def serve(
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="The cluster's scheduler, e.g. tls://scheduler.example:8786.")
    ],
    ca: Annotated[
        Path | None, typer.Option("--ca", help="Who vouches for all parts of the cluster, and for nobody else (PEM).")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="This machine's certificate in the cluster (PEM).")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Key of that certificate (PEM).")] = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=64, help="Conversions at once; each takes convert_threads cores.")
    ] = 1,
    folder: Annotated[
        Path, typer.Option("--folder", help="Where this worker works and keeps what was sent; no other may share it.")
    ] = Path("~/.cache/litefleet/cluster"),
    keep_gib: Annotated[
        float, typer.Option("--keep-gib", min=0, help="Models and data to keep, so that they are sent once; in GiB.")
    ] = 8.0,
    root: RootOption = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address at which the scheduler reaches this machine. Default: found.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="TCP port for that; 0: any that is free.")] = 0,
) -> None:
    """Lend this machine to a controller's conversions, until told to end; needs litefleet[converters,cluster].

    Whoever may connect to the cluster may run code on this machine: tls:// takes certificates of an authority that
    vouches for the cluster alone; tcp:// is taken on loopback only. A scheduler that is away is looked for.
    """
    if importlib.util.find_spec("distributed") is None:
        remedy = "pip install 'litefleet[converters,cluster]'"
        fail("distributed is not installed here", reason="no_environment", remedy=remedy, code=EXIT_NO_ENVIRONMENT)
    given = {
        "--ca": ca,
        "--certificate": certificate,
        "--key": key,
        "--folder": folder,
        "--root": root,
        "--host": host,
        "--scheduler": scheduler,
        "--slots": slots,
        "--keep-gib": keep_gib,
        "--port": port,
    }
    become_module("converters.serve", [f"{name}={value}" for name, value in given.items() if value is not None])


def _run(*words: str, root: Path | None, output: Format) -> None:
    where = [f"--root={root}"] if root is not None else []
    run_module(_MODULE, [*words, *where, *(["--json"] if output is Format.JSON else [])])
