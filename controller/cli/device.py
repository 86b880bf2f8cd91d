"""`litefleet device`: the fleet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from controller.cli import request_log, traffic
from controller.cli.naming import called, release_names
from controller.cli.output import ERR, Format, FormatOption, ago, counted, fail, say, show_json, show_table
from controller.cli.session import EXIT_USAGE, session
from controller.cli.traffic import rule_in_words
from shared.clock import SystemClock
from shared.ids import ModelName
from shared.traffic import MAIN, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.client import Client
    from controller.views import DeviceView, DriftView, SlotView

app = typer.Typer(
    help="Devices: invite one, list them, look at one, label or remove one, divide its traffic.", no_args_is_help=True
)
app.add_typer(traffic.app, name="traffic")
app.add_typer(request_log.app, name="request-log")

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name.")]
LabelOption = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Repeat for more.")]


@app.command("ls")
def list_devices(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="[QUERY]", help="E.g. site=lab,arch!=x86_64.")] = "all",
    output: FormatOption = Format.TABLE,
) -> None:
    """List the devices that match a label query."""

    async def work(api: Client) -> tuple[list[DeviceView], Mapping[str, str]]:
        return await api.devices(query), await release_names(api)

    found, names = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    now = SystemClock().now()
    show_table(
        ("DEVICE", "SITE", "SEEN", "RUNS", "LABELS"),
        ((d.device_id, d.site, ago(d.last_seen_at, now), runs(d, names), _labels(d)) for d in found),
        empty=(
            "no device; next: litefleet device invite NAME --out NAME.invite"
            if query == "all"
            else f"no device matches {query}"
        ),
    )


@app.command()
def show(context: typer.Context, device: DeviceArgument, output: FormatOption = Format.TABLE) -> None:
    """Show one device: what it should run, what it says it runs, and why they differ."""

    async def work(api: Client) -> tuple[DeviceView, Mapping[str, str], list[DriftView]]:
        return await api.device(device), await release_names(api), await api.drift(device)

    found, names, drift = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    say(f"device      {found.device_id}  ({found.architecture or 'not enrolled yet'})")
    say(f"site        {found.site}")
    say(f"labels      {_labels(found) or 'none'}")
    say(f"seen        {ago(found.last_seen_at, SystemClock().now())}")
    say(f"generation  desired {found.generation}, observed {found.observed_generation}")
    for line, release in found.desired.items():
        _, _, variant = line.partition("@")
        say(f"desired     {called(release, names)}{f' as {variant}' if variant else ''}")
    for rule in found.traffic:
        say(f"traffic     {rule.model}: {rule_in_words(rule)}")
    for slot in found.slots:
        _say_slot(slot, names)
    for figure in drift:
        if figure.alarms:
            looks = f"{figure.alarms} of {figure.looks} looks in the last day"
            say(f"drift       {called(figure.release_id, names)}: {figure.figure} is unlike its reference ({looks})")
    say(f"why         {found.explanation or 'it runs what it should'}")


@app.command()
def invite(
    context: typer.Context,
    device: DeviceArgument,
    out: Annotated[Path, typer.Option("--out", "-f", help="File for the invite; it holds a one-time secret.")],
    site: Annotated[str, typer.Option(help="Place and link that it shares with others.")] = "default",
    label: LabelOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a device known and write the invite with which it enrols, once, within minutes."""
    labels = parse_labels(label or [])
    if out.exists():  # asked before the controller makes an invite that nobody would have
        fail(f"--out {out} exists already", remedy="remove it, or choose another file", code=EXIT_USAGE)
    invitation = session(context).run(lambda api: api.invite(device, site=site, labels=labels))
    write_secret(out, msgspec.json.encode(invitation))
    if output is Format.JSON:
        show_json({"device_id": invitation.device_id, "invite": str(out), "expires_at": invitation.expires_at})
        return
    ERR.print(f"invite written to {out}, good until {invitation.expires_at:%H:%M:%S} UTC", soft_wrap=True)
    say(f"next, on the device: litefleet-agent enrol --invite {out.name} --state /var/lib/litefleet-agent")


@app.command()
def label(
    context: typer.Context, device: DeviceArgument, label: LabelOption = None, output: FormatOption = Format.TABLE
) -> None:
    """Replace all labels of a device, by none if none is given; rollouts that it is in go on as they are."""
    labels = parse_labels(label or [])
    found = session(context).run(lambda api: api.label(device, labels))
    if output is Format.JSON:
        show_json(found)
        return
    say(f"{device}: {_labels(found) or 'no labels'}")


@app.command("rm")
def remove(context: typer.Context, device: DeviceArgument, output: FormatOption = Format.TABLE) -> None:
    """Remove a device: its keys stop working and nothing is sent to it any more."""
    session(context).run(lambda api: api.remove_device(device))
    if output is Format.JSON:
        show_json({"removed": device})
        return
    say(f"removed device {device}")


def parse_labels(pairs: list[str]) -> dict[str, str]:
    """Read `key=value` pairs; ends the program on anything else."""
    labels = {}
    for pair in pairs:
        key, mark, value = pair.partition("=")
        if not (key and mark and value):
            fail(f"--label {pair!r} is not KEY=VALUE", code=EXIT_USAGE)
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


def runs(device: DeviceView, names: Mapping[str, str]) -> str:
    """Return what a device runs, in a word a model."""
    if device.removed:
        return "removed"
    if not device.enrolled:
        return "invited, not enrolled"
    slots = [
        _line(slot, names) + (f" trying {called(slot.candidate, names)}" if slot.candidate else "")
        for slot in device.slots
    ]
    return " ".join(slots) or "nothing"


def _say_slot(slot: SlotView, names: Mapping[str, str]) -> None:
    why = f", {slot.unavailable_reason}" if slot.unavailable_reason else ""
    trying = f", trying {called(slot.candidate, names)}" if slot.candidate else ""
    line = line_of(ModelName(slot.model), slot.variant)
    say(f"reported    {line}: runs {called(slot.stable, names)}{trying}{why}")
    if slot.probe is not None:
        probe = slot.probe
        took = ", ".join(f"{one.p50_ms:.2f} ms on {counted(one.threads, 'thread')}" for one in probe.by_threads)
        how = f"{probe.mode}, {counted(probe.workers, 'worker')}" if probe.workers else probe.mode
        say(f"probe       {line}: {how}{f'; {took}' if took else ''}")


def _line(slot: SlotView, names: Mapping[str, str]) -> str:
    name = called(slot.stable, names)
    return name if slot.variant == MAIN else f"{name}@{slot.variant}"


def _labels(device: DeviceView) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(device.labels.items()))
