"""`litefleet release`: what is signed and can be rolled out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from controller.cli.conversion_options import read_pipeline
from controller.cli.export import export
from controller.cli.naming import conversion_id, release_id
from controller.cli.output import Format, FormatOption, ago, fail, percent, say, short, show_json, show_table, size
from controller.cli.scope import pairs_of
from controller.cli.session import EXIT_USAGE, session
from controller.views import ReleaseView
from shared.clock import SystemClock
from shared.request_log import LogConsent

if TYPE_CHECKING:
    from controller.client import Client

app = typer.Typer(
    help="Signed releases: create one, list them, look at one, export one, remove one.", no_args_is_help=True
)

_CONSENTS = ("inputs", "outputs", "upstream")
_HIDES = "hide:"

ReleaseArgument = Annotated[
    str, typer.Argument(metavar="RELEASE", help="MODEL/NUMBER, or an id or its beginning or end.")
]


@app.command()
def create(
    context: typer.Context,
    conversion: Annotated[
        str, typer.Argument(metavar="CONVERSION", help="MODEL/NUMBER, or an id or its beginning or end.")
    ],
    pipeline: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PipelineSpec, JSON or TOML; default: the conversion's."),
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RELEASE", help="A model of another release that the pipeline runs too; repeat."),
    ] = None,
    log_consent: Annotated[
        str,
        typer.Option(metavar="inputs,outputs,upstream,hide:TENSOR", help="What of requests devices may write down."),
    ] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Sign what a conversion made as a release, with another pipeline, models of other releases, or consent to logs."""
    components = pairs_of(component or [], option="--component", form="NAME=RELEASE")
    spec = None if pipeline is None else read_pipeline(pipeline, tuple(components))
    consent = _consent(log_consent)

    async def work(api: Client) -> ReleaseView:
        body = {
            "conversion_id": await conversion_id(api, conversion),
            "pipeline": msgspec.to_builtins(spec),
            "components": {name: await release_id(api, typed) for name, typed in components.items()},
            "log_consent": msgspec.to_builtins(consent),
        }
        return await api.post("/releases", body, ReleaseView)

    released = session(context).run(work)
    if output is Format.JSON:
        show_json(released)
        return
    say(f"released {released.name}  ({released.release_id})")
    say(f"next: litefleet rollout start {short(released.release_id)} --cohort all --dry-run")


app.command()(export)


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
    say(f"manifest  sha256 {found.manifest_sha256}")
    for one in found.components:
        say(f"component {one.name}: {one.model} {short(one.release_id)}")
    if found.log_consent is not None:
        allowed = [name for name in _CONSENTS if getattr(found.log_consent, name)]
        hidden = [f"{_HIDES}{name}" for name in found.log_consent.redact]
        say(f"log       {', '.join([*allowed, *hidden]) or 'shapes only'}")
    else:
        say("log       no requests: made without --log-consent")
    say("")
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


def _consent(words: str) -> LogConsent | None:
    if not words:
        return None
    named = {word.strip() for word in words.split(",")}
    hidden = {word for word in named if word.startswith(_HIDES)}
    named -= hidden
    if unknown := sorted(named - set(_CONSENTS)):
        fail(f"--log-consent {', '.join(unknown)} is not of {', '.join(_CONSENTS)}", code=EXIT_USAGE)
    return LogConsent(
        inputs="inputs" in named,
        outputs="outputs" in named,
        upstream="upstream" in named,
        redact=tuple(sorted(word.removeprefix(_HIDES) for word in hidden)),
    )
