"""`litefleet conversion`: what a conversion made, and what devices measure of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.conversion_screen import artifact_name, show_artifacts, show_budgets, show_measurements
from controller.cli.convert_screen import show_candidates
from controller.cli.naming import the_one
from controller.cli.output import ERR, Format, FormatOption, fail, say, short, show_json, show_table, word
from controller.cli.session import EXIT_FAILED, EXIT_TIMEOUT, session
from controller.views import ReleaseView
from shared.clock import SystemClock

if TYPE_CHECKING:
    from controller.client import Client
    from controller.views import ConversionView, MeasurementView

app = typer.Typer(help="Conversions: what they made, and what devices measure of it.", no_args_is_help=True)

_POLL_S = 0.5
ConversionArgument = Annotated[
    str, typer.Argument(metavar="CONVERSION", help="Its id, or the beginning or the end of it.")
]

MeasureOnOption = Annotated[
    list[str] | None,
    typer.Option("--measure-on", metavar="DEVICE", help="Have a device time it before it is released; repeat."),
]


@app.command("ls")
def list_conversions(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the conversions, newest first."""
    found = session(context).run(lambda api: api.conversions())
    if output is Format.JSON:
        show_json(found)
        return
    show_table(
        ("CONVERSION", "VERSION", "STATE", ""),
        ((short(c.conversion_id), f"{c.model}/{c.version_number}", word(c.state), c.message) for c in found),
        empty="no conversion yet; next: litefleet model push FILE --name NAME --data DIR",
    )


@app.command()
def show(context: typer.Context, conversion: ConversionArgument, output: FormatOption = Format.TABLE) -> None:
    """Show what a conversion made, what devices measured of it, and which budgets for latency hold."""

    async def work(api: Client) -> ConversionView:
        return await api.conversion(await _id(api, conversion))

    found = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    why = f": {found.message}" if found.message else ""
    say(f"conversion {short(found.conversion_id)} of {found.model}/{found.version_number} {found.state}{why}\n")
    if found.candidates:
        show_candidates(found.candidates)
        say("")
    show_artifacts(found.artifacts)
    if any(artifact.budgets for artifact in found.artifacts):
        say("")
        show_budgets(found.artifacts)
    say("")
    measured = [one for artifact in found.artifacts for one in artifact.measurements]
    _show_measured(found, measured)


@app.command()
def measure(
    context: typer.Context,
    conversion: ConversionArgument,
    device: Annotated[str, typer.Option("--device", "-d", help="An enrolled device of a class that it is for.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the figures; exit code 1 when one failed.")] = False,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=0, metavar="SECONDS", help="Longest time to wait; then the exit code is 3."),
    ] = 900,
    output: FormatOption = Format.TABLE,
) -> None:
    """Have a device time the artifacts of a conversion, before any of them is released.

    It does so in a throw-away process while nothing is rolled out to it, and serves on meanwhile. From then on its
    95th percentile stands for the converter's wherever a profile has a budget for latency.
    """

    async def work(api: Client) -> tuple[ConversionView, list[MeasurementView]]:
        conversion_id = await _id(api, conversion)
        asked = (await api.measure(conversion_id, device)).items
        if wait:
            asked = await await_measured(api, conversion_id, asked, timeout_s)
        return await api.conversion(conversion_id), asked

    found, measured = session(context).run(work)
    if output is Format.JSON:
        show_json(measured)
    else:
        _show_measured(found, measured)
        if wait and any(artifact.budgets for artifact in found.artifacts):
            say("")
            show_budgets(found.artifacts)
    if not wait and output is Format.TABLE:
        say(f"\nnext: litefleet conversion show {short(found.conversion_id)}")
    if any(one.state == "failed" for one in measured):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def release(context: typer.Context, conversion: ConversionArgument, output: FormatOption = Format.TABLE) -> None:
    """Sign what a conversion made as a release, by all that is known of it now; again, it is the same."""

    async def work(api: Client) -> ReleaseView:
        return await api.post("/releases", {"conversion_id": await _id(api, conversion)}, ReleaseView)

    released = session(context).run(work)
    if output is Format.JSON:
        show_json(released)
        return
    say(f"released {released.name}  ({released.release_id})\n")
    show_artifacts(released.artifacts)


async def await_measured(
    api: Client, conversion_id: str, asked: list[MeasurementView], timeout_s: float
) -> list[MeasurementView]:
    """Return the measurements as they ended; ends the program when they do not in time."""
    chosen = {(one.sha256, one.device_id) for one in asked}
    try:
        async with asyncio.timeout(timeout_s):
            with ERR.status(f"measuring {len(chosen)} artifacts on {asked[0].device_id}"):
                while any(one.state in {"queued", "sent"} for one in asked):
                    await asyncio.sleep(_POLL_S)
                    known = (await api.measurements(conversion_id)).items
                    asked = [one for one in known if (one.sha256, one.device_id) in chosen]
                return asked
    except TimeoutError:
        waiting = sum(one.state in {"queued", "sent"} for one in asked)
        fail(
            f"{waiting} of {len(asked)} not measured after {timeout_s:g} s",
            remedy="it goes on: the same command again waits for it; is the device connected, and at rest?",
            reason="timeout",
            code=EXIT_TIMEOUT,
        )


def _show_measured(found: ConversionView, measured: list[MeasurementView]) -> None:
    show_measurements(
        measured,
        {artifact.sha256: artifact_name(artifact) for artifact in found.artifacts},
        now=SystemClock().now(),
        empty=f"measured on no device; next: litefleet conversion measure {short(found.conversion_id)} --device DEVICE",
    )


async def _id(api: Client, typed: str) -> str:
    return the_one(typed, [one.conversion_id for one in await api.conversions()], kind="conversion")
