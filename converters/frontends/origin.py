"""The source model: its float `.tflite`, and its own answers to the samples, asked for once and kept by content."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from converters.data import shards
from converters.environments import Environment, locate, of_format
from converters.failures import ConversionFailedError
from converters.frontends.frontend import FloatModel, FrontendRequest
from converters.frontends.process import Worker
from converters.inspect import describe
from converters.judgement import cache
from converters.judgement.answers import Answerer
from shared.conversion import FailureKind, SourceFormat
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from converters.data.datasets import Samples
    from converters.environments import Located
    from converters.judgement.cache import Cache
    from shared.conversion import ConversionRequest

    Tensor = NDArray[Any]

_CHUNK_BYTES = 64 * 2**20
"""Of model inputs that the source is asked at a time; a conversion that is cut short loses no more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Float:
    """The float model, and what its front end said of it."""

    model: bytes
    facts: FloatModel
    source_sha256: str
    key: str
    """Names it by what it was made of."""
    stateful: bool
    """Each answer depends on those before it."""


class Origin:
    """A source model behind its front end, which only starts for what is not kept already; a context manager."""

    def __init__(self, request: ConversionRequest, kept: Cache, scratch: Path, progress: Callable[[str], None]) -> None:
        """Find the environment of the format.

        Raises:
            InvalidInputError: it is not installed; says how to.
        """
        self._request = request
        self._kept = kept
        self._scratch = scratch
        root = Path(request.environments_path) if request.environments_path else None
        self._located: Located = locate(of_format(request.source_format), root)
        self.program = cache.program() + locate(Environment.BASE, root).fingerprint
        self._progress = progress
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the front end."""
        self.close()

    def close(self) -> None:
        """End the front end, whose framework holds much memory; again is fine."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def load(self) -> Float:
        """Return the float model.

        Raises:
            ConversionFailedError: there is none; says of which kind the failure is.
        """
        request = self._request
        with Path(request.source_path).open("rb") as file:
            source = hashlib.file_digest(file, "sha256").hexdigest()
        parts = (source, request.source_format, str(request.batch), self._located.fingerprint, self.program)
        key = cache.key("float", *parts)
        facts = self._kept.get_struct(f"{key}.json", FloatModel)
        model = self._kept.get(f"{key}.tflite")
        if facts is None or model is None:
            facts = self._start()
            model = Path(facts.model_path).read_bytes()
            self._kept.put(f"{key}.tflite", model)
            self._kept.put_struct(f"{key}.json", facts)
        return Float(model=model, facts=facts, source_sha256=source, key=key, stateful=describe(model).stateful)

    def answers(self, made: Float, samples: Samples) -> Iterator[tuple[Tensor, ...]]:
        """Yield the source's outputs for consecutive samples, `(B, Kᵢ)` each.

        Raises:
            ConversionFailedError: the framework cannot answer, or answers otherwise than the float model.
        """
        if self._request.source_format is SourceFormat.TFLITE:
            # The runtime is its framework; in order and in one piece, for it may remember what it saw.
            with Answerer(
                made.model, self._request.pipeline, cores=self._request.threads, stateful=made.stateful
            ) as answerer:
                yield from (block.outputs for block in answerer.over(samples))
            return
        pipeline = CompiledPipeline(self._request.pipeline, LiteRtInterpreter(made.model, threads=1))
        rows = max(1, _CHUNK_BYTES // max(pipeline.prepare(samples.item(0)).nbytes, 1))
        for number, block in enumerate(samples.blocks(rows)):
            parts = (made.key, samples.digest, self._request.pipeline, str(rows), str(number))
            key = cache.key("answers", *parts) + ".npz"
            content = self._kept.get(key)
            if content is None:
                content = self._ask(np.stack([pipeline.prepare(item) for item in block]))
                self._kept.put(key, content)
            yield _outputs(content, len(block))

    def _ask(self, inputs: Tensor) -> bytes:
        if self._worker is None:
            self._start()
        asked, answered = self._scratch / "inputs.npz", self._scratch / "answers.npz"
        np.savez(asked, input_0=inputs)
        try:
            self._running.answer(asked, answered)
            return answered.read_bytes()
        finally:
            asked.unlink(missing_ok=True)
            answered.unlink(missing_ok=True)

    @property
    def _running(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("the front end has not started")
        return self._worker

    def _start(self) -> FloatModel:
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._worker = Worker(self._located, progress=self._progress)
        return self._worker.load(
            FrontendRequest(
                source_path=self._request.source_path,
                source_format=self._request.source_format,
                scratch_path=str(self._scratch),
                batch=self._request.batch,
                threads=self._request.threads,
            )
        )


def gather(blocks: Iterator[Sequence[Tensor]], count: int, into: Path) -> tuple[Tensor, ...]:
    """Write the blocks of outputs behind each other, and return each output of all items, `(count, Kᵢ)`, mapped.

    Raises:
        ConversionFailedError: they do not fit together.
    """
    into.mkdir(parents=True, exist_ok=True)
    whole: list[Tensor] = []
    done = 0
    for block in blocks:
        if not whole:
            whole = [_opened(into / f"{number}.npy", output, count) for number, output in enumerate(block)]
        size = len(block[0])
        try:
            for target, output in zip(whole, block, strict=True):
                target[done : done + size] = output
        except ValueError as exc:
            raise ConversionFailedError(
                FailureKind.CRASHED, f"the source's answers do not fit together: {exc}"
            ) from exc
        done += size
    if done != count:
        raise ConversionFailedError(FailureKind.CRASHED, f"the source answered {done} of {count} items")
    return tuple(shards.map_npy(into / f"{number}.npy", "answers") for number in range(len(whole)))


def _opened(path: Path, output: Tensor, count: int) -> Tensor:
    opened: Tensor = np.lib.format.open_memmap(path, mode="w+", dtype=output.dtype, shape=(count, output.shape[1]))
    return opened


def _outputs(content: bytes, items: int) -> tuple[Tensor, ...]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        outputs = [arrays[f"output_{number}"] for number in range(len(arrays.files))]
    if not outputs or any(len(output) != items for output in outputs):
        shapes = msgspec.json.encode([list(output.shape) for output in outputs]).decode()
        raise ConversionFailedError(FailureKind.CRASHED, f"the source answered {items} items in shapes {shapes}")
    return tuple(output.reshape(items, -1) for output in outputs)
