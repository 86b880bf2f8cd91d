"""`litefleet dataset`: the data that models are fitted to, searched on and judged by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller import dataset_folder
from controller.cli.output import Format, FormatOption, counted, fail, say, show_json, show_table, size
from controller.cli.program import run_module
from controller.cli.session import EXIT_USAGE, session
from controller.cli.transfer import push_dataset, transfer_bar
from shared import dataset
from shared.dataset import DATASET_FILE, DatasetSpec, Split
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from controller.client import Client
    from controller.views import DatasetView

app = typer.Typer(help="Data for conversions: describe a folder, make one, push it.", no_args_is_help=True)

NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="What it is called. Default: as the folder or file.")
]
LicenceOption = Annotated[
    str, typer.Option("--licence", help="SPDX identifier, or proprietary: a model's card says what judged it.")
]
LabelsOption = Annotated[
    str,
    typer.Option("--labels", help="Names of the classes in their order, with commas. Default: numbers, or folders."),
]

SlicesOption = Annotated[str, typer.Option("--slices", help="Names of the slices in their order, with commas.")]


@app.command()
def describe(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The folder of shards.")],
    name: NameOption = None,
    licence: LicenceOption = "proprietary",
    labels: LabelsOption = "",
    slices: SlicesOption = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Write dataset.json for a folder: calibration, search and gate shards, told apart by their names.

    Shards are .npz with x (and y, slice), or .npy of one of these: gate.npz, gate-1.npz, search/x.npy. Pictures in
    SPLIT/LABEL/*.jpg are packed into one stored .zip for each split. The same files give the same document.
    """
    try:
        spec = dataset_folder.describe(
            folder,
            name=name or folder.resolve().name,
            licence=licence,
            labels=_listed(labels),
            slices=_listed(slices),
        )
    except InvalidInputError as exc:
        fail(str(exc), code=EXIT_USAGE)
    except OSError as exc:
        fail(f"{exc.filename or folder}: {exc.strerror}", code=EXIT_USAGE)
    _show(folder, spec, output)


@app.command()
def make(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help=".npz with x; y if there are labels, slice if slices."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; made if missing.")],
    name: NameOption = None,
    licence: LicenceOption = "proprietary",
    labels: LabelsOption = "",
    slices: SlicesOption = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the permutation: another one cuts otherwise.")] = 0,
    shares: Annotated[
        str, typer.Option(help="Parts for calibration, search and gate; the gate needs the most.")
    ] = "0.1,0.3,0.6",
    output: FormatOption = Format.TABLE,
) -> None:
    """Cut one .npz, shuffled by a seed, into calibration, search and gate. Give it nothing that was trained on."""
    run_module("converters.dataset_split", [str(file), f"--out={out}", f"--seed={seed}", f"--shares={shares}"])
    describe(out, name or file.stem, licence, labels, slices, output)


@app.command()
def push(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Folder with dataset.json.")
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Bring a dataset to the controller: only the shards that it misses are sent, from where they were cut."""

    async def work(api: Client) -> DatasetView:
        with transfer_bar() as bar:
            return await push_dataset(api, bar, folder)

    pushed = session(context).run(work)
    if output is Format.JSON:
        show_json(pushed)
        return
    say(f"dataset {pushed.name}  {pushed.sha256}")
    say(f"{counted(pushed.shards, 'shard')}, {size(pushed.size_bytes)}, {pushed.licence}")


@app.command("ls")
def list_datasets(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the datasets."""
    found = session(context).run(lambda api: api.datasets())
    if output is Format.JSON:
        show_json(found)
        return
    show_table(
        ("DATASET", "NAME", "KIND", "SHARDS", "SIZE", "LICENCE"),
        ((d.sha256[:12], d.name, d.kind, str(d.shards), size(d.size_bytes), d.licence) for d in found),
        empty="no dataset yet; next: litefleet dataset describe DIR, then litefleet dataset push DIR",
    )


def _show(folder: Path, spec: DatasetSpec, output: Format) -> None:
    if output is Format.JSON:
        show_json(spec)
        return
    say(f"wrote {folder / DATASET_FILE}  ({dataset.digest(spec)[:12]})\n")
    show_table(
        ("SPLIT", "SHARDS", "SIZE"),
        (
            (split, str(len(lengths)), size(sum(lengths)))
            for split in Split
            if (lengths := [shard.length_bytes for shard in spec.shards if shard.split is split])
        ),
        empty="",
    )
    say(f"\nnext: litefleet convert FILE --data {folder}")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
