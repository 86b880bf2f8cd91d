"""`litefleet release`: what is signed and can be rolled out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from controller.cli.output import OUT, Format, FormatOption, percent, show_json, show_table, size
from controller.cli.session import session
from controller.views import ReleaseView

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.client import Client

app = typer.Typer(help="Signed releases: list them, look at one, remove one.", no_args_is_help=True)


@app.command("ls")
def list_releases(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the releases."""
    found = session(context).run(lambda api: api.releases())
    if output is Format.JSON:
        show_json(found)
        return
    show_table(
        ("RELEASE", "NAME", "ARTIFACTS", "SMALLEST"),
        (
            (r.release_id, r.name, str(len(r.artifacts)), size(min((a.length_bytes for a in r.artifacts), default=0)))
            for r in found
        ),
        empty="no release yet; next: litefleet model push FILE --name NAME --calibration C.npz --evaluation E.npz",
    )


@app.command()
def show(context: typer.Context, release: str, output: FormatOption = Format.TABLE) -> None:
    """Show one release: its artifacts and what was measured of them."""
    found = session(context).run(_one(release))
    if output is Format.JSON:
        show_json(found)
        return
    OUT.print(f"[bold]{found.name}[/bold]  {found.release_id}  manifest sha256 {found.manifest_sha256}")
    show_table(
        ("SCHEME", "SIZE", "ACCURACY", "SOURCE", "PROFILES", "SHA256"),
        (
            (
                a.scheme,
                size(a.length_bytes),
                percent(a.accuracy.artifact),
                percent(a.accuracy.source),
                " ".join(a.profiles),
                a.sha256[:12],
            )
            for a in found.artifacts
        ),
        empty="no artifact",
    )


@app.command("rm")
def remove(context: typer.Context, release: str) -> None:
    """Remove a release that no device and no rollout uses."""
    session(context).run(lambda api: api.call("DELETE", f"/releases/{release}"))
    OUT.print(f"removed {release}")


def _one(release: str) -> Callable[[Client], Awaitable[ReleaseView]]:
    return lambda api: api.get(f"/releases/{release}", ReleaseView)
