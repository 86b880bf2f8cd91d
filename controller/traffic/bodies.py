"""What the routes of traffic take and show, as OpenAPI describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import msgspec
from pydantic import BaseModel, Field

from controller.http.endpoint import Body
from controller.http.policy import PolicyBody
from controller.http.structs import AsStruct
from controller.traffic.core.change import LogOrder, TrafficOrder, VariantOrder
from controller.traffic.service import Outcome, Scope
from shared.errors import InvalidInputError
from shared.ids import ReleaseId, model_name
from shared.request_log import LogWish
from shared.traffic import MAIN, Arm, StickyBy, TrafficMode, TrafficRule
from shared.wire import HaltMode, ProbationPolicy

if TYPE_CHECKING:
    from controller.facts import DesiredFacts
    from shared.wire import DesiredModel

_NAME = 63
_MAX_WEIGHT = 10_000
_MAX_PINS = 256


class ScopeBody(Body):
    """Which devices, and whether only to say what would happen."""

    device: str = Field(default="", max_length=_NAME)
    cohort: str = Field(default="", max_length=4096)
    """Label query; exactly one of the two is given."""
    dry_run: bool = False

    def scope(self) -> Scope:
        """Return which devices. Raises InvalidInputError."""
        if bool(self.device) == bool(self.cohort):
            raise InvalidInputError(
                field="device", problem="exactly one of device and cohort is needed", remedy="all: the whole fleet"
            )
        return Scope(device=self.device, cohort=self.cohort)


class VariantBody(Body):
    """A release to run beside the one that rollouts bring."""

    release_id: str = Field(max_length=36)
    policy: PolicyBody = PolicyBody()
    override_blacklist: bool = False


class ArmBody(Body):
    """One variant's share."""

    variant: str = Field(max_length=_NAME)
    weight: int = Field(ge=0, le=_MAX_WEIGHT)


class RuleBody(Body):
    """The whole of a model's traffic."""

    arms: list[ArmBody] = Field(max_length=64)
    mode: TrafficMode = TrafficMode.WEIGHTED
    sticky_by: StickyBy = StickyBy.NOTHING
    header: str = Field(default="", max_length=_NAME)
    pins: dict[str, str] = Field(default_factory=dict, max_length=_MAX_PINS)
    shadow: str = Field(default="", max_length=_NAME)


class NewTraffic(ScopeBody):
    """What to change of one model; what is not named stays as it is."""

    model: str
    variants: dict[str, VariantBody] = Field(default_factory=dict)
    remove: list[str] = Field(default_factory=list, max_length=64)
    """Variants to take away; refused while a rule names them."""
    rule: RuleBody | None = None
    """null: the rule stays as it is."""
    clear: bool = False
    """Take the rule and all variants away."""

    def order(self) -> TrafficOrder:
        """Return what was asked for. Raises InvalidIdError."""
        model = model_name(self.model)
        rule = None
        if self.rule is not None:
            arms = tuple(Arm(variant=arm.variant, weight=arm.weight) for arm in self.rule.arms)
            rule = TrafficRule(model=model, arms=arms, **self.rule.model_dump(exclude={"arms"}))
        variants = {
            name: VariantOrder(
                release_id=ReleaseId(body.release_id),
                policy=body.policy.policy(),
                override_blacklist=body.override_blacklist,
            )
            for name, body in self.variants.items()
        }
        return TrafficOrder(model=model, variants=variants, remove=tuple(self.remove), rule=rule, clear=self.clear)


class NewRequestLog(ScopeBody):
    """What of a model's requests to write down."""

    model: str
    sample_rate: float = Field(ge=0, le=1)
    """Share of the requests; 0: none, and no more is said to the device."""
    upstream: bool = False
    """Send the records to the controller too; the release must consent."""

    def order(self) -> LogOrder:
        """Return what was asked for. Raises InvalidIdError."""
        model = model_name(self.model)
        wish = LogWish(model=model, sample_rate=self.sample_rate, upstream=self.upstream) if self.sample_rate else None
        return LogOrder(model=model, wish=wish)


class NewHalt(Body):
    """How to take a change back."""

    mode: HaltMode = HaltMode.REVERT


class RefusalView(BaseModel):
    """A device that cannot do it, and why."""

    device_id: str
    reason: str


class OutcomeView(BaseModel):
    """What a change came to, or would."""

    change_id: str
    """By which the variants that it brought can be halted everywhere at once."""
    dry_run: bool
    devices: int
    changed: int
    unchanged: int
    refused: int
    refusals: list[RefusalView]
    """The first hundred."""
    without_consent: int
    """On how many a request log will stay empty, since no release that they should run consents to one."""

    @classmethod
    def of(cls, outcome: Outcome, *, dry_run: bool) -> Self:
        """Show an outcome."""
        return cls(
            change_id=outcome.change_id,
            dry_run=dry_run,
            devices=outcome.devices,
            changed=outcome.changed,
            unchanged=outcome.unchanged,
            refused=outcome.refused,
            refusals=[RefusalView(device_id=device, reason=why) for device, why in outcome.refusals.items()],
            without_consent=outcome.without_consent,
        )


class VariantView(BaseModel):
    """One release of a model on a device."""

    variant: str
    release_id: str
    change_id: str
    """The rollout that brought the main variant, the change that brought another one."""
    policy: Annotated[ProbationPolicy, AsStruct()]


class TrafficView(BaseModel):
    """One model on a device: its variants, and who answers which share."""

    model: str
    variants: list[VariantView]
    """The main one too, where rollouts have brought it."""
    rule: Annotated[TrafficRule | None, AsStruct()]
    """None: the main variant answers everything."""
    request_log: Annotated[LogWish | None, AsStruct()]


class DeviceTraffic(BaseModel):
    """All models of a device."""

    device_id: str
    items: list[TrafficView]

    @classmethod
    def of(cls, device: str, facts: DesiredFacts | None) -> Self:
        """Show what is desired of a device."""
        if facts is None:
            return cls(device_id=device, items=[])
        rules = {rule.model: rule for rule in facts.traffic}
        logs = {log.model: log for log in facts.request_logs}
        models = sorted({entry.model for entry in facts.models} | rules.keys() | logs.keys())
        items = [
            TrafficView(
                model=model,
                variants=[_variant(entry) for entry in facts.models if entry.model == model],
                rule=rules.get(model),
                request_log=logs.get(model),
            )
            for model in models
        ]
        return cls(device_id=device, items=items)


def _variant(entry: DesiredModel) -> VariantView:
    return VariantView(
        variant=MAIN if isinstance(entry.variant, msgspec.UnsetType) else entry.variant,
        release_id=entry.release_id,
        change_id=entry.rollout_id,
        policy=entry.policy,
    )
