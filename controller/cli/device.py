"""`litefleet device`: the fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from controller.cli.output import ERR, OUT, Format, FormatOption, ago, fail, show_json, show_table
from controller.cli.session import EXIT_USAGE, session
from shared.clock import SystemClock

if TYPE_CHECKING:
    from controller.client import Client
    from controller.views import DeviceView

app = typer.Typer(help="Devices: invite one, list them, look at one, label or remove one.", no_args_is_help=True)

LabelOption = Annotated[list[str] | None, typer.Option("--label", "-l", help="key=value; repeat for more.")]


@app.command("ls")
def list_devices(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="Label query, e.g. site=lab,arch!=x86_64.")] = "all",
    output: FormatOption = Format.TABLE,
) -> None:
    """List the devices that match a label query."""
    found = session(context).run(lambda api: api.devices(query))
    if output is Format.JSON:
        show_json(found)
        return
    now = SystemClock().now()
    show_table(
        ("DEVICE", "SITE", "LABELS", "SEEN", "RUNS"),
        ((d.device_id, d.site, _labels(d), ago(d.last_seen_at, now), _runs(d)) for d in found),
        empty="no device; next: litefleet device invite NAME --out NAME.invite",
    )


@app.command()
def show(context: typer.Context, device: str, output: FormatOption = Format.TABLE) -> None:
    """Show one device: what it should run, what it says it runs, and why they differ."""
    found = session(context).run(lambda api: api.device(device))
    if output is Format.JSON:
        show_json(found)
        return
    now = SystemClock().now()
    OUT.print(f"[bold]{found.device_id}[/bold]  site {found.site}  {_labels(found)}")
    OUT.print(f"seen        {ago(found.last_seen_at, now)}")
    OUT.print(f"generation  desired {found.generation}, observed {found.observed_generation}")
    for model, release in found.desired.items():
        OUT.print(f"desired     {model}: {release}")
    for slot in found.slots:
        OUT.print(f"reported    {slot.model}: {slot.stable or slot.unavailable_reason or 'nothing'}")
        if slot.candidate:
            OUT.print(f"            {slot.model}: candidate {slot.candidate}")
    if found.explanation:
        OUT.print(f"why         {found.explanation}")


@app.command()
def invite(
    context: typer.Context,
    device: str,
    out: Annotated[Path, typer.Option("--out", "-f", help="File for the invite; it holds a one-time secret.")],
    site: Annotated[str, typer.Option(help="Place and link that it shares with others.")] = "default",
    label: LabelOption = None,
) -> None:
    """Make a device known and write the invite with which it enrols, once, within minutes."""
    labels = parse_labels(label or [])
    invitation = session(context).run(lambda api: api.invite(device, site=site, labels=labels))
    write_secret(out, msgspec.json.encode(invitation))
    ERR.print(f"invite written to {out}, good until {invitation.expires_at:%H:%M:%S} UTC")
    OUT.print(f"next, on the device: litefleet-agent enrol --invite {out.name} --state /var/lib/litefleet-agent")


@app.command()
def label(context: typer.Context, device: str, label: LabelOption = None) -> None:
    """Replace the labels of a device; assignments that it already has stay as they are."""
    labels = parse_labels(label or [])
    session(context).run(lambda api: api.call("PATCH", f"/devices/{device}", {"labels": labels}))
    OUT.print(f"{device}: {' '.join(f'{k}={v}' for k, v in labels.items()) or 'no labels'}")


@app.command("rm")
def remove(context: typer.Context, device: str) -> None:
    """Remove a device: its keys stop working and nothing is sent to it any more."""

    async def work(api: Client) -> None:
        await api.call("DELETE", f"/devices/{device}")

    session(context).run(work)
    OUT.print(f"removed {device}")


def parse_labels(pairs: list[str]) -> dict[str, str]:
    """Read `key=value` pairs; ends the program on anything else."""
    labels = {}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not (key and mark and value):
            fail(f"label {pair!r} is not key=value", code=EXIT_USAGE)
        labels[key] = value
    return labels


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; an existing one is not overwritten."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        fail(f"cannot write {path}: {exc.strerror}", code=EXIT_USAGE)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(content)


def _labels(device: DeviceView) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(device.labels.items()))


def _runs(device: DeviceView) -> str:
    if device.removed:
        return "removed"
    if not device.enrolled:
        return "invited, not enrolled yet"
    return (
        " ".join(f"{s.model}:{(s.stable or s.unavailable_reason or 'nothing')[-12:]}" for s in device.slots)
        or "nothing"
    )
