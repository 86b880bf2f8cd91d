"""A request on its way: who may answer it, what was asked, what was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from agent.serving.errors import ModelUnavailableError
from agent.serving.traffic.variants import position, salt_of, sticky_value
from shared.errors import NotFoundError
from shared.traffic import split_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.serving.models.resident import Resident
    from agent.serving.requests import Outcome, Request
    from agent.serving.traffic.variants import Draw
    from shared.ids import ModelName
    from shared.traffic import TrafficRule


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLine:
    """One line of a model with its instances."""

    line: ModelName
    variant: str
    primary: Resident | None
    shadow: Resident | None
    candidate: Resident | None
    max_latency_ratio: float
    reason: str
    """Why there is no primary; empty when there is one."""
    canary_share: float = 1.0
    """Share (0..1) of the requests that a candidate which is primary answers; its shadow answers the others."""

    def answering(self) -> tuple[Resident, ...]:
        """Return all that may answer, the one that answers by default first.

        A candidate in the shadow answers nobody, not even those who ask for it by version.
        """
        both = (self.primary, self.shadow)
        return tuple(each for each in both if each and (each is self.primary or each is not self.candidate))

    def share_out(self, value: str, draw: Draw) -> Resident | None:
        """Return who answers a request of this line; `value` is what is sticky, empty for nothing."""
        if self.canary_share >= 1.0 or self.shadow is None or self.primary is not self.candidate:
            return self.primary
        # Cut by another salt than the variants are, or a canary would have the same callers in each of them.
        point = position(salt_of(self.line, "canary"), value) if value else draw()
        return self.primary if point < self.canary_share else self.shadow

    def beside(self, answered: Resident) -> Resident | None:
        """Return the other of the comparison between candidate and stable; None where nothing is compared."""
        if self.candidate is None:
            return None
        return self.shadow if answered is self.primary else self.primary


class Chooser(Protocol):
    """What divides a model's requests among its variants: `variants.Division`, or `bandit.Bandit`."""

    @property
    def shares(self) -> dict[str, float]:
        """How much of the requests each variant gets that gets any."""
        ...

    def choose(self, value: str, draw: Draw) -> str:
        """Return the variant that answers; `value` is what is sticky, empty for nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRoute:
    """A model with all of its lines. A request holds on to the one that it started with."""

    model: ModelName
    lines: Mapping[str, LiveLine]
    """By variant; the one that answers by default first."""
    rule: TrafficRule | None = None
    chooser: Chooser | None = None
    """None where one line answers everything that names no version."""
    followers: tuple[LiveLine, ...] = ()
    """Lines that are run on copies of what others answered."""

    @property
    def default(self) -> LiveLine:
        """The line that answers where nothing divides the requests."""
        return next(iter(self.lines.values()))

    @property
    def primary(self) -> Resident | None:
        """Who answers by default."""
        return self.default.primary

    @property
    def reason(self) -> str:
        """Why nobody answers; empty when somebody does."""
        return self.default.reason

    def answering(self) -> tuple[Resident, ...]:
        """Return all that may answer, those that answer by default first; the rule's shadow answers nobody."""
        shadow = self.rule.shadow if self.rule else ""
        found = (each for line in self.lines.values() if line.variant != shadow for each in line.answering())
        # One release may stand on two lines.
        return tuple(dict.fromkeys(found))

    def pick(self, version: str | None) -> Resident:
        """Return who answers. Raises ModelUnavailableError, or NotFoundError for a version that may not."""
        return self._by_version(version)[1]

    def labelled(self, label: str) -> Resident:
        """Return who is meant by `stable`, `canary` or a variant's name. Raises as `pick` does."""
        default = self.pick(None)
        line = self.lines.get(label)
        if line is not None and line.primary is not None and line.primary in self.answering():
            return line.primary
        for each in self.default.answering():
            if label == ("canary" if each is self.default.candidate else "stable"):
                return each
        raise NotFoundError(kind="version label", name=f"{split_line(default.slot.model)[0]}/{label}")

    def choose(self, version: str | None, caller: Caller, draw: Draw) -> tuple[LiveLine, Resident]:
        """Return who answers a request, and on which line. Raises as `pick` does."""
        if version is not None:
            return self._by_version(version)
        value = sticky_value(self.rule, caller)
        line = self.default if self.chooser is None else self._chosen(self.chooser.choose(value, draw))
        instance = line.share_out(value, draw)
        if instance is None:
            raise ModelUnavailableError(model=self.model, why=line.reason)
        return line, instance

    def _chosen(self, variant: str) -> LiveLine:
        """Return the line of a variant; of one that cannot be loaded again, some other that can answer."""
        line = self.lines[variant]
        if line.primary is None or not line.primary.problem:
            return line
        line.primary.nudge()
        shares = self.chooser.shares if self.chooser is not None else {}
        others = (self.lines[name] for name in shares)
        return next((each for each in others if each.primary is not None and not each.primary.problem), line)

    def _by_version(self, version: str | None) -> tuple[LiveLine, Resident]:
        if self.primary is None:
            raise ModelUnavailableError(model=self.model, why=self.reason)
        shadow = self.rule.shadow if self.rule else ""
        for line in self.lines.values():
            for each in line.answering() if line.variant != shadow else ():
                if version is None or version == str(each.slot.version_number):
                    return line, each
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
    line: LiveLine
    """The one of the route's lines that answered."""
    instance: Resident
    outcome: Outcome
    asked_s: float
    """When (monotonic) the engine was asked: the request had been parsed."""
    rescued: bool = False
    """The candidate failed, and stable has answered in its place."""
    reply_id: str = ""
    """What to name when the answer is rewarded; empty where nothing is learned from rewards."""

    @property
    def variant(self) -> str:
        """Which variant answered; empty where no rule is in force, and nobody needs to be told."""
        return self.line.variant if self.route.rule else ""
