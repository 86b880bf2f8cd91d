"""`litefleet convert`: the smallest model that keeps its accuracy, made and proved on this machine alone."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.text import Text

from controller.cli import conversion_options as options
from controller.cli.convert_screen import ProgressScreen, show_candidates
from controller.cli.local_conversion import LocalOrder, convert_here, default_cache
from controller.cli.output import ERR, Format, FormatOption, fail, percent, say, show_json, size
from controller.cli.program import EXIT_NO_ENVIRONMENT
from controller.cli.session import EXIT_FAILED, EXIT_TIMEOUT, EXIT_USAGE
from controller.registry.core.choice import Choice, choose
from controller.views import CandidateView
from shared.conversion import ConversionResult, ConvertedArtifact, FailureKind, Objective, RuntimeVersion
from shared.hardware import Runtime

if TYPE_CHECKING:
    from shared.hardware import HardwareProfile

_EXIT_CODES = {
    FailureKind.BAD_INPUT: EXIT_USAGE,
    FailureKind.UNSUPPORTED_OP: EXIT_USAGE,
    FailureKind.TIMED_OUT: EXIT_TIMEOUT,
    FailureKind.OUT_OF_MEMORY: EXIT_FAILED,
    FailureKind.CRASHED: EXIT_FAILED,
    FailureKind.NOTHING_PASSED: EXIT_FAILED,
}
# How the worker begins when a front end is not installed: the field of its error.
_NO_ENVIRONMENT = "environment: "


RuntimeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME==VERSION", help="Interpreter of your devices, e.g. tflite-runtime==2.14.0; repeat."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for models, card and result. Default: FILE's name and -converted."),
]
CacheOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder to remember in. Default: one in ~/.cache/litefleet.")
]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` tells: all of the result but its golden vectors, which `result.json` in the folder has."""

    failure: FailureKind | None
    message: str
    out: str
    chosen: dict[str, str]
    """Profile → file."""
    unserved: dict[str, str]
    """Profile → why it has none."""
    candidates: list[CandidateView]
    warnings: tuple[str, ...]
    worker: str


def convert(
    file: options.SourceArgument,
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
    runtime: RuntimeOption = None,
    image_input: options.ImageInputOption = False,
    batch: options.BatchOption = 1,
    out: OutOption = None,
    threads: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Threads of the work.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest time.")] = 3600,
    cache: CacheOption = None,
    output: FormatOption = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="As --output json.")] = False,
) -> None:
    """Make the smallest TFLite model within an accuracy budget, and prove that it keeps it. No controller is needed.

    Many recipes are tried on the dataset's search split; the best of them is judged once, on its gate split.

    Example: litefleet dataset make all.npz --out data && litefleet convert model.keras --data data

    Exit codes: 0 something passed for every profile; 1 a profile got nothing, or the work broke; 2 model, data or
    options cannot be used; 3 not done in time; 5 the front end for this kind of model, or the old runtime of a profile,
    is not installed; 130 interrupted.
    """
    order = LocalOrder(
        file=file,
        source_format=source_format,
        data=data,
        pipeline=options.read_pipeline(pipeline_file),
        profiles=options.read_profiles(profile),
        schemes=tuple(scheme or ()),
        budget=options.budget_of(
            max_drop=max_drop,
            min_agreement=min_agreement,
            max_class_drop=max_class_drop,
            max_slice_drop=max_slice_drop,
            min_snr_db=min_snr_db,
        ),
        objective=objective,
        runtimes=tuple(_runtime(one) for one in runtime or ()),
        image_input=image_input,
        batch=batch or None,
        threads=threads,
        timeout_s=timeout_s,
        cache=cache or default_cache(),
    )
    _check_runtimes(order)
    folder = out or Path(f"{file.resolve().stem}-converted")
    _check_out(folder, order)
    _convert(order, folder, told_in_json=as_json or output is Format.JSON)


def _check_runtimes(order: LocalOrder) -> None:
    """Refuse an interpreter that no profile has: it would be asked nothing."""
    for version in order.runtimes:
        if all(version.runtime is not profile.runtime for profile in order.profiles):
            fail(
                f"--runtime {version.runtime}=={version.version}: none of the profiles has {version.runtime}",
                remedy=f'add --profile with a HardwareProfile of "runtime": "{version.runtime}"',
                code=EXIT_USAGE,
            )


def _check_out(out: Path, order: LocalOrder) -> None:
    """Refuse a folder that cannot take the result, before the work and not after it."""
    models = [_model_path(out, profile) for profile in order.profiles]
    if any(path.exists() and path.samefile(order.file) for path in models):
        fail(f"--out {out}: the result would be written over {order.file}", remedy="name another", code=EXIT_USAGE)
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as exc:
        fail(f"cannot write to {out}: {exc.strerror}", remedy="name another folder by --out", code=EXIT_USAGE)


def _convert(order: LocalOrder, out: Path, *, told_in_json: bool) -> None:
    choice = Choice(artifacts=(), unserved={})

    def keep(result: ConversionResult) -> None:
        nonlocal choice
        choice = choose(result.artifacts, order.profiles, order.objective)
        _write(out, order, result, choice)

    with ProgressScreen("convert", quiet=told_in_json and ERR.is_terminal) as screen:
        result = convert_here(order, screen.show, keep)
    if told_in_json:
        show_json(_written(result, choice, out))
    else:
        _show(result, choice, out)
    _end(result, choice, out)


def _write(out: Path, order: LocalOrder, result: ConversionResult, choice: Choice) -> None:
    """Copy what may be used, and what tells why, out of the worker's folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # What an earlier conversion left would be taken for what passed in this one.
        for path in (*(_model_path(out, profile) for profile in order.profiles), out / "card.json", out / "card.html"):
            path.unlink(missing_ok=True)
        for artifact, profiles in choice.artifacts:
            for profile in profiles:
                draft = _model_path(out, profile).with_suffix(".new")
                shutil.copyfile(artifact.path, draft)
                draft.replace(_model_path(out, profile))
        if result.card_path:
            for suffix in (".json", ".html"):
                card = Path(result.card_path).with_suffix(suffix)
                if card.is_file():
                    shutil.copyfile(card, out / f"card{suffix}")
        (out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(_without_paths(result))))
    except OSError as exc:
        fail(f"cannot write to {out}: {exc.strerror}", code=EXIT_USAGE)


def _without_paths(result: ConversionResult) -> ConversionResult:
    # They lead into a folder that is about to be removed.
    artifacts = tuple(msgspec.structs.replace(artifact, path="") for artifact in result.artifacts)
    return msgspec.structs.replace(result, artifacts=artifacts, card_path="card.json" if result.card_path else "")


def _model_path(out: Path, profile: HardwareProfile) -> Path:
    return out / f"{profile.profile_id}.tflite"


def _candidates(result: ConversionResult) -> list[CandidateView]:
    return msgspec.convert(msgspec.to_builtins(result.candidates), list[CandidateView])


def _written(result: ConversionResult, choice: Choice, out: Path) -> Written:
    return Written(
        failure=result.failure,
        message=result.message,
        out=str(out),
        chosen={
            str(profile.profile_id): str(_model_path(out, profile))
            for _, profiles in choice.artifacts
            for profile in profiles
        },
        unserved=choice.unserved,
        candidates=_candidates(result),
        warnings=result.warnings,
        worker=result.worker,
    )


def _show(result: ConversionResult, choice: Choice, out: Path) -> None:
    bounds = {str(made.sha256): made.report.drop.bound for made in result.artifacts if made.report.drop is not None}
    if result.candidates:
        show_candidates(_candidates(result), bounds)
        say("")
    for artifact, profiles in choice.artifacts:
        for profile in profiles:
            say(Text.assemble((f"{profile.profile_id}", "bold"), f"  {_model_path(out, profile)}"))
            say(f"  {_verdict(artifact)}")
    for profile_id, why in choice.unserved.items():
        if choice.artifacts:
            say(Text.assemble((profile_id, "bold"), ("  nothing: ", "red"), why))
    for warning in result.warnings:
        ERR.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)
    if choice.artifacts:
        say(f"\nmodel card: {out / 'card.html'}" if result.card_path else f"\nresult: {out / 'result.json'}")


def _verdict(artifact: ConvertedArtifact) -> str:
    """Say in a line what an artifact is and what is proved of it."""
    measured, drop = artifact.accuracy, artifact.report.drop
    words = [f"{artifact.scheme}, {size(artifact.length_bytes)}"]
    if measured.labelled:
        words.append(f"{percent(measured.artifact)} right (source {percent(measured.source)})")
    else:
        words.append(f"{percent(measured.agreement)} the same answers")
    if drop is not None:
        words.append(f"at most {100 * drop.bound:.2f} points lost with 95 % on {drop.samples} samples")
    return ", ".join(words)


def _end(result: ConversionResult, choice: Choice, out: Path) -> None:
    """End the program when not every profile was served."""
    if result.failure is FailureKind.BAD_INPUT and result.message.startswith(_NO_ENVIRONMENT):
        fail(result.message.removeprefix(_NO_ENVIRONMENT), reason="no_environment", code=EXIT_NO_ENVIRONMENT)
    if result.failure is not None:
        remedy = f"what was tried: {out / 'result.json'}" if result.artifacts else ""
        fail(result.message, reason=result.failure, remedy=remedy, code=_EXIT_CODES[result.failure])
    if choice.unserved:
        missing = "; ".join(f"{profile}: {why}" for profile, why in choice.unserved.items())
        fail(f"nothing passed for {missing}", reason=FailureKind.NOTHING_PASSED, code=EXIT_FAILED)


def _runtime(typed: str) -> RuntimeVersion:
    name, _, version = typed.partition("==")
    if name not in set(Runtime) or not version:
        names = " or ".join(Runtime)
        fail(f"--runtime {typed}: not NAME==VERSION", remedy=f"NAME is {names}", code=EXIT_USAGE)
    return RuntimeVersion(runtime=Runtime(name), version=version)
