"""Runs a front end's worker as a conversion does, and packs models that are folders."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.environments import locate, of_format
from converters.frontends.frontend import FrontendRequest
from converters.frontends.process import Worker
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support.workers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from converters.frontends.frontend import FloatModel
    from shared.conversion import SourceFormat

    Tensor = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a worker made, and the source framework's answers to `inputs` beside its own."""

    model: FloatModel
    content: bytes
    answers: tuple[Tensor, ...]
    max_abs_diff: float

    @property
    def sha256(self) -> str:
        """Of the float model."""
        return hashlib.sha256(self.content).hexdigest()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer by the float model."""
        return LiteRtInterpreter(self.content, threads=1).run(inputs)


def convert(
    path: Path, source_format: SourceFormat, scratch: Path, inputs: Sequence[Tensor] = (), *, batch: int | None = 1
) -> Converted:
    """Make the float model in a worker of its own, and have the source answer `inputs` if there are any.

    Raises:
        ConversionFailedError: as the worker says.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    request = FrontendRequest(
        source_path=str(path), source_format=source_format, scratch_path=str(scratch), batch=batch
    )
    with Worker(locate(of_format(source_format), ROOT)) as worker:
        model = worker.load(request)
        content = Path(model.model_path).read_bytes()
        if not inputs:
            return Converted(model=model, content=content, answers=(), max_abs_diff=model.max_abs_diff)
        given, answered = scratch / "inputs.npz", scratch / "answers.npz"
        named: dict[str, Any] = {f"input_{index}": array for index, array in enumerate(inputs)}
        np.savez(given, **named)
        answers = worker.answer(given, answered)
    with np.load(answered) as stored:
        found = tuple(stored[f"output_{index}"] for index in range(len(stored.files)))
    return Converted(model=model, content=content, answers=found, max_abs_diff=answers.max_abs_diff)


def pack(folder: Path, archive: Path) -> Path:
    """Pack a folder's content as `.zip` or `.tar.gz`, by the name of `archive`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
            for path in files:
                content.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz") as content:
            for path in files:
                content.add(path, str(path.relative_to(folder)))
    return archive
