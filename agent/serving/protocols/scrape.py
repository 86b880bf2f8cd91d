"""`/metrics`: gathers what is counted all over the process, when somebody asks, and writes it as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from aiohttp import web

from agent.core.plan import GetSamples, Samples
from agent.serving.planned.link import Line
from agent.serving.protocols.exposition import Buckets, Sample, content_type, merged, write
from shared.errors import UnreachableError
from shared.traffic import split_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from agent.core.plan import AskInference, FromServing, GetStats, SetPlan, ToServing
    from agent.serving.callers.applications import Applications
    from agent.serving.callers.in_flight import Traffic
    from agent.serving.engine import Engine
    from agent.serving.recording.recorder import Recorder, Series
    from agent.serving.recording.tally import Tally

    Answer = Callable[[SetPlan | GetStats | AskInference], Awaitable[FromServing]]


_SIBLING_S: Final = 2.0
"""A process that is busy for longer goes without: its figures are in the next scrape."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Scrape:
    """Everything in one process that has figures to show."""

    engine: Engine
    traffic: Traffic | None = None
    started_ms: float = 0.0
    """When this process started, since 1970."""
    siblings: tuple[Path, ...] = ()
    """Sockets of the other serving processes behind the same port: a scraper reaches any one of them."""

    def samples(self) -> list[Sample]:
        """Return all figures of this process as they stand."""
        return [
            *_of_recorder(self.engine.recorder),
            *_of_residents(self.engine),
            *_of_applications(self.engine.applications),
            *([Sample("in_flight", (), self.traffic.in_flight)] if self.traffic is not None else []),
            Sample("processes", (), 1),
            Sample("start_time_ms", (), self.started_ms),
            *(self.engine.observer.samples(self.engine.recorder) if self.engine.observer is not None else ()),
        ]

    async def text(self, accept: str) -> web.Response:
        """Return the answer to a scraper that takes `accept`."""
        others = [found for path in self.siblings if (found := await _asked(path)) is not None]
        kind = content_type(accept)
        return web.Response(body=write(merged([self.samples(), *others]), kind=kind), headers={"Content-Type": kind})


def routes(scrape: Scrape) -> list[web.RouteDef]:
    """Return the endpoint."""

    async def metrics(request: web.Request) -> web.Response:
        return await scrape.text(request.headers.get("Accept", ""))

    return [web.get("/metrics", metrics)]


class ScrapeAnswers:
    """Answers other serving processes, and leaves every other message to `otherwise`."""

    def __init__(self, scrape: Scrape, *, otherwise: Answer) -> None:
        self._scrape, self._otherwise = scrape, otherwise

    async def answer(self, message: ToServing) -> FromServing:
        """Answer one message."""
        if not isinstance(message, GetSamples):
            return await self._otherwise(message)
        return Samples(listed=msgspec.Raw(msgspec.msgpack.encode(self._scrape.samples())))


async def _asked(path: Path) -> list[Sample] | None:
    """Return the figures of another process; None when it is away, as when it starts again."""
    line = Line(path)
    try:
        answer = await line.call(GetSamples(), deadline_s=_SIBLING_S)
    except UnreachableError as exc:
        _log.info("sibling_not_scraped", error=str(exc))
        return None
    finally:
        await line.close()
    return msgspec.msgpack.decode(answer.listed, type=list[Sample]) if isinstance(answer, Samples) else None


def _of_recorder(recorder: Recorder) -> Iterator[Sample]:
    for (line, release), series in recorder.every_series.items():
        model, variant = split_line(line)
        who = (model, recorder.version_of(release), variant)
        for protocol, tally in series.tallies.items():
            yield from _of_tally((*who, protocol.value), tally)
        yield from _of_classes(who, series)
    for (model, candidate, stable), pairs in recorder.every_pair.items():
        who = (model, recorder.version_of(candidate), recorder.version_of(stable))
        same = pairs.pairs - pairs.flips - pairs.candidate_errors
        outcomes = {"same": same, "flip": pairs.flips, "candidate_error": pairs.candidate_errors}
        yield from (Sample("pairs", (*who, outcome), count) for outcome, count in outcomes.items())
        yield Sample("pairs_slower", who, pairs.slower)


def _of_tally(who: tuple[str, ...], tally: Tally) -> Iterator[Sample]:
    yield Sample("requests", who, tally.requests)
    for name, kinds in (("request_errors", tally.errors), ("request_refusals", tally.refusals)):
        yield from (Sample(name, (*who, kind), count) for kind, count in kinds.items())
    for name, histogram in tally.histograms.items():
        yield Sample(name, who, Buckets(tuple(histogram.counts.tolist()), histogram.total))


def _of_classes(who: tuple[str, ...], series: Series) -> Iterator[Sample]:
    return (Sample("classes", (*who, label), count) for label, count in series.classes.items())


def _of_residents(engine: Engine) -> Iterator[Sample]:
    for each in engine.residents:
        model, variant = split_line(each.slot.model)
        who = (model, engine.recorder.version_of(each.slot.release_id), variant)
        yield Sample("waiting", who, each.waiting)
        yield Sample("model_bytes", who, each.memory_bytes if each.instance is not None else 0)


def _of_applications(applications: Applications) -> Iterator[Sample]:
    for application, tally in applications.tallies.items():
        yield Sample("application_requests", (application,), tally.requests)
        yield Sample("application_refusals", (application, "scope"), tally.scope_refusals)
        yield Sample("application_refusals", (application, "quota"), tally.over_quota)
    # Nobody's, and no name that a caller made up.
    yield Sample("application_refusals", ("", "unknown_key"), applications.unknown_keys)
    yield Sample("application_refusals", ("", "missing_key"), applications.missing_keys)
