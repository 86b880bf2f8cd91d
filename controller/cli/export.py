"""`litefleet release export`: a release in a folder, of which `docker build` makes a server on its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller import image_context
from controller.cli.naming import release_id
from controller.cli.output import Format, FormatOption, fail, say, show_json
from controller.cli.session import EXIT_USAGE, session
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from controller.client import Client
    from controller.views import ExportView
    from shared.wire import TargetRef


def export(
    context: typer.Context,
    release: Annotated[str, typer.Argument(metavar="RELEASE", help="MODEL/NUMBER, or an id or its beginning or end.")],
    image_folder: Annotated[
        Path, typer.Option("--image-context", metavar="DIR", help="A folder that is not there yet, or is empty.")
    ],
    profile: Annotated[
        str, typer.Option(metavar="ID", help="Hardware profile; default: the one that the release prefers.")
    ] = "",
    source: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Checkout to build from; default: where this program lies."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Write a folder that `docker build` makes a verified server of one release from, without a controller."""
    checkout = source or image_context.default_source()

    async def work(api: Client) -> ExportView:
        found = await api.export(await release_id(api, release), profile)
        with image_context.written_whole(image_folder) as folder:
            image_context.write_source(checkout, folder)
            image_context.write_trust(folder, found)
            image_context.write_recipe(checkout, folder, found)
            await _fetch(api, folder / image_context.EXPORTED / "release", found)
        return found

    try:
        image_context.check_target(image_folder)
        image_context.check_source(checkout)
    except OSError as exc:
        fail(f"{exc.filename or image_folder}: {exc.strerror}", code=EXIT_USAGE)
    except InvalidInputError as exc:
        fail(str(exc), code=EXIT_USAGE)
    try:
        made = session(context).run(work)
    except OSError as exc:
        # Nothing is wrong with what was typed: the disk is full, say.
        fail(f"{exc.filename or image_folder}: {exc.strerror}")
    wanted = made.wanted
    if output is Format.JSON:
        show_json({"release_id": wanted.release_id, "profile": wanted.profile_id, "root_sha256": made.root_sha256})
        return
    say(f"wrote {image_folder}: {wanted.model} for {wanted.profile_id}, root of trust {made.root_sha256[:12]}")
    say(f"next: docker build --tag {wanted.model} {image_folder}")


async def _fetch(api: Client, folder: Path, found: ExportView) -> None:
    files: dict[str, TargetRef] = {"manifest.json": found.wanted.manifest, "model.tflite": found.wanted.artifact}
    files |= {f"components/{part.name}.tflite": part.artifact for part in image_context.components_of(found)}
    for name, ref in files.items():
        await api.download(folder / name, sha256=ref.sha256, length_bytes=ref.length_bytes)
