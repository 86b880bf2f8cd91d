"""The two doors: the operator's API, and the device listener."""

from __future__ import annotations

import contextlib
import errno
import ssl
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from controller.fleet.device_routes import Certificate, DeviceApi, add_device_routes
from controller.fleet.routes import endpoints as fleet_endpoints
from controller.http.auth import load_or_create
from controller.http.blob_routes import endpoints as blob_endpoints
from controller.http.endpoint import MAX_BODY_BYTES, Endpoint, mount
from controller.http.errors import problems
from controller.http.metadata_routes import endpoints as metadata_endpoints
from controller.http.openapi import document
from controller.http.request_id import request_ids
from controller.registry.export_routes import endpoints as export_endpoints
from controller.registry.measurement_routes import endpoints as measurement_endpoints
from controller.registry.routes import RegistryRoutes
from controller.registry.routes import endpoints as registry_endpoints
from controller.rollouts.routes import endpoints as rollout_endpoints
from controller.status import StatusRoutes, api_endpoints, program_version, root_endpoints
from controller.telemetry.routes import endpoints as telemetry_endpoints
from controller.traffic.routes import endpoints as traffic_endpoints
from controller.trust.tls import CertificateFiles, device_listener_context, peer_of
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from controller.config import ControllerConfig
    from controller.wiring import Ground, Services

PREFIX = "/api/v1"
DEVICE_CERTIFICATE = "device-listener"
# Signing requests and the like; targets and metadata only go down.
_DEVICE_BODY_BYTES = 64 * 1024
# A download in progress may end by itself before the process does.
_SHUTDOWN_S = 5.0


def api_application(ground: Ground, services: Services) -> web.Application:
    """Return the operator's API with its description."""
    status = StatusRoutes(database=ground.database, fleet=services.fleet, broker=services.broker, trust=ground.trust)
    below = api_table(ground, services, status)
    beside = root_endpoints(status, b"")
    table = [*((PREFIX, endpoint) for endpoint in below), *(("", endpoint) for endpoint in beside)]
    described = msgspec.json.encode(document(table, version=program_version()))
    app = web.Application(middlewares=[request_ids, problems], client_max_size=MAX_BODY_BYTES)
    auth = load_or_create(ground.config.state_dir / "operator-token")
    mount(app, below, prefix=PREFIX, auth=auth)
    mount(app, root_endpoints(status, described), prefix="", auth=auth)
    return app


def api_table(ground: Ground, services: Services, status: StatusRoutes) -> tuple[Endpoint, ...]:
    """Return every operation of the API."""
    registry = RegistryRoutes(
        registry=services.registry,
        conversions=services.conversions,
        measurements=services.measurements,
        releases=services.releases,
        blobs=ground.blobs,
    )
    return (
        *blob_endpoints(ground.blobs),
        *metadata_endpoints(ground.trust.repository.metadata_folder),
        *registry_endpoints(registry),
        *measurement_endpoints(services.measurements),
        *export_endpoints(services.releases, ground.publisher),
        *fleet_endpoints(services.fleet),
        *rollout_endpoints(services.rollouts),
        *traffic_endpoints(services.traffic),
        *telemetry_endpoints(services.telemetry, services.requests),
        *api_endpoints(status),
    )


def device_application(ground: Ground, services: Services) -> web.Application:
    """Return what devices call."""
    app = web.Application(middlewares=[request_ids, problems], client_max_size=_DEVICE_BODY_BYTES)
    api = DeviceApi(
        fleet=services.fleet,
        desired=services.desired,
        pulse=services.pulse,
        targets=ground.publisher,
        requests=services.requests,
        metadata_folder=ground.trust.repository.metadata_folder,
        blob_path=ground.blobs.path,
        peer=_certificate,
    )
    add_device_routes(app, api)
    return app


def _certificate(connection: ssl.SSLObject | ssl.SSLSocket | None) -> Certificate | None:
    peer = peer_of(connection)
    return None if peer is None else Certificate(common_name=peer.common_name, fingerprint=peer.fingerprint)


def api_tls(config: ControllerConfig) -> ssl.SSLContext | None:
    """Return the TLS of the API, if it has any. Raises InvalidInputError when its files cannot be used."""
    if config.api_tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.api_tls_certificate, config.api_tls_key)
    except OSError as exc:
        raise InvalidInputError(field="api_tls_certificate, api_tls_key", problem=str(exc)) from exc
    return context


class DeviceTls:
    """The device listener's certificate: of this installation's authority, and renewed while the listener is open."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.context = device_listener_context(self._files())

    async def tick(self) -> None:
        """Take up a renewed certificate for new connections."""
        files = self._files()
        self.context.load_cert_chain(str(files.certificate), str(files.key))

    def _files(self) -> CertificateFiles:
        return self._ground.trust.authority.server_files(DEVICE_CERTIFICATE, self._ground.config.device_names)


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, *, host: str, port: int, tls: ssl.SSLContext | None, setting: str
) -> AsyncIterator[None]:
    """Serve `app` inside the block; requests in progress may end for a while.

    Raises:
        InvalidInputError: the address cannot be had; names `setting`.
    """
    # A handler is not cancelled when its caller hangs up: what it began, it ends, as if the reply had been lost.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as exc:
        await runner.cleanup()
        problem = "is in use by another program" if exc.errno == errno.EADDRINUSE else str(exc.strerror or exc)
        raise InvalidInputError(
            field=setting, problem=f"{host}:{port} {problem}", remedy="stop the other program, or choose another port"
        ) from exc
    try:
        yield
    finally:
        await runner.cleanup()
