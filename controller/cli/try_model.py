"""`litefleet model try`: a release in a browser, beside a device that serves it."""

from __future__ import annotations

import asyncio
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.naming import release_id
from controller.cli.output import fail, say
from controller.cli.session import EXIT_USAGE, session

if TYPE_CHECKING:
    from controller.browser.release import Proven
    from controller.client import Client
    from controller.views import ReleaseView

_DEVICE = "http://127.0.0.1:8080"
_TRUST = Path("~/.local/state/litefleet/trust")


def try_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name; the newest release of it.")],
    release: Annotated[
        int | None, typer.Option("--release", min=1, metavar="N", help="Another release: MODEL/N.")
    ] = None,
    device_url: Annotated[
        str, typer.Option("--device-url", metavar="URL", help="Inference API of a device that serves it.")
    ] = _DEVICE,
    scheme: Annotated[
        str, typer.Option("--scheme", help="Which artifact; default: the one that the device runs.")
    ] = "",
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            exists=True,
            dir_okay=False,
            help="File with the repository's root; default: the one believed before.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Loopback port of the page; 0: any.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in this machine's browser.")] = False,
) -> None:
    """Run a release in a web page, and show how its answers agree with a device's.

    The page is served to this machine alone until Ctrl-C; the file is proven here, and its digest again in the page.
    """
    from controller.browser import server

    if not device_url.startswith(("http://", "https://")):
        fail(f"--device-url {device_url!r} is no http:// or https:// address", code=EXIT_USAGE)
    if server.FILES.find(server.RUNTIME) is None:
        remedy = "in a checkout: make web (it needs npm), and install from there"
        fail("this installation was made without the runtime for browsers", remedy=remedy)

    async def work(api: Client) -> None:
        proven = await _proven(context, api, model, release, device_url=device_url, scheme=scheme, root=root)
        say(f"{proven.name} {proven.artifact.scheme}, sha256 {proven.artifact.sha256}")
        say(proven.signature)

        def announce(url: str) -> None:
            say(f"open {url} (Ctrl-C ends it)")
            if browser and not webbrowser.open(url):
                say("no browser could be opened here: type the address into one")

        await server.serve(proven, device_url, port=port, announce=announce)

    session(context).run(work)


async def _proven(
    context: typer.Context,
    api: Client,
    model: str,
    number: int | None,
    *,
    device_url: str,
    scheme: str,
    root: Path | None,
) -> Proven:
    import aiohttp

    from controller.browser import release, server

    where = session(context)
    found = await _release(api, model, number)
    async with aiohttp.ClientSession() as http:
        beside = await server.ask_device(http, device_url, found.model, found.version_number)
    installation = (await api.status()).installation_id
    ground = release.Ground(
        url=where.url, token=where.token(), folder=await asyncio.to_thread(_folder, installation), root=root
    )
    running = beside.model.artifact_sha256 if beside.model else ""
    return await release.fetch(api, ground, found, scheme=scheme, running=running)


def _folder(installation: str) -> Path:
    return (_TRUST / installation).expanduser()


async def _release(api: Client, model: str, number: int | None) -> ReleaseView:
    if number is not None:
        return await api.release(await release_id(api, f"{model}/{number}"))
    mine = [one for one in await api.releases() if one.model == model]
    if not mine:
        fail(f"model {model} has no release", remedy="see litefleet release ls")
    return max(mine, key=lambda one: one.release_counter)
