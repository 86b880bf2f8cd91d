"""`litefleet-agent bench`: what a model costs on this device, raw, and by every protocol that it can be asked in."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.serving.bench.bench_requests import HAS_GRPC, example, questions
from agent.serving.bench.bench_server import check, running
from agent.serving.local import read_files
from agent.serving.models.lane import Lane
from agent.serving.models.loading import load_model, open_litert
from agent.serving.models.probing import zeros
from agent.serving.requests import ClassifyRequest, InferRequest
from shared.errors import InvalidInputError, ModelFailedError
from shared.pipeline import MODEL_ONLY, OWN_MODEL, takes_bytes
from shared.probe import ModelProbe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.serving.bench.bench_requests import Question
    from agent.serving.bench.bench_server import RunningServer
    from agent.serving.local import LocalFiles
    from agent.serving.requests import Request

ROUNDS: Final = 5
"""Protocols are asked in turns, so that whatever else the device does disturbs all of them alike."""
_LEAST_S, _MOST_S = 0.1, 600.0
_MOST_KEPT: Final = 100_000


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer takes in one way of asking."""

    name: str
    cpu_us: float = 0.0
    """Of all the server's processes and threads, the caller's own left out."""
    p50_ms: float = 0.0
    """By the clock, as the caller sees it, on one connection."""
    p99_ms: float = 0.0
    answers: int = 0
    """That were measured."""
    adds_us: float | None = None
    """CPU beyond that of the same work in this process; None for what is no request for the model."""
    over_raw: float | None = None
    """CPU, in multiples of the bare invocation's."""
    refused: str = ""
    """Why it was not measured."""


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    model: str
    size_bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    asked_with: str
    """What the request holds."""
    load_ms: float
    """To load the model, with the probe."""
    probe: ModelProbe
    raw: Cost
    """The bare invocation, in this process."""
    pipeline: Cost | None
    """The whole pipeline in this process; None where there is none."""
    protocols: tuple[Cost, ...]
    has_grpc: bool


@dataclass(slots=True, kw_only=True)
class _Way:
    """One way of asking, and what was measured of it over all rounds."""

    name: str
    ask: Callable[[], object]
    """Returns why it was refused, if a text."""
    spent_us: Callable[[], float]
    """CPU of whoever answers, so far."""
    refused: str = ""
    took_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Mean of each round."""

    def measure(self, seconds: float) -> None:
        """Ask for a while, once at least. Raises ModelFailedError when there is no answer any more."""
        self.ask()
        count, before = 0, self.spent_us()
        end = time.perf_counter() + seconds
        while not count or time.perf_counter() < end:
            began = time.perf_counter()
            refused = self.ask()
            if len(self.took_s) < _MOST_KEPT:
                self.took_s.append(time.perf_counter() - began)
            count += 1
            if isinstance(refused, str) and refused:
                raise ModelFailedError(f"{self.name} is answered no longer: {refused}")
        self.cpu_us.append((self.spent_us() - before) / count)

    def cost(self) -> Cost:
        """Return what one answer takes."""
        if self.refused:
            return Cost(name=self.name, refused=self.refused)
        ordered = sorted(self.took_s)
        return Cost(
            name=self.name,
            cpu_us=statistics.median(self.cpu_us),
            p50_ms=statistics.median(ordered) * 1000,
            p99_ms=ordered[int(len(ordered) * 0.99)] * 1000,
            answers=len(ordered),
        )


def bench(path: Path, *, seconds: float, item: Path | None = None) -> BenchReport:
    """Measure a `.tflite` file or a release's folder, for `seconds` in each way of asking.

    `item` is an encoded image or sound to ask with, for a pipeline that takes them.

    Raises:
        InvalidInputError: the path or the item cannot be read or used.
        ModelLoadError: the runtime refuses the model, or no server could be started for it.
        PipelineError: the pipeline does not fit the model, or refuses the item.
    """
    if not _LEAST_S <= seconds <= _MOST_S:
        problem = f"{seconds:g} is not within {_LEAST_S:g}..{_MOST_S:g}"
        raise InvalidInputError(field="seconds", problem=problem)
    files, encoded = read_files(path), _read_item(item)
    if encoded is not None and not takes_bytes(files.pipeline):
        remedy = "leave it out, or bench a release's folder whose pipeline begins with decode_image or decode_audio"
        raise InvalidInputError(field="item", problem="the pipeline takes numbers, not encoded items", remedy=remedy)
    began = time.perf_counter()
    loaded = load_model(
        files.model,
        files.pipeline,
        threads=1,
        cores=os.cpu_count() or 1,
        open_interpreter=open_litert,
        components=files.components,
    )
    load_ms, probe = (time.perf_counter() - began) * 1000, loaded.probe
    del loaded
    lane = _lane(files, threads=probe.threads)
    request = example(files.pipeline, lane, item=encoded)
    # An answer before the clock runs: what the pipeline refuses is told as it says it.
    lane.run(request)
    here = _in_process(files, lane, request, threads=probe.threads)
    with running(path) as server, contextlib.ExitStack() as ends:
        there = _over_protocols(server, questions(request), ends)
        for _ in range(ROUNDS):
            for way in (*here, *there):
                if not way.refused:
                    way.measure(seconds / ROUNDS)
    raw, *whole = (_beside(way.cost(), None, here[0].cost()) for way in here)
    limit = (whole or [raw])[0]
    # The first is asked without the model.
    protocols = (there[0].cost(), *(_beside(way.cost(), limit, raw) for way in there[1:]))
    return BenchReport(
        model=str(path),
        size_bytes=len(files.model),
        inputs=tuple(f"{each.name} {each.dtype} {_shape(each.shape)}" for each in lane.inputs),
        outputs=tuple(f"{each.name} {each.dtype} {_shape(each.shape)}" for each in lane.outputs),
        asked_with=_told(request),
        load_ms=load_ms,
        probe=probe,
        raw=raw,
        pipeline=whole[0] if whole else None,
        protocols=protocols,
        has_grpc=HAS_GRPC,
    )


def _read_item(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInputError(field="item", problem=f"{path} cannot be read: {exc.strerror}") from exc


def _lane(files: LocalFiles, *, threads: int) -> Lane:
    others = {name: open_litert(content, threads) for name, content in files.components.items()}
    return Lane(files.pipeline, {OWN_MODEL: open_litert(files.model, threads), **others})


def _in_process(files: LocalFiles, lane: Lane, request: Request, *, threads: int) -> list[_Way]:
    """Return the bare invocation and, where there is one, the whole pipeline."""
    interpreter, is_bare = open_litert(files.model, threads), files.pipeline == MODEL_ONLY
    # Without a pipeline a request is what the model is fed.
    fed = [each.array for each in request.inputs] if is_bare and isinstance(request, InferRequest) else None
    bare = _Way(name="bare invocation", ask=partial(interpreter.run, fed or zeros(interpreter)), spent_us=_own_cpu_us)
    whole = _Way(name="pipeline, no server", ask=partial(lane.run, request), spent_us=_own_cpu_us)
    return [bare] if is_bare else [bare, whole]


def _over_protocols(server: RunningServer, asked: list[Question], ends: contextlib.ExitStack) -> list[_Way]:
    """Return a way for each question, on a connection of its own, asked once; `ends` closes them."""
    ways = []
    for each in asked:
        connection = server.connect(each.door)
        ends.callback(connection.close)
        ask = partial(check, connection, each.data)
        ways.append(_Way(name=each.name, ask=ask, spent_us=server.cpu_us, refused=ask()))
    return ways


def _beside(cost: Cost, limit: Cost | None, raw: Cost) -> Cost:
    """Return a cost with what it is beyond the same work in this process, and in multiples of the bare invocation."""
    if cost.refused:
        return cost
    adds = cost.cpu_us - limit.cpu_us if limit is not None else None
    return msgspec.structs.replace(cost, adds_us=adds, over_raw=cost.cpu_us / raw.cpu_us)


def _own_cpu_us() -> float:
    return time.process_time() * 1e6


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join("?" if size < 0 else str(size) for size in shape) or "scalar"


def _told(request: Request) -> str:
    if isinstance(request, ClassifyRequest):
        return f"an encoded item of {len(request.encoded)} bytes"
    shapes: list[Any] = [_shape(each.array.shape) for each in request.inputs]
    return f"numbers, {', '.join(shapes)}"
