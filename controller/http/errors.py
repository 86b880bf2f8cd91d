"""Problem documents: the only place that knows which error is which HTTP status. Source: RFC 9457."""

from __future__ import annotations

import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiohttp import web

from controller.errors import ForbiddenError, UnauthenticatedError
from controller.http.request_id import request_id
from shared.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidIdError,
    InvalidInputError,
    LitefleetError,
    ModelLoadError,
    NotFoundError,
    PermanentError,
    PipelineError,
    RetryableError,
    StorageFullError,
    UnsealError,
    UntrustedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import ValidationError

log = structlog.get_logger(__name__)

PROBLEM_TYPE = "application/problem+json"

STATUS_OF: dict[type[LitefleetError], HTTPStatus] = {
    InvalidIdError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidInputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DigestMismatchError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ModelLoadError: HTTPStatus.UNPROCESSABLE_ENTITY,
    PipelineError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    UnsealError: HTTPStatus.FORBIDDEN,
    UntrustedError: HTTPStatus.FORBIDDEN,
    StorageFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    RetryableError: HTTPStatus.SERVICE_UNAVAILABLE,
    PermanentError: HTTPStatus.BAD_REQUEST,
    LitefleetError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Found by the error's nearest ancestor."""


class ProblemItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing to mend: a member of the body by JSON pointer (RFC 6901), or a query parameter by name."""

    detail: str
    pointer: str = ""
    parameter: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as a caller reads it; `reason` is the machine-readable word."""

    title: str
    status: int
    reason: str
    detail: str
    instance: str = ""
    errors: tuple[ProblemItem, ...] = ()


class InvalidRequestError(PermanentError):
    """A body or query that does not have the declared shape."""

    reason = "invalid_input"

    def __init__(self, items: tuple[ProblemItem, ...]) -> None:
        super().__init__("; ".join(f"{item.pointer or item.parameter}: {item.detail}" for item in items))
        self.items = items


STATUS_OF[InvalidRequestError] = HTTPStatus.UNPROCESSABLE_ENTITY


def status_of(error: LitefleetError) -> HTTPStatus:
    """Return the HTTP status of an error."""
    return next(STATUS_OF[ancestor] for ancestor in type(error).__mro__ if ancestor in STATUS_OF)


def invalid_body(error: ValidationError) -> InvalidRequestError:
    """Name each wrong member of a body."""
    return InvalidRequestError(
        tuple(
            ProblemItem(detail=item["msg"], pointer=_pointer([str(part) for part in item["loc"]]))
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        )
    )


def invalid_query(error: ValidationError) -> InvalidRequestError:
    """Name each wrong parameter of a query."""
    return InvalidRequestError(
        tuple(
            ProblemItem(detail=item["msg"], parameter=".".join(str(part) for part in item["loc"]))
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        )
    )


def problem_response(error: LitefleetError, *, instance: str = "") -> web.Response:
    """Return the problem document of an error."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if isinstance(error, RetryableError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    problem = Problem(
        title=status.phrase,
        status=status.value,
        reason=error.reason,
        detail=str(error),
        instance=instance,
        errors=_items(error),
    )
    return _response(problem, headers)


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn whatever was raised into a problem document; what nobody foresaw is logged, and shows nothing."""
    instance = f"urn:request:{request_id(request)}"
    try:
        return await handler(request)
    except LitefleetError as error:
        return problem_response(error, instance=instance)
    except web.HTTPException as refusal:
        return _from_aiohttp(refusal, instance)
    except ConnectionError:
        # The caller hung up in the middle of its own request: there is nobody to answer.
        raise
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        detail = "an unforeseen error; the controller's log has it under this request id"
        problem = Problem(title=status.phrase, status=status.value, reason="internal", detail=detail, instance=instance)
        return _response(problem, {})


def _from_aiohttp(refusal: web.HTTPException, instance: str) -> web.Response:
    """Translate what the server itself refuses: no such route, a wrong method, a body that is too large."""
    status = HTTPStatus(refusal.status)
    problem = Problem(
        title=status.phrase,
        status=status.value,
        reason=status.name.lower(),
        detail=refusal.text if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE and refusal.text else status.description,
        instance=instance,
    )
    kept = {name: value for name, value in refusal.headers.items() if name in {"Allow", "Location", "Content-Range"}}
    return _response(problem, kept)


def _response(problem: Problem, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(problem), status=problem.status, content_type=PROBLEM_TYPE, headers=headers
    )


def _items(error: LitefleetError) -> tuple[ProblemItem, ...]:
    if isinstance(error, InvalidRequestError):
        return error.items
    if isinstance(error, InvalidInputError):
        detail = error.problem + (f" ({error.remedy})" if error.remedy else "")
        return (ProblemItem(detail=detail, pointer=_pointer(re.findall(r"[^.\[\]]+", error.field))),)
    if isinstance(error, InvalidIdError):
        return (ProblemItem(detail=str(error), pointer=_pointer([error.field])),)
    return ()


def _pointer(parts: list[str]) -> str:
    """Return a JSON pointer as a URI fragment: `#/pipeline/steps/0`."""
    return "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
