"""Who may call: nobody is asked on this very machine, everybody with an application's key from anywhere else.

No setting turns the second half off. A key that is sent is checked wherever the request comes from, so that an
application is held to its models and quota on the device itself, too. Checking takes the place of a middleware's whole
frame: it is a function called before each endpoint.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from agent.serving.callers.cors import Origins
from agent.serving.errors import KeyRefusedError, NotAllowedError
from shared.applications import EVERY_MODEL
from shared.ids import ModelName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.serving.engine import Engine
    from shared.applications import ApplicationGrant

APPLICATION: Final = web.RequestKey("application", str)
"""Key in a request under which stands whose key it carried."""

HEALTH: Final = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What a load balancer asks. Tells nothing but that, and takes no key."""

STRANGER: Final = web.RequestKey("stranger", bool)
"""Key in a request that came from elsewhere without a key, for a page or the health: neither names a model."""

_PAGES: Final = frozenset({"/", "/try", "/openapi.json"})
_PAGE_FILES: Final = "/web/"
"""A browser asks for pages without a key, and the person then enters one in them."""

_OF_ALL_MODELS: Final = frozenset({"/metrics", "/v2/models/stats"})
"""Figures of every model, for applications that may ask every model."""

_BEARER: Final = "bearer"
_MAX: Final = "/model/"


class Access:
    """The way in by HTTP, over one engine."""

    def __init__(self, engine: Engine, *, is_wide: bool = False, origins: Iterable[str] = ()) -> None:
        """`is_wide`: other machines reach the TCP port; `origins`: whose pages in a browser may call."""
        self._engine, self._is_wide = engine, is_wide
        self._origins = Origins(tuple(origins))

    def enter(self, request: web.Request) -> web.Response | None:
        """Let a request in, and note whose it is; or answer a browser's question in its place.

        Raises:
            KeyRefusedError: no key where one is needed, or nobody's.
            NotAllowedError: the page, the application or its scope does not allow it.
            QuotaSpentError: the application has asked too often.
        """
        headers = request.headers
        origin = headers.get("Origin")
        if origin is not None:
            if self._origins.refuses(origin, scheme=request.scheme, host=request.host):
                raise NotAllowedError(f"pages of {origin} may not call: list it in cors_origins")
            # Browsers ask without the key, whether they may send it.
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in headers:
                return web.Response(status=HTTPStatus.NO_CONTENT, headers=self._origins.preflight(origin))
        if request.path in HEALTH:
            if self._is_wide and not _is_by_unix(request):
                request[STRANGER] = True
            return None
        authorization = headers.get("Authorization")
        if authorization is None:
            if not _is_by_unix(request):
                self._enter_keyless(request)
            return None
        model, of_all = self._asked(request)
        request[APPLICATION] = self.admit(authorization, model, of_all=of_all)
        return None

    def _enter_keyless(self, request: web.Request) -> None:
        """Let in, without a key, this machine's own callers, and whoever wants to see a page."""
        if self._is_wide:
            if request.path not in _PAGES and not request.path.startswith(_PAGE_FILES):
                self.check_keyless()
            request[STRANGER] = True
        else:
            self._check_name(request.headers.get("Host", ""))

    def enter_model(self, model: ModelName, headers: Mapping[str, str], *, is_by_unix: bool) -> str:
        """Let in a request that names a model and no origin, and return whose it is; see `enter`."""
        authorization = headers.get("Authorization")
        if authorization is not None:
            return self.admit(authorization, model)
        if not is_by_unix:
            self.check_keyless()
            self._check_name(headers.get("Host", ""))
        return ""

    def _check_name(self, host: str) -> None:
        """Refuse what may be a page that had its own name lead here. Raises NotAllowedError."""
        if self._origins.is_led_here(host):
            raise NotAllowedError(
                f"this machine alone may ask without a key, and by no name like {host[:80]!r}: "
                "ask 127.0.0.1 or localhost, or list the name's origin in cors_origins"
            )

    def admit(self, authorization: str, model: ModelName | None, *, of_all: bool = False) -> str:
        """Let in whoever shows this key, and return which application it is; see `enter`.

        `of_all`: what is asked for tells of every model.
        """
        grant = self.recognise(authorization)
        if of_all:
            _check_all(grant)
        self._engine.applications.admit(grant, model, served=self._engine.routes)
        return grant.application

    @property
    def is_wide(self) -> bool:
        """Whether other machines can call."""
        return self._is_wide

    def recognise(self, authorization: str) -> ApplicationGrant:
        """Return whose key this is, and count nothing yet. Raises KeyRefusedError."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != _BEARER:
            raise KeyRefusedError("send an application's key as Authorization: Bearer KEY", is_missing=True)
        return self._engine.applications.of_key(key.strip())

    def check_keyless(self) -> None:
        """Refuse a caller without a key, unless only this machine can call. Raises KeyRefusedError."""
        if self._is_wide:
            raise self._engine.applications.missing_key()

    def cors_headers(self, request: web.Request) -> dict[str, str]:
        """Return what lets a page in a browser read the answer."""
        origin = request.headers.get("Origin")
        return {} if origin is None else self._origins.headers(origin)

    def _asked(self, request: web.Request) -> tuple[ModelName | None, bool]:
        """Return the model that a request names, if any, and whether it asks for what tells of all."""
        path = request.path
        model = request.match_info.get("model")
        if model is None and path.startswith(_MAX):
            # That API names no model where there is one only.
            routes = self._engine.routes
            model = request.query.get("model", next(iter(routes)) if len(routes) == 1 else None)
        return (None if model is None else ModelName(model)), path in _OF_ALL_MODELS


def known_to(request: web.Request, engine: Engine) -> list[ModelName]:
    """Return the models that whoever sent a request may know of, by their names' order. Raises NotAllowedError."""
    if STRANGER in request:
        return []
    return engine.applications.known_to(request.get(APPLICATION, ""), sorted(engine.routes))


def _check_all(grant: ApplicationGrant) -> None:
    if EVERY_MODEL not in grant.models:
        raise NotAllowedError(f"application {grant.application!r} may not read figures of every model")


def _is_by_unix(request: web.Request) -> bool:
    # The address of a unix socket is its path, of any other a tuple; without an address nobody is let in.
    return isinstance(request.get_extra_info("sockname"), str)
