"""Requests written down as CloudEvents: what a release consents to, of the share that Desired asks for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import structlog

from agent.serving.protocols.exposition import Sample
from agent.serving.recording import segments
from agent.serving.recording.segments import BUDGET_BYTES, Segment
from agent.serving.requests import ClassifyRequest, NamedTensor
from shared.request_log import (
    ENCODED,
    MAX_RECORD_BYTES,
    MAX_SEGMENT_BYTES,
    LogConsent,
    LoggedRequest,
    LoggedTensor,
    RequestEvent,
)
from shared.traffic import split_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from agent.serving.exchange import Reply
    from shared.clock import Clock
    from shared.ids import BootId
    from shared.request_log import LogWish

_PAUSE_S: Final = 30.0
"""After a failed write; a full disk is no fuller for being asked again, and no emptier either."""
_SEND_AFTER_S: Final = 30.0
"""How long a file that is to be sent stays open."""

_log = structlog.get_logger(__name__)


class Dropped:
    """Why a sampled request was not written down."""

    QUEUE_FULL, DISK_FULL = "queue_full", "disk_full"


@dataclass(slots=True, kw_only=True)
class RequestLog:
    """Writes records. Belongs to one thread, but for `samples`."""

    folder: Path
    boot_id: BootId
    clock: Clock
    budget_bytes: int = BUDGET_BYTES
    segment_bytes: int = MAX_SEGMENT_BYTES
    written: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    _open: dict[bool, Segment] = field(default_factory=dict)
    _number: int = 0
    _blocked_until_s: float = 0.0

    def recover(self) -> None:
        """Take in what a process that died has left."""
        segments.take_orphans(self.folder)

    def write(self, reply: Reply, *, ready_s: float, wish: LogWish, consent: LogConsent) -> None:
        """Write one answered request down; on a disk that takes nothing it is counted as dropped."""
        now_s = self.clock.monotonic()
        if now_s < self._blocked_until_s:
            self.drop(Dropped.DISK_FULL)
            return
        self._number += 1
        ago = dt.timedelta(seconds=now_s - reply.ask.received_s)
        event = RequestEvent(
            source=f"/models/{split_line(reply.instance.slot.model)[0]}/releases/{reply.instance.slot.release_id}",
            # Of fixed width, so that ids sort as they were written.
            id=f"{self.boot_id}-{self._number:09d}",
            time=(self.clock.now() - ago).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            data=record(reply, ready_s=ready_s, wish=wish, consent=consent),
        )
        line = msgspec.json.encode(event) + b"\n"
        if len(line) > MAX_RECORD_BYTES:
            line = msgspec.json.encode(msgspec.structs.replace(event, data=_without_values(event.data))) + b"\n"
        try:
            self._append(line, upwards=wish.upstream and consent.upstream, now_s=now_s)
        except OSError as exc:
            _log.warning("request_not_logged", error=str(exc), pause_s=_PAUSE_S)
            self._blocked_until_s = now_s + _PAUSE_S
            self.drop(Dropped.DISK_FULL)
            return
        self.written += 1

    def drop(self, why: str) -> None:
        """Count a request that was not written down."""
        self.dropped[why] = self.dropped.get(why, 0) + 1

    def due_s(self) -> float | None:
        """Return when (monotonic) `tick` has something to do; None when it has not."""
        return self._open[True].began_s + _SEND_AFTER_S if True in self._open else None

    def tick(self) -> None:
        """Close a file that has been open for long enough, so that it is sent."""
        due_s = self.due_s()
        if due_s is not None and self.clock.monotonic() >= due_s:
            self._close(upwards=True)

    def close(self) -> None:
        """Close every file."""
        for upwards in tuple(self._open):
            self._close(upwards=upwards)

    def samples(self) -> Iterable[Sample]:
        """Return its counts."""
        yield Sample("request_log_records", (), self.written)
        yield from (Sample("request_log_dropped", (why,), count) for why, count in tuple(self.dropped.items()))

    def _append(self, line: bytes, *, upwards: bool, now_s: float) -> None:
        current = self._open.get(upwards)
        if current is not None and current.size_bytes + len(line) > self.segment_bytes:
            self._close(upwards=upwards)
            current = None
        if current is None:
            # For itself and for the one that the other kind may begin.
            segments.make_room(self.folder, budget_bytes=self.budget_bytes, needed_bytes=2 * self.segment_bytes)
            name = f"{int(self.clock.now().timestamp() * 1000):015d}-{self.boot_id}-{self._number}"
            path = self.folder / (name + (segments.OPEN_UP if upwards else segments.OPEN))
            current = self._open[upwards] = Segment(path, now_s=now_s)
        current.append(line)

    def _close(self, *, upwards: bool) -> None:
        segment = self._open.pop(upwards)
        try:
            segment.close()
        except OSError as exc:
            _log.warning("request_log_not_closed", error=str(exc))


def record(reply: Reply, *, ready_s: float, wish: LogWish, consent: LogConsent) -> LoggedRequest:
    """Return what may be said of a request."""
    slot, outcome = reply.instance.slot, reply.outcome
    model, variant = split_line(slot.model)
    hidden = _hidden(reply, consent)
    consent = msgspec.structs.replace(consent, redact=tuple(hidden))
    tells_best = consent.outputs and hidden.isdisjoint(each.name for each in outcome.outputs)
    return LoggedRequest(
        model=model,
        variant=variant,
        version=str(slot.version_number),
        release_id=slot.release_id,
        protocol=reply.ask.caller.protocol.value,
        inputs=_inputs(reply, consent),
        outputs=_tensors(outcome.outputs, allowed=consent.outputs, consent=consent),
        top=outcome.top if tells_best else "",
        confidence=outcome.confidence if tells_best else None,
        latency_ms=(ready_s - reply.ask.received_s) * 1000,
        invoke_ms=outcome.invoke_ms,
        sample_rate=wish.sample_rate,
    )


def _hidden(reply: Reply, consent: LogConsent) -> frozenset[str]:
    """Return whose values are not told: those that the release names, or all where it names what nothing is called."""
    inputs = {ENCODED, *(spec.name for spec in reply.instance.inputs)}
    outputs = {each.name for each in reply.outcome.outputs}
    named = frozenset(consent.redact)
    if named - inputs - outputs:
        # Converters change names at will: what was meant to be hidden would be told under another.
        return named | inputs | outputs
    # An image is the same input, encoded or not.
    return named | inputs if len(reply.instance.inputs) == 1 and named & inputs else named


def _inputs(reply: Reply, consent: LogConsent) -> tuple[LoggedTensor, ...]:
    request, wanted = reply.ask.request, reply.instance.inputs
    if not isinstance(request, ClassifyRequest):
        # By the model's name, not by the caller's: a single input may come under any.
        given = tuple(
            NamedTensor(name=wanted[0].name if len(wanted) == 1 else each.name, array=each.array)
            for each in request.inputs
        )
        return _tensors(given, allowed=consent.inputs, consent=consent)
    return tuple(
        _logged(ENCODED, "bytes", (len(item),), item, len(item), allowed=consent.inputs, consent=consent)
        for item in request.items
    )


def _tensors(given: Iterable[NamedTensor], *, allowed: bool, consent: LogConsent) -> tuple[LoggedTensor, ...]:
    return tuple(
        _logged(
            each.name,
            each.array.dtype.name,
            each.array.shape,
            each.array,
            # The shortest number takes two bytes.
            each.array.size * 2,
            allowed=allowed,
            consent=consent,
        )
        for each in given
    )


def _logged(
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    value: bytes | np.ndarray[Any, Any],
    least_bytes: int,
    *,
    allowed: bool,
    consent: LogConsent,
) -> LoggedTensor:
    omitted = "no_consent" if not allowed else "redacted" if name in consent.redact else ""
    omitted = omitted or ("too_large" if least_bytes > MAX_RECORD_BYTES else "")
    data = None if omitted else value if isinstance(value, bytes) else _numbers(value)
    return LoggedTensor(name=name, datatype=datatype, shape=shape, data=data, omitted=omitted)


def _numbers(array: np.ndarray[Any, Any]) -> list[Any]:
    # Text inside an array of objects may be bytes, which JSON has in base64 here.
    listed: list[Any] = np.atleast_1d(array).tolist()
    return listed


def _without_values(data: LoggedRequest) -> LoggedRequest:
    def bare(tensors: tuple[LoggedTensor, ...]) -> tuple[LoggedTensor, ...]:
        return tuple(msgspec.structs.replace(each, data=None, omitted=each.omitted or "too_large") for each in tensors)

    return msgspec.structs.replace(data, inputs=bare(data.inputs), outputs=bare(data.outputs))
