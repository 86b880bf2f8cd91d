"""Every protocol that is spoken: over HTTP in one list, and gRPC where a port is set for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.serving.protocols import description, drift_api, oip, pages, scrape, tfserving, traffic_api
from agent.serving.protocols import max as max_api
from agent.serving.protocols.scrape import Scrape
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from aiohttp import web

    from agent.serving.callers.access import Access
    from agent.serving.callers.in_flight import Traffic
    from agent.serving.callers.tls import ServerCertificate
    from agent.serving.engine import Engine
    from agent.serving.protocols.standing import Loading


class Listening(Protocol):
    """A server that has been started."""

    async def stop(self) -> None:
        """Take no more calls, and let those in flight end."""
        ...


def routes(
    engine: Engine, *, unverified: str = "", loading: Loading | None = None, shown: Scrape | None = None
) -> list[web.RouteDef]:
    """Return the endpoints of all of them over `engine`; see `oip.routes`. `shown` is what `/metrics` tells."""
    return [
        *oip.routes(engine, unverified=unverified, loading=loading),
        *tfserving.routes(engine),
        *max_api.routes(engine),
        *traffic_api.routes(engine),
        *description.routes(engine),
        *pages.routes(engine),
        *drift_api.routes(engine),
        *scrape.routes(shown or Scrape(engine=engine)),
    ]


async def listen_grpc(
    engine: Engine,
    traffic: Traffic,
    access: Access,
    *,
    host: str,
    port: int,
    certificate: ServerCertificate | None = None,
    is_shared: bool = False,
    unverified: str = "",
    loading: Loading | None = None,
) -> tuple[Listening, int]:
    """Speak gRPC on a port of its own; returns the server and the port, which differs where `port` is 0.

    Without `certificate` the host must be loopback. `is_shared`: other processes of this agent listen there, too.

    Raises:
        InvalidInputError: the port is in use, or gRPC is not installed.
    """
    try:
        from agent.serving.protocols.oip_grpc import GrpcServer  # noqa: PLC0415 - 18 MiB, paid only where a port is set
    except ImportError as exc:
        remedy = "install it: pip install 'litefleet[agent,grpc]'"
        raise InvalidInputError(field="grpc_port", problem=f"gRPC is not installed: {exc}", remedy=remedy) from exc
    server = GrpcServer(engine, traffic, access, unverified=unverified, loading=loading, is_shared=is_shared)
    return server, await server.start(host, port, certificate=certificate)
