"""What is looked at after the answer: drift on a few requests a second, and requests that are to be written down.

The event loop only decides whether a request is one of them; everything else is done by one thread of low priority,
which drops what it does not get to.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from agent.serving.protocols.exposition import Sample
from agent.serving.recording import declared
from agent.serving.recording.drift import DriftMonitor
from agent.serving.recording.request_log import Dropped
from shared.errors import LitefleetError
from shared.metrics import labelled
from shared.traffic import split_line

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from agent.core.plan import Plan, SlotSpec
    from agent.serving.exchange import Reply
    from agent.serving.recording.declared import Declared
    from agent.serving.recording.recorder import Recorder
    from agent.serving.recording.request_log import RequestLog
    from shared.clock import Clock
    from shared.ids import ModelName, ReleaseId
    from shared.request_log import LogWish

    Job = Callable[[], None]

QUEUE_LENGTH: Final = 32
"""Requests that wait; a thread that is behind drops the newest."""
QUEUE_BYTES: Final = 8 * 1024 * 1024
"""That they may hold in memory together; a single larger one is never looked at, and no line could hold it."""

LOOK_EVERY_S: Final = 0.25
"""Between two requests of a release that are looked at for drift, on average."""
LOOK_SHARE: Final = 0.01
"""Of one processor that looking may take; where decoding an image takes 50 ms, one is looked at every 5 s."""

_NICE: Final = 10
_CLOSE_S: Final = 2.0

_log = structlog.get_logger(__name__)


class Watch:
    """One release under observation."""

    def __init__(self, says: Declared, *, monitors: int) -> None:
        self.says = says
        self.wish: LogWish | None = None
        self.monitor = DriftMonitor(says.references, monitors=monitors)
        self.log_share = 0.0
        """Of the requests (0..1) that are written down."""
        self.next_s = -math.inf if says.references else math.inf
        """When (monotonic) the next request is to be looked at for drift."""
        self.every_s = LOOK_EVERY_S

    def wishes(self, wish: LogWish | None) -> None:
        """Write down as this says from now on."""
        self.wish = wish
        self.log_share = wish.sample_rate if wish is not None and self.says.consent is not None else 0.0


class Observer:
    """All methods belong to the event loop."""

    def __init__(
        self, *, chance: random.Random, clock: Clock, log: RequestLog | None = None, processes: int = 1
    ) -> None:
        """Watch nothing yet, in one of so many `processes` of this device. Without a `log` nothing is written down."""
        self._chance, self._clock, self._log, self._processes = chance, clock, log, processes
        self._watches: Mapping[ReleaseId, Watch] = {}
        self._jobs: deque[tuple[int, Job]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="observe", daemon=True)
        self._thread.start()

    @property
    def watches(self) -> Mapping[ReleaseId, Watch]:
        """Every release under observation. Replaced as a whole, never changed."""
        return self._watches

    def follow(self, plan: Plan) -> None:
        """Watch what this plan holds, as it wishes; manifests are read by the thread."""
        wishes = {wish.model: wish for wish in plan.request_logs} if self._log is not None else {}
        self._submit(partial(self._follow, plan.slots, wishes), must=True)

    def answered(self, reply: Reply, *, ready_s: float) -> None:
        """Take note of an answer that has been sent."""
        watch = self._watches.get(reply.instance.slot.release_id)
        if watch is None:
            return
        if ready_s >= watch.next_s:
            # At random, or a camera that sends at the same rate would always be seen at the same moment.
            watch.next_s = ready_s + self._chance.expovariate(1 / watch.every_s)
            self._submit(partial(self._look, watch, reply), size_bytes=reply.ask.request.size_bytes)
        if watch.log_share and self._chance.random() < watch.log_share:
            is_taken = self._submit(partial(self._note, watch, reply, ready_s), size_bytes=reply.ask.request.size_bytes)
            if not is_taken and self._log is not None:
                self._log.drop(Dropped.QUEUE_FULL)

    def samples(self, recorder: Recorder) -> Iterable[Sample]:
        """Return what was found, for `/metrics`."""
        for release, watch in self._watches.items():
            model, variant = split_line(watch.says.slot.model)
            who = (model, recorder.version_of(release), variant)
            if watch.says.references:
                yield Sample("drift_items", who, watch.monitor.items)
            for each in watch.monitor.found:
                figure = (*who, each.figure)
                yield Sample("drift_psi", figure, each.psi)
                yield Sample("drift_threshold", figure, each.threshold)
                yield Sample("drift_found", figure, int(each.drifted))
                yield Sample("drift_looks", figure, each.looks)
                yield Sample("drift_alarms", figure, each.alarms)
        if self._log is not None:
            yield from self._log.samples()

    def counts(self) -> dict[tuple[ModelName, ReleaseId], dict[str, int]]:
        """Return what travels upwards, by line and release."""
        return {
            (watch.says.slot.model, release): {
                labelled(name, each.figure): count
                for each in watch.monitor.found
                for name, count in (("drift_looks", each.looks), ("drift_alarms", each.alarms))
            }
            for release, watch in self._watches.items()
        }

    def close(self) -> None:
        """Do what waits, close the log, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_S)

    # --- in the thread ---

    def _serve(self) -> None:
        # On Linux a thread has a priority of its own.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        if self._log is not None:
            self._log.recover()
        while (job := self._take()) is not None:
            try:
                job()
            except Exception:  # noqa: BLE001 - watching must outlive whatever it stumbles over
                _log.exception("observation_failed")
            # Held no longer than needed: a request may be megabytes.
            del job
        if self._log is not None:
            self._log.close()

    def _take(self) -> Job | None:
        with self._changed:
            while not (self._jobs or self._closed):
                due_s = self._log.due_s() if self._log is not None else None
                wait_s = None if due_s is None else max(due_s - self._clock.monotonic(), 0.0)
                self._changed.wait(wait_s)
                if wait_s is not None and self._log is not None:
                    self._log.tick()
            if not self._jobs:
                return None
            size_bytes, job = self._jobs.popleft()
            self._waiting_bytes -= size_bytes
            return job

    def _follow(self, slots: tuple[SlotSpec, ...], wishes: Mapping[ModelName, LogWish]) -> None:
        watches: dict[ReleaseId, Watch] = {}
        for slot in slots:
            known = self._watches.get(slot.release_id)
            watch = known if known is not None and known.says.slot == slot else self._begin(slot)
            if watch is not None:
                # A wish for a model is for all of its variants.
                watch.wishes(wishes.get(split_line(slot.model)[0]))
                watches[slot.release_id] = watch
        self._watches = watches

    def _begin(self, slot: SlotSpec) -> Watch | None:
        try:
            says = declared.read(slot)
        except LitefleetError as exc:
            # Loading it has told why, too.
            _log.warning("release_not_watched", release_id=slot.release_id, error=str(exc))
            return None
        return None if says is None else Watch(says, monitors=self._processes)

    def _look(self, watch: Watch, reply: Reply) -> None:
        began_s = self._clock.monotonic()
        says = watch.says
        figures = declared.output_figures(reply.outcome, says.labels)
        if says.feeding is not None:
            figures |= says.feeding.figures(reply.ask.request)
        watch.monitor.count(figures)
        watch.every_s = max(LOOK_EVERY_S, (self._clock.monotonic() - began_s) / LOOK_SHARE)

    def _note(self, watch: Watch, reply: Reply, ready_s: float) -> None:
        if self._log is not None and watch.wish is not None and watch.says.consent is not None:
            self._log.write(reply, ready_s=ready_s, wish=watch.wish, consent=watch.says.consent)

    def _submit(self, job: Job, *, size_bytes: int = 0, must: bool = False) -> bool:
        with self._changed:
            is_full = len(self._jobs) >= QUEUE_LENGTH or self._waiting_bytes + size_bytes > QUEUE_BYTES
            if self._closed or (is_full and not must):
                return False
            self._jobs.append((size_bytes, job))
            self._waiting_bytes += size_bytes
            self._changed.notify()
            return True
