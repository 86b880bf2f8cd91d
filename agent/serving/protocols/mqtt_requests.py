"""Requests that came by the broker, answered by the same engine.

The broker has proved which application asks; that it may ask this model, and how often, is checked here again.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from agent.core.plan import AskInference, InferenceAnswered
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.protocols import classification, standing, tensors
from agent.serving.protocols.api import problem_body, reason_of, status_of
from agent.serving.requests import ClassifyRequest
from shared.broker_inference import RequestKind
from shared.errors import LitefleetError, RetryableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.core.plan import Applied, GetStats, SetPlan, Stats
    from agent.serving.engine import Engine
    from agent.serving.exchange import Reply
    from agent.serving.requests import Request


class MqttRequests:
    """Serving's end of the connection to control, where requests of the broker's applications come among the rest."""

    def __init__(
        self, engine: Engine, *, otherwise: Callable[[SetPlan | GetStats], Awaitable[Applied | Stats]]
    ) -> None:
        """`otherwise` answers whatever is no request."""
        self._engine, self._otherwise = engine, otherwise

    async def answer(self, message: SetPlan | GetStats | AskInference) -> Applied | Stats | InferenceAnswered:
        """Answer control."""
        if not isinstance(message, AskInference):
            return await self._otherwise(message)
        try:
            return await self._infer(message)
        except LitefleetError as exc:
            status = status_of(exc)
            wait_s = exc.retry_after_s if isinstance(exc, RetryableError) else None
            body = problem_body(status, reason_of(exc), str(exc))
            return InferenceAnswered(status=int(status), body=body, retry_after_s=wait_s)

    async def _infer(self, asked: AskInference) -> InferenceAnswered:
        received_s, applications = time.monotonic(), self._engine.applications
        applications.admit(applications.of_name(asked.application), asked.model, served=self._engine.routes)
        self._engine.route(asked.model)  # an unknown model is told before its tensors are judged
        if asked.kind is RequestKind.CLASSIFY:
            reply = await self._ask(asked, ClassifyRequest(encoded=asked.body), received_s)
            return self._finish(reply, msgspec.json.encode(classification.told(reply, is_list=False)))
        length = None if asked.header_bytes is None else str(asked.header_bytes)
        body, request = tensors.read_body(asked.body, length)
        reply = await self._ask(asked, request, received_s)
        outputs, blobs = tensors.write_outputs(reply.outcome.outputs, body)
        parameters = standing.reply_parameters(reply, unverified="")
        head = msgspec.json.encode({**_who(reply), "id": body.id, "parameters": parameters, "outputs": outputs})
        return self._finish(reply, b"".join((head, *blobs)), header_bytes=len(head) if blobs else None)

    async def _ask(self, asked: AskInference, request: Request, received_s: float) -> Reply:
        caller = Caller(
            protocol=CallProtocol.MQTT,
            application=asked.application,
            key=asked.key,
            deadline_s=received_s + asked.timeout_s,
        )
        return await self._engine.answer(
            Ask(
                model=asked.model,
                version=asked.version or None,
                request=request,
                received_s=received_s,
                caller=caller,
            )
        )

    def _finish(self, reply: Reply, body: bytes, *, header_bytes: int | None = None) -> InferenceAnswered:
        # Counted before it is sent, since the way to the broker is none of this process's.
        self._engine.finish(reply, ready_s=time.monotonic())
        return InferenceAnswered(status=int(HTTPStatus.OK), body=body, header_bytes=header_bytes)


def _who(reply: Reply) -> dict[str, object]:
    return {"model_name": reply.ask.model, "model_version": str(reply.instance.slot.version_number)}
