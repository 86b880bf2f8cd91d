"""`litefleet release`: what is signed and can be rolled out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.naming import release_id
from controller.cli.output import Format, FormatOption, ago, percent, say, short, show_json, show_table, size
from controller.cli.session import session
from controller.views import ReleaseView
from shared.clock import SystemClock

if TYPE_CHECKING:
    from controller.client import Client

app = typer.Typer(help="Signed releases: list them, look at one, remove one.", no_args_is_help=True)

ReleaseArgument = Annotated[
    str, typer.Argument(metavar="RELEASE", help="MODEL/NUMBER, or an id or its beginning or end.")
]


@app.command("ls")
def list_releases(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the releases, newest first."""
    found = session(context).run(lambda api: api.releases())
    if output is Format.JSON:
        show_json(found)
        return
    now = SystemClock().now()
    show_table(
        ("RELEASE", "ID", "MADE", "SMALLEST", "SCHEMES"),
        (
            (
                r.name,
                short(r.release_id),
                ago(r.created_at, now),
                size(min((a.length_bytes for a in r.artifacts), default=0)),
                " ".join(a.scheme for a in r.artifacts),
            )
            for r in found
        ),
        empty="no release yet; next: litefleet model push FILE --name NAME --data DIR",
    )


@app.command()
def show(context: typer.Context, release: ReleaseArgument, output: FormatOption = Format.TABLE) -> None:
    """Show one release: its artifacts and what was measured of them."""

    async def work(api: Client) -> ReleaseView:
        return await api.release(await release_id(api, release))

    found = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    say(f"release   {found.name}")
    say(f"id        {found.release_id}")
    say(f"manifest  sha256 {found.manifest_sha256}\n")
    show_table(
        ("SCHEME", "SIZE", "ACCURACY", "SOURCE", "SHA256", "PROFILES"),
        (
            (
                a.scheme,
                size(a.length_bytes),
                percent(a.accuracy.artifact),
                percent(a.accuracy.source),
                a.sha256[:12],
                " ".join(a.profiles),
            )
            for a in found.artifacts
        ),
        empty="no artifact",
    )


@app.command("rm")
def remove(context: typer.Context, release: ReleaseArgument, output: FormatOption = Format.TABLE) -> None:
    """Remove a release that no device and no rollout uses."""

    async def work(api: Client) -> str:
        found = await release_id(api, release)
        await api.delete(f"/releases/{found}")
        return found

    removed = session(context).run(work)
    if output is Format.JSON:
        show_json({"removed": removed})
        return
    say(f"removed release {release}")
