"""What `litefleet convert` and `litefleet model push` ask alike: the data, the budget, and for whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from controller.cli.output import fail
from controller.cli.session import EXIT_USAGE
from controller.registry.core.choice import checked_budget, wanted_profiles
from controller.source_files import packed, recognise
from shared import pipeline
from shared.conversion import AccuracyBudget, Objective, SourceFormat
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.hardware import GENERIC, HardwareProfile
from shared.manifest import Scheme

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

T = TypeVar("T")

SourceArgument = Annotated[
    Path,
    typer.Argument(
        exists=True,
        metavar="FILE",
        help="The trained model: .keras, .pt2, .onnx, .skops, .jax, .tflite, or a SavedModel or TensorFlow.js folder.",
    ),
]
FormatOfSource = Annotated[
    SourceFormat | None,
    typer.Option(
        "--format", metavar="FORMAT", help=f"What FILE is, if its name does not say: {', '.join(SourceFormat)}."
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data", exists=True, file_okay=False, help="Dataset folder: dataset.json and shards; see `litefleet dataset`."
    ),
]
PipelineOption = Annotated[
    Path | None,
    typer.Option(
        "--pipeline", exists=True, dir_okay=False, help="PipelineSpec, JSON or TOML; default: tensors in, tensors out."
    ),
]
ProfileOption = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="FILE|ID", help="JSON HardwareProfile, or generic; repeat. Default: generic."),
]
SchemeOption = Annotated[
    list[Scheme] | None,
    typer.Option(
        "--scheme", metavar="SCHEME", help=f"Try only this; repeat. Default: the ladder. Known: {', '.join(Scheme)}."
    ),
]
DropOption = Annotated[
    float,
    typer.Option(
        "--max-drop", min=0, max=1, metavar="SHARE", help="Largest loss of accuracy, certified (0.01 = 1 point)."
    ),
]
AgreementOption = Annotated[
    float,
    typer.Option(
        "--min-agreement",
        min=0,
        max=1,
        metavar="SHARE",
        help="Without labels: least share of the same top answers, as counted; a warning says what is certain of it.",
    ),
]
ClassDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-class-drop", min=0, max=1, metavar="SHARE", help="Largest loss of any one class. Default: not judged."
    ),
]
SliceDropOption = Annotated[
    float | None,
    typer.Option(
        "--max-slice-drop", min=0, max=1, metavar="SHARE", help="Largest loss of any one slice. Default: not judged."
    ),
]
SnrOption = Annotated[
    float | None,
    typer.Option("--min-snr", min=0, max=300, metavar="DB", help="Least signal-to-noise ratio."),
]
ObjectiveOption = Annotated[Objective, typer.Option("--objective", help="What is best among those that pass.")]
ImageInputOption = Annotated[
    bool, typer.Option("--image-input", help="Fold the normalisation into the model: it takes uint8 images.")
]
BatchOption = Annotated[
    int, typer.Option("--batch", min=0, max=1024, metavar="N", help="Fixed batch of the artifacts; 0: any.")
]


def budget_of(
    *,
    max_drop: float,
    min_agreement: float,
    max_class_drop: float | None,
    max_slice_drop: float | None,
    min_snr_db: float | None,
) -> AccuracyBudget:
    """Return the budget that the options name; what cannot be one ends the program."""
    try:
        return checked_budget(
            AccuracyBudget(
                max_drop=max_drop,
                min_agreement=min_agreement,
                max_class_drop=max_class_drop,
                max_slice_drop=max_slice_drop,
                min_snr_db=min_snr_db,
            )
        )
    except InvalidInputError as exc:
        fail(str(exc), code=EXIT_USAGE)


def read_pipeline(path: Path | None, components: Collection[str] = ()) -> pipeline.PipelineSpec:
    """Return the pipeline of a JSON or TOML file; one that cannot be used ends the program."""
    if path is None:
        return pipeline.MODEL_ONLY
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        spec = decode(path.read_bytes(), type=pipeline.PipelineSpec)
        pipeline.check(spec, components)
    except (*MALFORMED, InvalidInputError, OSError) as exc:
        fail(f"--pipeline {path}: {exc}", code=EXIT_USAGE)
    return spec


def read_profiles(named: Sequence[str] | None) -> tuple[HardwareProfile, ...]:
    """Return the profiles that were named, in their order; one that cannot be used ends the program."""
    try:
        return wanted_profiles([one for name in named or () for one in _profiles(name)])
    except InvalidInputError as exc:
        fail(str(exc), code=EXIT_USAGE)


def source_of(file: Path, asked: SourceFormat | None, scratch: Path) -> tuple[Path, SourceFormat]:
    """Return the one file that a model is, and its format; a folder is packed into `scratch` first."""
    try:
        source_format = asked or recognise(file)
        return (packed(file, scratch) if file.is_dir() else file.absolute()), source_format
    except InvalidInputError as exc:
        fail(str(exc), code=EXIT_USAGE)
    except OSError as exc:
        fail(f"{exc.filename or file}: {exc.strerror}", code=EXIT_USAGE)


def _profiles(name: str) -> Sequence[HardwareProfile]:
    if name == GENERIC.profile_id:
        return [GENERIC]
    path = Path(name)
    if not path.exists() or path.is_dir():
        raise InvalidInputError(
            field="--profile", problem=f"{name} is no file and no known profile", remedy="generic, or a JSON file"
        )
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise InvalidInputError(field=f"--profile {name}", problem=f"cannot be read: {exc.strerror}") from exc
    kind: type[list[HardwareProfile] | HardwareProfile] = list[HardwareProfile] | HardwareProfile  # type: ignore[assignment] # a union is no type to mypy
    try:
        found = msgspec.json.decode(data, type=kind)
    except MALFORMED as exc:
        raise InvalidInputError(
            field=f"--profile {name}", problem=str(exc), remedy="one HardwareProfile, or a list"
        ) from exc
    return found if isinstance(found, list) else [found]
