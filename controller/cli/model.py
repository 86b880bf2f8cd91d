"""`litefleet model`: bring a trained model in, and see what became of it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from controller.cli import conversion_options as options
from controller.cli.conversion import MeasureOnOption, await_measured
from controller.cli.conversion_screen import show_artifacts
from controller.cli.convert_screen import ProgressScreen, show_candidates
from controller.cli.naming import the_one
from controller.cli.output import ERR, Format, FormatOption, fail, say, short, show_json, show_table, size
from controller.cli.session import EXIT_FAILED, EXIT_TIMEOUT, EXIT_USAGE, session
from controller.cli.transfer import push_dataset, transfer_bar, upload
from controller.cli.try_model import try_model
from controller.views import ConversionView, ReleaseView, VersionView
from shared.conversion import Objective
from shared.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.client import Client
    from shared.conversion import SourceFormat

app = typer.Typer(help="Trained models: push one, list them, look at one, try one.", no_args_is_help=True)
app.command("try")(try_model)

_POLL_S = 0.5

TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Longest time to wait; then the exit code is 3.")
]


@app.command()
def push(
    context: typer.Context,
    file: options.SourceArgument,
    name: Annotated[str, typer.Option("--name", "-n", help="Model name, e.g. door-counter.")],
    data: options.DataOption,
    source_format: options.FormatOfSource = None,
    pipeline_file: options.PipelineOption = None,
    profile: options.ProfileOption = None,
    scheme: options.SchemeOption = None,
    max_drop: options.DropOption = 0.01,
    min_agreement: options.AgreementOption = 0.98,
    max_class_drop: options.ClassDropOption = None,
    max_slice_drop: options.SliceDropOption = None,
    min_snr_db: options.SnrOption = None,
    objective: options.ObjectiveOption = Objective.SMALLEST,
    image_input: options.ImageInputOption = False,
    batch: options.BatchOption = 1,
    measure_on: MeasureOnOption = None,
    timeout_s: TimeoutOption = 900,
    output: FormatOption = Format.TABLE,
) -> None:
    """Upload a model and its data, convert it, sign it: the result is a release that can be rolled out.

    The same file again is the same version; an upload that was cut goes on where it stopped.
    """
    wanted = {
        "pipeline": msgspec.to_builtins(options.read_pipeline(pipeline_file)),
        "profiles": msgspec.to_builtins(options.read_profiles(profile)),
        "schemes": scheme or [],
        "budget": msgspec.to_builtins(
            options.budget_of(
                max_drop=max_drop,
                min_agreement=min_agreement,
                max_class_drop=max_class_drop,
                max_slice_drop=max_slice_drop,
                min_snr_db=min_snr_db,
            )
        ),
        "objective": objective,
        "image_input": image_input,
        "batch": batch or None,
    }
    with tempfile.TemporaryDirectory(prefix="litefleet-push-") as scratch:
        path, known = options.source_of(file, source_format, Path(scratch))

        async def work(api: Client) -> ReleaseView:
            order = {**wanted, "model": name, **await _bring(api, name, path, known, data)}
            return await _release(api, order, measure_on or [], timeout_s)

        released = session(context).run(work)
    show_json(released) if output is Format.JSON else _announce(released)


def _announce(released: ReleaseView) -> None:
    say(f"released {released.name}  ({released.release_id})\n")
    show_artifacts(released.artifacts)
    say(f"\nnext: litefleet rollout start {released.name} --cohort all --wave 1 --wave 25% --wave 100% --dry-run")


async def _bring(api: Client, name: str, path: Path, known: SourceFormat, data: Path) -> dict[str, object]:
    """Upload a model and its data, and return by what an order names them."""
    with transfer_bar() as bar:
        source = await upload(api, bar, path)
        pushed = await push_dataset(api, bar, data)
    body = {"sha256": source, "filename": path.name, "source_format": known}
    version = await api.post(f"/models/{name}/versions", body, VersionView)
    return {"version_number": version.number, "dataset_sha256": pushed.sha256}


async def _release(api: Client, order: Mapping[str, object], devices: Sequence[str], timeout_s: float) -> ReleaseView:
    """Convert what was uploaded and release it, with progress on stderr; ends the program on failure."""
    done = await _converted(api, await api.post("/conversions", order, ConversionView), timeout_s)
    if done.state != "succeeded":
        if done.candidates:
            show_candidates(done.candidates, to=ERR)
        elif done.artifacts:
            show_artifacts(done.artifacts, to=ERR)
        fail(f"conversion {done.state}: {done.message or done.failure}", reason=done.failure or "", code=EXIT_FAILED)
    for device in devices:
        asked = (await api.measure(done.conversion_id, device)).items
        measured = await await_measured(api, done.conversion_id, asked, timeout_s)
        failures = [one.reason for one in measured if one.state == "failed"]
        if failures:
            fail(
                f"not measured on {device}: {'; '.join(failures)}",
                remedy=f"release it all the same: litefleet conversion release {short(done.conversion_id)}",
                code=EXIT_FAILED,
            )
    return await api.post("/releases", {"conversion_id": done.conversion_id}, ReleaseView)


async def _converted(api: Client, conversion: ConversionView, timeout_s: float) -> ConversionView:
    try:
        async with asyncio.timeout(timeout_s):
            with ProgressScreen("convert") as screen:
                while conversion.state in {"queued", "running"}:
                    await asyncio.sleep(_POLL_S)
                    conversion = await api.conversion(conversion.conversion_id)
                    screen.show(conversion.step or conversion.state, conversion.fraction)
                return conversion
    except TimeoutError:
        fail(
            f"conversion {short(conversion.conversion_id)} is still {conversion.state} after {timeout_s:g} s",
            remedy="it goes on: the same command again waits for it",
            reason="timeout",
            code=EXIT_TIMEOUT,
        )


@app.command("ls")
def list_models(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the models."""
    found = session(context).run(lambda api: api.models())
    if output is Format.JSON:
        show_json(found)
        return
    show_table(
        ("MODEL", "VERSIONS"),
        ((m.model, str(m.versions)) for m in found),
        empty="no model yet; next: litefleet model push FILE --name NAME --data DIR",
    )


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the versions of a model, how their conversions ended, and all that the newest one tried."""

    async def work(api: Client) -> tuple[list[VersionView], list[ConversionView]]:
        versions = await api.versions(name)
        found = [c for c in await api.conversions() if c.model == name]
        # Alone it tells what was tried; in a list that would be too much.
        return versions, [*[await api.conversion(c.conversion_id) for c in found[:1]], *found[1:]]

    versions, conversions = session(context).run(work)
    if output is Format.JSON:
        show_json({"versions": versions, "conversions": conversions})
        return
    show_table(
        ("VERSION", "FILE", "SIZE", "SHA256"),
        ((f"{v.model}/{v.number}", v.filename, size(v.size_bytes), v.sha256[:12]) for v in versions),
        empty=f"model {name} has no version",
    )
    for conversion in conversions:
        why = f": {conversion.message}" if conversion.message else ""
        which = f"conversion {short(conversion.conversion_id)} of version {conversion.version_number}"
        say(f"\n{which} {conversion.state}{why}")
        if conversion.candidates:
            bounds = {made.sha256: made.drop.bound for made in conversion.artifacts if made.drop is not None}
            show_candidates(conversion.candidates, bounds)
        elif conversion.artifacts:
            show_artifacts(conversion.artifacts)


@app.command()
def cancel(
    context: typer.Context,
    conversion: Annotated[str, typer.Argument(help="Its id, or the beginning or the end of it.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """End a conversion that waits or runs."""

    async def work(api: Client) -> ConversionView:
        ids = [one.conversion_id for one in await api.conversions()]
        return await api.cancel_conversion(the_one(conversion, ids, kind="conversion"))

    canceled = session(context).run(work)
    if output is Format.JSON:
        show_json(canceled)
        return
    say(f"conversion {short(canceled.conversion_id)} {canceled.state}")


@app.command()
def card(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="MODEL/N", help="A version, e.g. digits/3.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; .html: a page, .json: for programs. Default: stdout."),
    ] = None,
) -> None:
    """Fetch the model card of a version's newest conversion: what it is made of, and what was measured of it."""
    page = out is not None and out.suffix.lower() in {".html", ".htm"}

    async def work(api: Client) -> bytes:
        found = next(
            (c for c in await api.conversions() if f"{c.model}/{c.version_number}" == version and c.card), None
        )
        if found is None:
            raise NotFoundError(kind="model card", name=version)
        return await api.call("GET", f"/conversions/{found.conversion_id}/card{'.html' if page else ''}")

    content = session(context).run(work)
    if out is None:
        sys.stdout.write(msgspec.json.format(content).decode() + "\n")
        return
    try:
        out.write_bytes(content)
    except OSError as exc:
        fail(f"cannot write {out}: {exc.strerror}", code=EXIT_USAGE)
    say(f"wrote {out}")
