"""Every protocol that is spoken over HTTP, in one list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.serving import description, oip, tfserving
from agent.serving import max as max_api

if TYPE_CHECKING:
    from aiohttp import web

    from agent.serving.engine import Engine
    from agent.serving.standing import Loading


def routes(engine: Engine, *, unverified: str = "", loading: Loading | None = None) -> list[web.RouteDef]:
    """Return the endpoints of all of them over `engine`; see `oip.routes`."""
    return [
        *oip.routes(engine, unverified=unverified, loading=loading),
        *tfserving.routes(engine),
        *max_api.routes(engine),
        *description.routes(engine),
    ]
