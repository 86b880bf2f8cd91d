"""`litefleet model`: bring a trained model in, and see what became of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from controller.cli.output import ERR, Format, FormatOption, fail, percent, say, short, show_json, show_table, size
from controller.cli.session import EXIT_FAILED, EXIT_TIMEOUT, EXIT_USAGE, session
from controller.views import ConversionView, ReleaseView, VersionView
from shared import pipeline
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from controller.client import Client
    from controller.views import ArtifactView
    from shared.ids import Sha256

app = typer.Typer(help="Trained models: push one, list them, look at one.", no_args_is_help=True)

_POLL_S = 0.5


@app.command()
def push(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="The trained model: a Keras 3 .keras file.")
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="Model name, e.g. door-counter.")],
    calibration: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help=".npz with x: a hundred or so typical raw items.")
    ],
    evaluation: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help=".npz with x and labels y, held out from training.")
    ],
    pipeline_file: Annotated[
        Path | None,
        typer.Option(
            "--pipeline", exists=True, dir_okay=False, help="JSON PipelineSpec; default: tensors in, tensors out."
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="Largest loss of accuracy (0.01 = 1 point).")] = 0.01,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=0, metavar="SECONDS", help="Longest time to wait; then the exit code is 3."),
    ] = 900,
    output: FormatOption = Format.TABLE,
) -> None:
    """Upload a model, convert it, sign it: the result is a release that can be rolled out.

    The same file again is the same version; an upload that was cut goes on where it stopped.
    """
    spec = _read_pipeline(pipeline_file)

    async def work(api: Client) -> ReleaseView:
        with _progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn()) as bar:
            digests = [await _upload(api, bar, path) for path in (file, calibration, evaluation)]
        return await push_release(
            api, name=name, file=file, digests=digests, spec=spec, max_drop=max_drop, timeout_s=timeout_s
        )

    released = session(context).run(work)
    if output is Format.JSON:
        show_json(released)
        return
    say(f"released {released.name}  ({released.release_id})\n")
    _show_artifacts(released.artifacts)
    say(f"\nnext: litefleet rollout start {released.name} --cohort all --wave 1 --wave 25% --wave 100% --dry-run")


async def push_release(
    api: Client,
    *,
    name: str,
    file: Path,
    digests: list[Sha256],
    spec: pipeline.PipelineSpec,
    max_drop: float,
    timeout_s: float,
) -> ReleaseView:
    """Register what was uploaded, convert it and release it, with progress on stderr; ends the program on failure."""
    source, calibration, evaluation = digests
    version = await api.post(
        f"/models/{name}/versions", {"sha256": source, "filename": file.name, "source_format": "keras"}, VersionView
    )
    for kind, digest in (("calibration", calibration), ("evaluation", evaluation)):
        await api.call("POST", "/datasets", {"name": f"{name}-{kind}", "sha256": digest})
    conversion = await api.post(
        "/conversions",
        {
            "model": name,
            "version_number": version.number,
            "calibration_sha256": calibration,
            "evaluation_sha256": evaluation,
            "pipeline": msgspec.to_builtins(spec),
            "max_accuracy_drop": max_drop,
        },
        ConversionView,
    )
    done = await _converted(api, conversion, timeout_s)
    if done.state == "failed":
        if done.artifacts:
            _show_artifacts(done.artifacts, to=ERR)
        fail(f"conversion failed: {done.message or done.failure}", reason=done.failure or "", code=EXIT_FAILED)
    return await api.post("/releases", {"conversion_id": done.conversion_id}, ReleaseView)


async def _upload(api: Client, bar: Progress, path: Path) -> Sha256:
    task = bar.add_task(f"upload {path.name}", total=None)
    return await api.upload(path, lambda sent, total: bar.update(task, completed=sent, total=total))


async def _converted(api: Client, conversion: ConversionView, timeout_s: float) -> ConversionView:
    try:
        async with asyncio.timeout(timeout_s):
            with _progress(TextColumn("convert: {task.description}"), BarColumn()) as bar:
                task = bar.add_task(conversion.step, total=1.0)
                while conversion.state in {"queued", "running"}:
                    await asyncio.sleep(_POLL_S)
                    before, conversion = conversion.step, await api.conversion(conversion.conversion_id)
                    bar.update(task, completed=conversion.fraction, description=conversion.step or conversion.state)
                    if conversion.step != before and not ERR.is_terminal:
                        ERR.print(f"convert: {conversion.step}")
                return conversion
    except TimeoutError:
        fail(
            f"conversion {short(conversion.conversion_id)} is still {conversion.state} after {timeout_s:g} s",
            remedy="it goes on: the same command again waits for it",
            reason="timeout",
            code=EXIT_TIMEOUT,
        )


def _progress(*columns: ProgressColumn) -> Progress:
    """Return a bar on stderr that is gone when it is full; in a log there is none."""
    return Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal)


def _read_pipeline(path: Path | None) -> pipeline.PipelineSpec:
    if path is None:
        return pipeline.MODEL_ONLY
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=pipeline.PipelineSpec)
        pipeline.check(spec)
    except (msgspec.DecodeError, InvalidInputError) as exc:
        fail(f"--pipeline {path}: {exc}", code=EXIT_USAGE)
    return spec


def _show_artifacts(artifacts: list[ArtifactView], *, to: Console | None = None) -> None:
    show_table(
        ("SCHEME", "SIZE", "ACCURACY", "SOURCE", "AGREES", ""),
        (
            (
                a.scheme,
                size(a.length_bytes),
                percent(a.accuracy.artifact),
                percent(a.accuracy.source),
                percent(a.accuracy.agreement),
                Text(f"refused: {a.refused}", style="red") if a.refused else " ".join(a.profiles),
            )
            for a in artifacts
        ),
        empty="no artifact",
        to=to,
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
        empty="no model yet; next: litefleet model push FILE --name NAME --calibration C.npz --evaluation E.npz",
    )


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the versions of a model and how their conversions ended."""

    async def work(api: Client) -> tuple[list[VersionView], list[ConversionView]]:
        versions = await api.versions(name)
        return versions, [c for c in await api.conversions() if c.model == name]

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
        if conversion.artifacts:
            _show_artifacts(conversion.artifacts)
