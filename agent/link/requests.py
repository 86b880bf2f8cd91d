"""Requests of applications that have only the broker: taken in, passed to serving, answered below their own topic.

Bounded in every way. So many are under way at once; some more are told to come again, and the rest is dropped, since
whoever floods a device must not make it work for each message. What has expired is dropped, and so is what has no
place to be answered. The broker may bring a message twice, so that an id of a login is answered once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import structlog

from agent.core.plan import AskInference, InferenceAnswered
from shared.broker_inference import MAX_PAYLOAD_BYTES, BrokerReply, BrokerRequest, pack, unpack_request
from shared.errors import InvalidInputError, UnreachableError
from shared.ids import ModelName
from shared.topics import application_of, login_of, reply_topic

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from agent.link.outbox import Publish
    from shared.clock import Clock
    from shared.ids import DeviceId

MAX_IN_FLIGHT: Final = 16
"""Requests that serving has at once: more of them would only wait there."""

MAX_TURNED_AWAY: Final = 16
"""Requests beyond those that are being told so. Beyond these, too, nothing is said."""

DEADLINE_S: Final = 30.0
"""Of a request that names none; serving gives no request longer."""

MAX_REPLY_BYTES: Final = MAX_PAYLOAD_BYTES - 1024
"""Largest reply, with room for its topic: a broker hangs up on whoever sends it a larger packet."""

_REMEMBERED: Final = 4096
"""Ids that are not answered again: minutes of the most that a broker brings, and a broker repeats within seconds."""

_log = structlog.get_logger(__name__)


class AskServing(Protocol):
    """How requests reach serving: `ServingLines.ask`."""

    async def __call__(self, asked: AskInference) -> InferenceAnswered:
        """Have it answered. Raises UnreachableError when serving is away."""
        ...


class BrokerRequests:
    """The requests that the broker brings to this device."""

    def __init__(
        self,
        *,
        device_id: DeviceId,
        ask: AskServing,
        publish: Publish,
        clock: Clock,
        start: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        self._device_id, self._ask, self._publish, self._clock, self._start = device_id, ask, publish, clock, start
        self._answered: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._in_flight = self._turned_away = 0
        self.dropped = 0
        """Requests that got no word: unreadable, expired, repeated, or too many."""

    def take(self, topic: str, payload: bytes) -> None:
        """See to a request; returns at once."""
        login = login_of(topic, self._device_id)
        request = None if login is None else self._read(topic, payload)
        if login is None or request is None or self._is_repeated(login, request[0].id):
            self.dropped += 1
            return
        asked, body, reply_to = request
        timeout_s = self._left_s(asked)
        if timeout_s <= 0:
            self.dropped += 1
        elif self._in_flight < MAX_IN_FLIGHT:
            self._in_flight += 1
            self._start(self._answer(login, asked, body, reply_to, timeout_s))
        elif self._turned_away < MAX_TURNED_AWAY:
            self._turned_away += 1
            self._start(self._turn_away(asked, reply_to))
        else:
            self.dropped += 1

    def _read(self, topic: str, payload: bytes) -> tuple[BrokerRequest, bytes, str] | None:
        """Return a request, its body, and where to answer it; None for one that cannot be answered."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None
        try:
            asked, body = unpack_request(payload)
        except InvalidInputError as exc:
            _log.debug("request_unreadable", topic=topic, error=str(exc))
            return None
        reply_to = reply_topic(topic, asked.reply)
        return None if reply_to is None else (asked, body, reply_to)

    def _is_repeated(self, login: str, request_id: str) -> bool:
        key = (login, request_id)
        if key in self._answered:
            return True
        self._answered[key] = None
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        return False

    def _left_s(self, asked: BrokerRequest) -> float:
        if asked.expires_at is None:
            return DEADLINE_S
        return min(DEADLINE_S, (asked.expires_at - self._clock.now()).total_seconds())

    async def _answer(self, login: str, asked: BrokerRequest, body: bytes, reply_to: str, timeout_s: float) -> None:
        try:
            question = AskInference(
                application=application_of(login),
                model=ModelName(asked.model),
                version=asked.version,
                kind=asked.kind,
                key=asked.key,
                body=body,
                header_bytes=asked.header_bytes,
                timeout_s=timeout_s,
            )
            try:
                answer = await self._ask(question)
            except UnreachableError as exc:
                answer = _unavailable(exc)
            await self._reply(asked, answer, reply_to)
        finally:
            self._in_flight -= 1

    async def _turn_away(self, asked: BrokerRequest, reply_to: str) -> None:
        try:
            detail = f"{MAX_IN_FLIGHT} requests of the broker are under way on this device"
            status = HTTPStatus.TOO_MANY_REQUESTS
            answer = InferenceAnswered(status=status, body=_problem(status, "queue_full", detail), retry_after_s=1.0)
            await self._reply(asked, answer, reply_to)
        finally:
            self._turned_away -= 1

    async def _reply(self, asked: BrokerRequest, answer: InferenceAnswered, reply_to: str) -> None:
        payload = _packed(asked, answer)
        if len(payload) > MAX_REPLY_BYTES:
            payload = _packed(asked, _too_large(len(payload)))
        try:
            await self._publish(reply_to, payload)
        except UnreachableError as exc:
            # Whoever asked waits until his own deadline, and asks again.
            _log.debug("reply_not_sent", topic=reply_to, error=str(exc))


def _packed(asked: BrokerRequest, answer: InferenceAnswered) -> bytes:
    follows = answer.body if answer.header_bytes is not None else None
    said = BrokerReply(
        id=asked.id,
        status=answer.status,
        retry_after_s=None if answer.retry_after_s is None else math.ceil(answer.retry_after_s),
        header_bytes=answer.header_bytes,
        body=msgspec.UNSET if follows is not None else msgspec.Raw(answer.body),
    )
    return pack(said, follows)


def _too_large(size_bytes: int) -> InferenceAnswered:
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    detail = f"the answer has {size_bytes} bytes, and a broker takes {MAX_REPLY_BYTES}: ask for fewer outputs or items"
    return InferenceAnswered(status=status, body=_problem(status, "answer_too_large", detail))


def _unavailable(error: UnreachableError) -> InferenceAnswered:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return InferenceAnswered(
        status=status,
        body=_problem(status, "serving_away", "the serving process does not answer"),
        retry_after_s=error.retry_after_s,
    )


def _problem(status: HTTPStatus, reason: str, detail: str) -> bytes:
    """Return a problem as serving writes them; see `agent.serving.protocols.api`, which brings numpy along."""
    said = {"type": "about:blank", "title": status.phrase, "status": int(status)}
    return msgspec.json.encode({**said, "detail": detail, "reason": reason, "error": detail})
