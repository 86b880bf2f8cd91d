"""From a release's folder to a model in memory: every byte is checked against its digest first, every time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.serving.lane import Lane
from shared import manifest
from shared.errors import DigestMismatchError, ModelLoadError, UntrustedError
from shared.runtime.golden import to_array
from shared.runtime.interpreter import LiteRtInterpreter
from shared.traffic import split_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from agent.core.plan import SlotSpec
    from shared.ids import Sha256
    from shared.manifest import ReleaseManifest
    from shared.pipeline import PipelineSpec
    from shared.runtime.interpreter import Interpreter

    OpenInterpreter = Callable[[bytes, int], Interpreter]
    Tensor = NDArray[Any]

MODEL_FILE, MANIFEST_FILE = "model.tflite", "manifest.json"

INLINE_MS = 0.15
"""A run up to this long may block the event loop: handing it to a thread and back costs about as much."""

_MAX_WORKERS = 2
# Each interpreter packs its own copy of the weights (about 1.6 times the file), so that only small models get several.
_SMALL_MODEL_BYTES = 4 * 1024 * 1024
_PROBE_RUNS, _PROBE_S = 25, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A release ready to answer: one lane for each worker thread, and one for the event loop if it is fast enough."""

    lanes: tuple[Lane, ...]
    inline: Lane | None
    probe_ms: float
    """Median of one invocation when it was loaded."""


def open_litert(model: bytes, threads: int) -> Interpreter:
    """Open a model with the installed runtime. Raises ModelLoadError."""
    return LiteRtInterpreter(model, threads=threads)


def load_slot(slot: SlotSpec, *, cores: int, open_interpreter: OpenInterpreter) -> LoadedModel:
    """Read, check and load the release of a slot, and measure it.

    Raises:
        DigestMismatchError: a file is not what was signed. Nothing of it was interpreted.
        UntrustedError: the manifest is not one, or not of this release.
        ModelLoadError: the files cannot be read, or the runtime refuses the model.
        PipelineError: the pipeline does not fit the model.
    """
    folder = Path(slot.folder)
    described = manifest.decode(_read(folder / MANIFEST_FILE, slot.manifest_sha256))
    if described.release_id != slot.release_id or described.model != split_line(slot.model)[0]:
        raise UntrustedError(f"{folder} holds {described.model} {described.release_id}, not what was asked for")
    model = _read(folder / MODEL_FILE, slot.artifact_sha256)
    example = _golden_inputs(described, slot.artifact_sha256)
    return load_model(
        model, described.pipeline, threads=slot.threads, cores=cores, open_interpreter=open_interpreter, example=example
    )


def load_model(
    model: bytes,
    pipeline: PipelineSpec,
    *,
    threads: int,
    cores: int,
    open_interpreter: OpenInterpreter,
    example: list[Tensor] | None = None,
) -> LoadedModel:
    """Load a model whose bytes are trusted already. Raises ModelLoadError, PipelineError or InvalidInputError."""
    first = open_interpreter(model, threads)
    probe_ms = probe(first, example or zeros(first))
    workers = min(_MAX_WORKERS, max(1, cores // threads)) if len(model) <= _SMALL_MODEL_BYTES else 1
    is_fast = probe_ms <= INLINE_MS
    # What answers on the loop needs one worker more, for images, large batches and shadow runs only.
    others = [open_interpreter(model, threads) for _ in range(1 if is_fast else workers - 1)]
    if is_fast:
        return LoadedModel(
            lanes=tuple(Lane(pipeline, each) for each in others), inline=Lane(pipeline, first), probe_ms=probe_ms
        )
    return LoadedModel(lanes=tuple(Lane(pipeline, each) for each in (first, *others)), inline=None, probe_ms=probe_ms)


def probe(interpreter: Interpreter, inputs: list[Tensor]) -> float:
    """Return the median time of one invocation in ms, the first (which warms up) not counted."""
    interpreter.run(inputs)
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < _PROBE_RUNS and (not took or time.perf_counter() - began < _PROBE_S):
        started = time.perf_counter()
        interpreter.run(inputs)
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1000


def zeros(interpreter: Interpreter) -> list[Tensor]:
    """Return inputs that every model takes; zero is in range even of an index."""
    return [np.zeros([max(size, 1) for size in spec.shape], spec.dtype) for spec in interpreter.inputs]


def _golden_inputs(described: ReleaseManifest, artifact: Sha256) -> list[Tensor] | None:
    for each in described.artifacts:
        if each.sha256 == artifact and each.golden.cases:
            return [to_array(tensor) for tensor in each.golden.cases[0].inputs]
    return None


def _read(path: Path, expected: Sha256) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelLoadError(f"{path} cannot be read: {exc.strerror}") from exc
    actual = manifest.digest(data)
    if actual != expected:
        raise DigestMismatchError(expected=expected, actual=actual, path=str(path))
    return data
