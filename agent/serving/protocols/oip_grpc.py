"""Open Inference Protocol v2 over gRPC, for callers that speak it already. Imported only where a port is set.

It costs three to four times the CPU of REST with binary tensors, which is the better choice for new callers.
Source: kserve/open-inference-protocol, specification/protocol/inference_grpc.md
"""

from __future__ import annotations

import ipaddress
import math
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import grpc
import msgspec
import structlog
from typing_extensions import override

from agent.serving.callers.connections import IDLE_S
from agent.serving.errors import (
    DeadlinePassedError,
    KeyRefusedError,
    ModelUnavailableError,
    NotAllowedError,
    QueueFullError,
    QuotaSpentError,
)
from agent.serving.exchange import Ask, Caller, CallProtocol
from agent.serving.protocols import grpc_tensors, standing
from agent.serving.protocols import open_inference_pb2 as wire
from agent.serving.protocols.api import KEY_HEADER, MAX_BODY_BYTES
from shared.errors import InvalidInputError, LitefleetError, ModelFailedError, NotFoundError, RetryableError
from shared.ids import ModelName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

    from agent.serving.callers.access import Access
    from agent.serving.callers.in_flight import Traffic
    from agent.serving.callers.tls import CertificatePair, ServerCertificate
    from agent.serving.engine import Engine
    from agent.serving.protocols.standing import Loading

    # Any of the generated messages: the table of methods pairs each method with its own.
    Message = Any
    Context = grpc.aio.ServicerContext[Any, Any]
    Method = grpc.RpcMethodHandler[Any, Any]

SERVICE: Final = "inference.GRPCInferenceService"

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.max_send_message_length", MAX_BODY_BYTES),
    ("grpc.max_connection_idle_ms", int(IDLE_S * 1000)),
)
MAX_CALLS: Final = 64
"""At once; with more, a caller hears RESOURCE_EXHAUSTED. Each may bring a message of 32 MiB."""
_STOP_S = 5.0
_HEALTH = frozenset({"ServerLive", "ServerReady"})
"""What takes no key; see `access.HEALTH`."""

_AUTHORIZATION = "authorization"
_application = ContextVar("application", default="")
"""Whose key a call carried. Every call runs in a context of its own."""

_log = structlog.get_logger(__name__)


class GrpcServer:
    """The protocol on one port: loopback, or TLS."""

    def __init__(
        self,
        engine: Engine,
        traffic: Traffic,
        access: Access,
        *,
        unverified: str = "",
        loading: Loading | None = None,
        is_shared: bool = False,
    ) -> None:
        """Make it; see `oip.routes`. Belongs to the running event loop.

        `is_shared`: other processes of this agent listen on the port, too. A strange one would take half of the calls.
        """
        loading = loading or standing.FleetDecides()
        self._service = _Service(engine, traffic, access, unverified=unverified, loading=loading)
        options = (*_OPTIONS, ("grpc.so_reuseport", int(is_shared)))
        self._server = grpc.aio.server(
            options=options,
            interceptors=[_KeysFirst(access)] if access.is_wide else [],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        self._server.add_generic_rpc_handlers((self._service.handlers(),))

    async def start(self, host: str, port: int, *, certificate: ServerCertificate | None = None) -> int:
        """Listen; returns the port, which differs where `port` is 0.

        Raises:
            InvalidInputError: the port is taken, or other machines would reach it without TLS.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if certificate is not None:
                bound = self._server.add_secure_port(address, _credentials(certificate))
            elif ipaddress.ip_address(host).is_loopback:
                bound = self._server.add_insecure_port(address)
            else:
                raise InvalidInputError(field="grpc_port", problem=f"{host} needs TLS", remedy="set tls_certificate")
        except RuntimeError as exc:
            problem = f"{port} on {host} cannot be used"
            raise InvalidInputError(field="grpc_port", problem=problem, remedy="choose another") from exc
        await self._server.start()
        return int(bound)

    async def stop(self) -> None:
        """Take no more calls, and let those in flight end."""
        await self._server.stop(_STOP_S)


class _KeysFirst(grpc.aio.ServerInterceptor):
    """Refuses strangers before their message is taken in: whoever has no key must not fill the memory."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Method | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Method | None:
        """Go on with the call, or answer it with its refusal."""
        if handler_call_details.method.rpartition("/")[2] in _HEALTH:
            return await continuation(handler_call_details)
        authorization = _authorization(handler_call_details.invocation_metadata)
        try:
            if authorization:
                self._access.recognise(authorization)
            else:
                self._access.check_keyless()
        except LitefleetError as exc:
            return _refusing(exc)
        return await continuation(handler_call_details)


class _Service:
    """The methods over one engine."""

    def __init__(self, engine: Engine, traffic: Traffic, access: Access, *, unverified: str, loading: Loading) -> None:
        self._engine, self._traffic, self._access = engine, traffic, access
        self._unverified, self._loading = unverified, loading

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the table of methods."""
        methods = {
            "ServerLive": (self._live, wire.ServerLiveRequest),
            "ServerReady": (self._ready, wire.ServerReadyRequest),
            "ModelReady": (self._model_ready, wire.ModelReadyRequest),
            "ServerMetadata": (self._server, wire.ServerMetadataRequest),
            "ModelMetadata": (self._model, wire.ModelMetadataRequest),
            "ModelInfer": (self._infer, wire.ModelInferRequest),
            "ModelStatistics": (self._stats, wire.ModelStatisticsRequest),
            "RepositoryIndex": (self._index, wire.RepositoryIndexRequest),
            "RepositoryModelLoad": (self._load, wire.RepositoryModelLoadRequest),
            "RepositoryModelUnload": (self._unload, wire.RepositoryModelUnloadRequest),
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._answered(name, method),
                    request_deserializer=kind.FromString,
                    response_serializer=lambda answer: answer.SerializeToString(),
                )
                for name, (method, kind) in methods.items()
            },
        )

    def _answered(
        self, name: str, method: Callable[[Message, Context], Awaitable[Message]]
    ) -> Callable[[Message, Context], Awaitable[Message]]:
        """Return the method with callers checked, and errors told as the protocol's codes."""

        async def call(asked: Message, context: Context) -> Message:
            with self._traffic.request():
                try:
                    if name not in _HEALTH:
                        self._check(asked, context)
                    return await method(asked, context)
                except LitefleetError as exc:
                    code, text = _code(exc), f"{exc.reason}: {exc}"
                    wait = _retry_after(exc)
            await context.abort(code, text, wait)
            return None

        return call

    def _check(self, asked: Message, context: Context) -> None:
        """Let a call in as `Access.enter` does a request."""
        authorization = _authorization(context.invocation_metadata())
        if not authorization:
            self._access.check_keyless()
            return
        # `ServerMetadata` and `RepositoryIndex` name no model; an empty name asks for the figures of all.
        model = getattr(asked, "model_name", "") or getattr(asked, "name", "")
        of_all = not model and isinstance(asked, wire.ModelStatisticsRequest)
        application = self._access.admit(authorization, ModelName(model) if model else None, of_all=of_all)
        _application.set(application)

    async def _live(self, _asked: Message, _context: Context) -> Message:
        return wire.ServerLiveResponse(live=True)

    async def _ready(self, _asked: Message, _context: Context) -> Message:
        try:
            standing.check_ready(self._engine)
        except ModelUnavailableError:
            return wire.ServerReadyResponse(ready=False)
        return wire.ServerReadyResponse(ready=True)

    async def _model_ready(self, asked: Message, _context: Context) -> Message:
        try:
            self._engine.route(ModelName(asked.name)).pick(asked.version or None)
        except (ModelUnavailableError, NotFoundError):
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=True)

    async def _server(self, _asked: Message, _context: Context) -> Message:
        return wire.ServerMetadataResponse(**msgspec.structs.asdict(standing.server()))

    async def _model(self, asked: Message, _context: Context) -> Message:
        route = self._engine.route(ModelName(asked.name))
        described = standing.model(route, asked.version or None, unverified=self._unverified)
        return wire.ModelMetadataResponse(
            name=described.name,
            versions=described.versions,
            platform=described.platform,
            inputs=[msgspec.structs.asdict(each) for each in described.inputs],
            outputs=[msgspec.structs.asdict(each) for each in described.outputs],
        )

    async def _infer(self, asked: Message, context: Context) -> Message:
        received_s = time.monotonic()
        model = ModelName(asked.model_name)
        self._engine.route(model)  # an unknown model is told before its tensors are judged
        request = grpc_tensors.read(asked)
        version = asked.model_version or None
        caller = _caller(context, received_s=received_s)
        reply = await self._engine.answer(
            Ask(model=model, version=version, request=request, received_s=received_s, caller=caller)
        )
        slot = reply.instance.slot
        answer = wire.ModelInferResponse(model_name=model, model_version=str(slot.version_number), id=asked.id)
        for name, value in standing.reply_parameters(reply, unverified=self._unverified).items():
            answer.parameters[name].string_param = value
        grpc_tensors.write(reply.outcome.outputs, asked, answer)
        # Counted just before it is sent: gRPC does not tell when that has happened.
        self._engine.finish(reply, ready_s=time.monotonic())
        return answer

    async def _stats(self, asked: Message, _context: Context) -> Message:
        name = ModelName(asked.name) if asked.name else None
        found = standing.statistics(self._engine, name=name, version=asked.version or None)
        known: dict[str, list[dict[str, object]]] = msgspec.to_builtins(found)
        for each in known["model_stats"]:
            del each["batch_stats"]
        return wire.ModelStatisticsResponse(**known)

    async def _index(self, asked: Message, _context: Context) -> Message:
        found = standing.index(self._engine, ready_only=asked.ready, application=_application.get())
        return wire.RepositoryIndexResponse(models=msgspec.to_builtins(found))

    async def _load(self, asked: Message, _context: Context) -> Message:
        standing.check_parameters(asked.parameters)
        await self._loading.load(ModelName(asked.model_name))
        return wire.RepositoryModelLoadResponse()

    async def _unload(self, asked: Message, _context: Context) -> Message:
        standing.check_parameters(asked.parameters)
        await self._loading.unload(ModelName(asked.model_name))
        return wire.RepositoryModelUnloadResponse()


def _authorization(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return what a call shows; empty for nothing."""
    return next((str(value) for name, value in metadata or () if name == _AUTHORIZATION), "")


def _refusing(error: LitefleetError) -> Method:
    """Return what answers a call with an error."""

    async def refuse(_messages: object, context: Context) -> Message:
        await context.abort(_code(error), f"{error.reason}: {error}")

    # A stream of messages is not read before it is asked for, as a single one is.
    handler: Method = grpc.stream_unary_rpc_method_handler(refuse)
    return handler


def _caller(context: Context, *, received_s: float) -> Caller:
    """Return who calls, as metadata and deadline of the call say."""
    metadata = context.invocation_metadata() or ()
    headers = {str(name): str(value) for name, value in metadata if name != _AUTHORIZATION}
    return Caller(
        protocol=CallProtocol.OIP_GRPC,
        application=_application.get(),
        key=headers.get(KEY_HEADER.lower(), ""),
        headers=headers,
        # None where the caller set no deadline, whatever the library's types say.
        deadline_s=received_s + (context.time_remaining() or math.inf),
    )


def _retry_after(error: LitefleetError) -> tuple[tuple[str, str], ...]:
    """Return, as trailing metadata, in how many seconds to call again."""
    return (("retry-after", str(math.ceil(error.retry_after_s))),) if isinstance(error, RetryableError) else ()


def _credentials(certificate: ServerCertificate) -> grpc.ServerCredentials:
    """Return TLS with whatever pair is the newest at each handshake."""
    given: list[CertificatePair | None] = [certificate.pair]

    def newest() -> grpc.ServerCertificateConfiguration | None:
        pair = certificate.pair
        if pair is None or pair is given[0]:
            return None
        given[0] = pair
        return _configuration(pair)

    first = _configuration(certificate.pair)
    # The library takes None for no change, whatever its types say.
    return grpc.dynamic_ssl_server_credentials(first, newest, require_client_authentication=False)  # type: ignore[arg-type] # as above


def _configuration(pair: CertificatePair | None) -> grpc.ServerCertificateConfiguration:
    if pair is None:
        remedy = "mend the files named in the log, and start the agent again"
        raise InvalidInputError(field="tls_certificate", problem="cannot be used for gRPC", remedy=remedy)
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)])


def _code(error: LitefleetError) -> grpc.StatusCode:
    match error:
        case KeyRefusedError():
            return grpc.StatusCode.UNAUTHENTICATED
        case NotFoundError():
            return grpc.StatusCode.NOT_FOUND
        case NotAllowedError():
            return grpc.StatusCode.PERMISSION_DENIED
        case QueueFullError() | QuotaSpentError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case DeadlinePassedError():
            return grpc.StatusCode.DEADLINE_EXCEEDED
        case RetryableError():
            return grpc.StatusCode.UNAVAILABLE
        case ModelFailedError():
            return grpc.StatusCode.INTERNAL
        case _:
            return grpc.StatusCode.INVALID_ARGUMENT
