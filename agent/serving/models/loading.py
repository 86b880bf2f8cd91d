"""From a release's folder to a model in memory: every byte is checked against its digest first, every time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from agent.serving.models import allocator
from agent.serving.models.batching import Batcher, is_rowwise
from agent.serving.models.lane import Lane
from agent.serving.models.probing import probe_model, zeros
from agent.serving.models.warming import warm
from shared import manifest
from shared.errors import DigestMismatchError, ModelLoadError, UntrustedError
from shared.pipeline import OWN_MODEL
from shared.probe import ExecutionMode
from shared.runtime.golden import to_array
from shared.runtime.interpreter import LiteRtInterpreter
from shared.traffic import split_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.core.plan import SlotSpec
    from shared.ids import Sha256
    from shared.manifest import ReleaseManifest
    from shared.pipeline import PipelineSpec
    from shared.probe import ModelProbe
    from shared.runtime.interpreter import Interpreter

    OpenInterpreter = Callable[[bytes, int], Interpreter]
    Tensor = NDArray[Any]

MODEL_FILE, MANIFEST_FILE, COMPONENTS_DIR = "model.tflite", "manifest.json", "components"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A release ready to answer: a batcher for each worker thread, and one for the event loop if it is fast enough."""

    workers: tuple[Batcher, ...]
    inline: Batcher | None
    probe: ModelProbe
    least_ms: float
    """The fastest invocation seen when it was loaded."""

    @property
    def interpreters(self) -> int:
        """How many copies of the model are in memory."""
        return sum(each.interpreters for each in (*self.workers, self.inline) if each)

    @property
    def probe_ms(self) -> float:
        """Median of one invocation when it was loaded, as it is run."""
        timed = {each.threads: each.p50_ms for each in self.probe.by_threads}
        return timed[self.probe.threads]


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
    recorded = _golden_inputs(described, slot.artifact_sha256)
    return load_model(
        model,
        described.pipeline,
        threads=slot.threads,
        cores=cores,
        open_interpreter=open_interpreter,
        recorded=recorded,
        components=_read_components(slot, described),
    )


def load_model(
    model: bytes,
    pipeline: PipelineSpec,
    *,
    threads: int,
    cores: int,
    open_interpreter: OpenInterpreter,
    recorded: Sequence[list[Tensor]] = (),
    components: Mapping[str, bytes] | None = None,
) -> LoadedModel:
    """Load a model whose bytes are trusted already, measure it, and warm it up with what was `recorded`.

    `components` are the other models that its pipeline runs, by name; every lane has its own of each. Raises
    ModelLoadError, PipelineError or InvalidInputError.
    """
    loaded = _load(
        model,
        pipeline,
        threads=threads,
        cores=cores,
        open_interpreter=open_interpreter,
        recorded=recorded,
        components=components or {},
    )
    allocator.give_back()
    return loaded


def _load(
    model: bytes,
    pipeline: PipelineSpec,
    *,
    threads: int,
    cores: int,
    open_interpreter: OpenInterpreter,
    recorded: Sequence[list[Tensor]],
    components: Mapping[str, bytes],
) -> LoadedModel:
    example = recorded[0] if recorded else None
    probed = probe_model(
        partial(open_interpreter, model),
        threads=threads,
        cores=cores,
        example=example,
        may_join=is_rowwise(pipeline),
        size_bytes=len(model),
    )
    probe = probed.probe
    timed = {each.batch: each.p50_ms for each in probe.by_batch}

    def lane(interpreter: Interpreter) -> Lane:
        others = {name: open_interpreter(content, probe.threads) for name, content in components.items()}
        return Lane(pipeline, {OWN_MODEL: interpreter, **others})

    def batcher(interpreter: Interpreter, buckets: Mapping[int, Interpreter]) -> Batcher:
        lanes = {size: lane(bucket) for size, bucket in buckets.items()}
        made = Batcher(lane(interpreter), lanes, timed)
        warm(made, recorded or [zeros(interpreter)])
        return made

    first = batcher(probed.first, probed.buckets)
    spare = [probed.spare] if probed.spare is not None else []
    if probe.mode is ExecutionMode.INLINE and not first.lane.is_line:
        # What was measured is one model of several, or a part of what is done for an item: no case for the loop.
        workers = (first, *(batcher(each, {}) for each in spare))
        probe = replace(probe, mode=ExecutionMode.WORKERS, workers=len(workers))
        return LoadedModel(workers=workers, inline=None, probe=probe, least_ms=probed.least_ms)
    if probe.mode is ExecutionMode.INLINE:
        workers = tuple(batcher(each, {}) for each in spare)
        return LoadedModel(workers=workers, inline=first, probe=probe, least_ms=probed.least_ms)
    reopen = partial(open_interpreter, model, probe.threads)
    others = [*spare, *(reopen() for _ in range(probe.workers - 1 - len(spare)))]
    more = (batcher(each, {size: reopen() for size in probe.batches}) for each in others)
    return LoadedModel(workers=(first, *more), inline=None, probe=probe, least_ms=probed.least_ms)


def _golden_inputs(described: ReleaseManifest, artifact: Sha256) -> list[list[Tensor]]:
    for each in described.artifacts:
        if each.sha256 == artifact:
            return [[to_array(tensor) for tensor in case.inputs] for case in each.golden.cases]
    return []


def _read_components(slot: SlotSpec, described: ReleaseManifest) -> dict[str, bytes]:
    digests = {each.name: each.artifact_sha256 for each in slot.components}
    known = {each.name: {one.sha256 for one in each.artifacts} for each in described.components}
    if digests.keys() != known.keys() or any(digest not in known[name] for name, digest in digests.items()):
        raise UntrustedError(f"{slot.folder} holds a release with other components than were asked for")
    folder = Path(slot.folder) / COMPONENTS_DIR
    return {name: _read(folder / f"{name}.tflite", digest) for name, digest in digests.items()}


def _read(path: Path, expected: Sha256) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelLoadError(f"{path} cannot be read: {exc.strerror}") from exc
    actual = manifest.digest(data)
    if actual != expected:
        raise DigestMismatchError(expected=expected, actual=actual, path=str(path))
    return data
