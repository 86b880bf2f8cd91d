"""A request on its way: who may answer it, what was asked, what was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.serving.errors import ModelUnavailableError
from shared.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.serving.instance import Instance
    from agent.serving.requests import Outcome, Request
    from shared.ids import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRoute:
    """A route with its instances. A request holds on to the one that it started with."""

    model: ModelName
    primary: Instance | None
    shadow: Instance | None
    candidate: Instance | None
    max_latency_ratio: float
    reason: str

    def answering(self) -> tuple[Instance, ...]:
        """Return all that may answer, the one that answers by default first.

        A candidate in the shadow answers nobody, not even those who ask for it by version.
        """
        both = (self.primary, self.shadow)
        return tuple(each for each in both if each and (each is self.primary or each is not self.candidate))

    def pick(self, version: str | None) -> Instance:
        """Return who answers. Raises ModelUnavailableError, or NotFoundError for a version that may not."""
        if self.primary is None:
            raise ModelUnavailableError(model=self.model, why=self.reason)
        for each in self.answering():
            if version is None or version == str(each.slot.version_number):
                return each
        raise NotFoundError(kind="serving version", name=f"{self.model}/{version}")


class CallProtocol(StrEnum):
    """How a request came in; a label of its metrics."""

    OIP = "oip"
    OIP_GRPC = "oip_grpc"
    TFSERVING = "tfserving"
    MAX = "max"
    MQTT = "mqtt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what the request says of itself besides what it asks for."""

    protocol: CallProtocol
    application: str = ""
    """Empty where nobody has to say who he is."""
    key: str = ""
    """Whatever the application wants answered by the same variant each time."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Case-insensitive, or with names in lower case."""
    deadline_s: float | None = None
    """Moment (monotonic) after which the answer is of no use; None: the server's own deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, with the moment (monotonic) at which it was read whole."""

    model: ModelName
    version: str | None
    request: Request
    received_s: float
    caller: Caller = Caller(protocol=CallProtocol.OIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, and who gave it. Hand it to `Engine.finish` when it has been sent."""

    ask: Ask
    route: LiveRoute
    instance: Instance
    outcome: Outcome
    asked_s: float
    """When (monotonic) the engine was asked: the request had been parsed."""
    rescued: bool = False
    """The candidate failed, and stable has answered in its place."""
