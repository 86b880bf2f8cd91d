"""The plan that follows from a state: which releases serving holds, and who answers. Nothing is decided here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.core.plan import BootFile, ComponentSpec, Plan, Route, SlotSpec
from agent.core.state import WATCHED, ModelState, Phase, Slot, components_of, line, outcome_of

if TYPE_CHECKING:
    from agent.core.state import AgentState, Attempt
    from shared.request_log import LogWish
    from shared.traffic import TrafficRule
    from shared.wire import ProbationPolicy


def plan_of(state: AgentState, *, with_candidates: bool = True) -> Plan:
    """Return what serving should hold and route, under the serial of the plan before.

    Without candidates it is what a crash loop falls back to.
    """
    slots: list[SlotSpec] = []
    routes: list[Route] = []
    for model in state.models:
        candidate = model.candidate if with_candidates and model.phase in WATCHED else None
        answering = model.answering
        # One release on both sides (damaged, and wanted again): it would be compared with itself.
        if candidate is not None and answering is not None and answering.release_id == candidate.release_id:
            answering = None
        slots.extend(_spec(state, slot) for slot in (answering, candidate) if slot is not None)
        routes.append(_route(state, model, answering, candidate))
    return replace(
        state.plan, slots=tuple(slots), routes=tuple(routes), traffic=_traffic(state), request_logs=_request_logs(state)
    )


def boot_file(state: AgentState) -> BootFile:
    """Return what serving starts from: the plan, its fallback, and how many lives may still load the candidates.

    A life that holds the candidate already has taken its try.
    """
    attempts = [model.attempt for model in state.models if model.attempt is not None and model.phase in WATCHED]
    # One counter for all candidates: serving cannot tell which of them took it down.
    used = max((a.interruptions + _holds_now(state, a) for a in attempts), default=0)
    return BootFile(
        plan=state.plan,
        fallback=plan_of(state, with_candidates=False),
        tries_left=max(state.settings.boot_tries - used, 0),
    )


def _holds_now(state: AgentState, attempt: Attempt) -> bool:
    return attempt.held_by is not None and attempt.held_by == state.serving_boot_id


def unavailable_reason(state: AgentState, model: ModelState) -> str:
    """Return why a model answers 503, or "" when it serves."""
    if model.answering is not None or model.phase is Phase.PROBATION:
        return ""
    if model.stable is not None:
        return f"damaged: {model.stable.damaged}"
    if model.phase is not Phase.IDLE:
        # Without the attempt's own reason: each change of this text is a new plan.
        return f"no_release_yet: {model.phase}"
    ended = outcome_of(state, model.wanted) if model.wanted is not None else None
    return ended.reason if ended is not None else "no_release_yet"


def _route(state: AgentState, model: ModelState, answering: Slot | None, candidate: Slot | None) -> Route:
    stable_id = answering.release_id if answering is not None else None
    if candidate is None:
        reason = "" if stable_id is not None else unavailable_reason(state, model) or "no_previous"
        return Route(model=model.model, primary=stable_id, unavailable_reason=reason)
    trying = model.phase is Phase.PROBATION
    return Route(
        model=model.model,
        primary=candidate.release_id if trying else stable_id,
        shadow=stable_id if trying else candidate.release_id,
        # A first release has nobody to be compared with, and serving must not count pairs for it.
        candidate=candidate.release_id if stable_id is not None else None,
        max_latency_ratio=candidate.release.policy.max_latency_ratio,
        canary_share=_canary_share(candidate.release.policy) if trying else 1.0,
    )


def _canary_share(policy: ProbationPolicy) -> float:
    return 1.0 if policy.canary_share is msgspec.UNSET else policy.canary_share


def _traffic(state: AgentState) -> tuple[TrafficRule, ...]:
    """Return the rules of Desired; until one came, those that serving has been told before."""
    if state.desired is None:
        return state.plan.traffic
    rules = state.desired.body.traffic
    return () if rules is msgspec.UNSET else rules


def _request_logs(state: AgentState) -> tuple[LogWish, ...]:
    """Return what Desired asks to write down; nothing is written down on the word of a document that is forgotten."""
    if state.desired is None or state.desired.body.request_logs is msgspec.UNSET:
        return ()
    return state.desired.body.request_logs


def _spec(state: AgentState, slot: Slot) -> SlotSpec:
    release = slot.release
    return SlotSpec(
        model=line(release),
        release_id=release.release_id,
        version_number=slot.version_number,
        folder=f"{state.settings.releases_dir}/{release.release_id}",
        artifact_sha256=release.artifact.sha256,
        manifest_sha256=release.manifest.sha256,
        components=tuple(
            ComponentSpec(name=each.name, artifact_sha256=each.artifact.sha256) for each in components_of(release)
        ),
    )
