"""What a device says of itself and its models, in the Open Inference Protocol's terms: one answer for REST and gRPC."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from agent.serving.errors import ModelUnavailableError, NotAllowedError
from agent.serving.protocols import tensors
from agent.serving.protocols.oip_messages import (
    Duration,
    IndexEntry,
    InferenceStatistics,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    Statistics,
    TensorMetadata,
)
from shared.clock import SystemClock
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.serving.engine import Engine
    from agent.serving.exchange import LiveRoute, Reply
    from agent.serving.models.resident import Resident
    from agent.serving.recording.work import Work
    from shared.clock import Clock
    from shared.ids import ModelName
    from shared.manifest import TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
READY, UNAVAILABLE = "READY", "UNAVAILABLE"


class Loading(Protocol):
    """Who loads and unloads a model when a caller says so."""

    async def load(self, model: ModelName) -> None:
        """Load it, or load it again. Raises NotFoundError or ModelLoadError."""
        ...

    async def unload(self, model: ModelName) -> None:
        """Stop answering for it. Raises NotFoundError."""
        ...


class FleetDecides:
    """A device of a fleet: what is loaded stands in its Desired, and no caller changes that."""

    async def load(self, model: ModelName) -> None:
        """Refuse."""
        raise _refusal(model)

    async def unload(self, model: ModelName) -> None:
        """Refuse."""
        raise _refusal(model)


def server() -> ServerMetadata:
    """Return who this server is."""
    return ServerMetadata(name="litefleet", version=metadata.version("litefleet"), extensions=EXTENSIONS)


def check_ready(engine: Engine) -> None:
    """Raise ModelUnavailableError unless a plan is in force and every model of it has a release that answers."""
    if engine.serial < 0:
        raise ModelUnavailableError(model="*", why="starting: no plan yet")
    for route in engine.routes.values():
        route.pick(None).check()


def model(route: LiveRoute, version: str | None, *, unverified: str) -> ModelMetadata:
    """Return what a model takes and gives. Raises ModelUnavailableError or NotFoundError."""
    instance = route.pick(version)
    return ModelMetadata(
        name=route.model,
        # Once each: two releases of one version may answer, as variants.
        versions=tuple(dict.fromkeys(str(each.slot.version_number) for each in route.answering())),
        platform="tflite",
        inputs=tuple(_tensor(spec) for spec in instance.inputs),
        outputs=tuple(_tensor(spec) for spec in instance.outputs),
        parameters={
            **parameters(instance, unverified=unverified),
            "artifact_sha256": instance.slot.artifact_sha256,
        },
    )


def parameters(instance: Resident, *, unverified: str) -> dict[str, str]:
    """Return what is said of a release with every answer of it."""
    known: dict[str, str] = {"release_id": instance.slot.release_id}
    return {**known, "unverified": unverified} if unverified else known


def reply_parameters(reply: Reply, *, unverified: str) -> dict[str, str]:
    """Return what is said with an answer: of its release, and of the traffic rule by which it was chosen, if any."""
    known = parameters(reply.instance, unverified=unverified)
    if reply.variant:
        known["variant"] = reply.variant
        if reply.reply_id:
            known["reply_id"] = reply.reply_id
    return known


def check_parameters(given: Collection[str]) -> None:
    """Refuse what is asked of a loading and not done, such as another configuration. Raises InvalidInputError."""
    unknown = sorted(set(given) - {"unload_dependents"})
    if unknown:
        problem = f"{', '.join(unknown)} is not done: a model is loaded as it was given to this server"
        raise InvalidInputError(field="parameters", problem=problem, remedy="leave it out")


def index(engine: Engine, *, ready_only: bool, application: str = "") -> list[IndexEntry]:
    """Return every model of the plan that `application` may ask, one entry for each version that answers.

    Raises NotAllowedError.
    """
    entries: list[IndexEntry] = []
    for route in map(engine.route, engine.applications.known_to(application, engine.routes)):
        answering = route.answering() if route.primary else ()
        found = (_indexed(route.model, each) for each in answering)
        entries += [each for each in found if each.state == READY or not ready_only]
        if not answering and not ready_only:
            entries.append(IndexEntry(name=route.model, version="", state=UNAVAILABLE, reason=route.reason))
    return entries


def _indexed(name: ModelName, resident: Resident) -> IndexEntry:
    # One that is asleep answers whoever asks, and is ready in that sense; the index tells what is in memory.
    reason = resident.problem or resident.asleep or ""
    state = UNAVAILABLE if reason else READY
    return IndexEntry(name=name, version=str(resident.slot.version_number), state=state, reason=reason)


def statistics(
    engine: Engine, *, name: ModelName | None, version: str | None, clock: Clock | None = None
) -> Statistics:
    """Return the work of every version that answers, or of those asked for. Raises as `LiveRoute.pick` does."""
    routes = [engine.route(name)] if name is not None else [each for each in engine.routes.values() if each.primary]
    now = clock or SystemClock()
    return Statistics(
        model_stats=tuple(
            _statistics(route, instance, _work(engine, instance), now)
            for route in routes
            for instance in _asked(route, version)
        )
    )


def _asked(route: LiveRoute, version: str | None) -> tuple[Resident, ...]:
    chosen = route.pick(version)
    return (chosen,) if version else route.answering()


def _work(engine: Engine, instance: Resident) -> Work:
    return engine.recorder.series(instance.slot.model, instance.slot.release_id).work


def _statistics(route: LiveRoute, instance: Resident, work: Work, clock: Clock) -> ModelStatistics:
    last_s = None if work.last_s is None else clock.now().timestamp() - (clock.monotonic() - work.last_s)
    done = work.success_count
    return ModelStatistics(
        name=route.model,
        version=str(instance.slot.version_number),
        last_inference=0 if last_s is None else int(last_s * 1000),
        inference_count=work.inferences,
        execution_count=work.executions,
        inference_stats=InferenceStatistics(
            success=Duration(count=done, ns=work.success_ns),
            fail=Duration(count=work.fail_count, ns=work.fail_ns),
            queue=Duration(count=done, ns=work.queue_ns),
            compute_input=Duration(count=done, ns=work.input_ns),
            compute_infer=Duration(count=done, ns=work.infer_ns),
            compute_output=Duration(count=done, ns=work.output_ns),
        ),
    )


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=tensors.datatype(spec.dtype), shape=tuple(spec.shape))


def _refusal(name: ModelName) -> NotAllowedError:
    return NotAllowedError(
        f"model {name!r} is loaded and unloaded by the fleet's Desired, not by callers: "
        "ask the operator for a rollout, or use `litefleet-agent serve` for a server of your own"
    )
