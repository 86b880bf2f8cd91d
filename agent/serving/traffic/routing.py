"""Who answers for a model, given what could be loaded: pure, so that every case can be read and tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.core.plan import BootFile, Route
    from shared.ids import ReleaseId


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A route of which everything named is loaded."""

    primary: ReleaseId | None
    shadow: ReleaseId | None
    candidate: ReleaseId | None
    """Set only while both of the comparison are loaded."""
    max_latency_ratio: float
    canary_share: float
    reason: str
    """Why there is no primary; empty when there is one."""


def resolve(route: Route, errors: Mapping[ReleaseId, str | None]) -> Resolved:
    """Fit a route to what was loaded. `errors` has each slot's release: None when it is loaded, else why it is not.

    A primary that could not be loaded is stood in for by the other slot: an answer from either is better than none.
    A primary that the plan withholds (None) stays withheld.
    """
    primary, shadow = _if_loaded(route.primary, errors), _if_loaded(route.shadow, errors)
    if primary is None and route.primary is not None:
        primary, shadow = shadow, None
    return Resolved(
        primary=primary,
        shadow=shadow,
        candidate=route.candidate if primary and shadow and route.candidate in {primary, shadow} else None,
        max_latency_ratio=route.max_latency_ratio,
        canary_share=route.canary_share,
        reason="" if primary else _why(route, errors),
    )


def fragile(boot: BootFile) -> frozenset[ReleaseId]:
    """Return the releases that may bring the process down as they load: candidates, and what the fallback goes without.

    A first release has nothing to be compared with, so that no route names it as a candidate.
    """
    named = {route.candidate for route in boot.plan.routes if route.candidate is not None}
    proven = {slot.release_id for slot in boot.fallback.slots}
    return frozenset(named | {slot.release_id for slot in boot.plan.slots if slot.release_id not in proven})


def _if_loaded(release: ReleaseId | None, errors: Mapping[ReleaseId, str | None]) -> ReleaseId | None:
    return release if release is not None and release in errors and errors[release] is None else None


def _why(route: Route, errors: Mapping[ReleaseId, str | None]) -> str:
    if route.primary is None:
        return route.unavailable_reason or "no_release"
    return errors.get(route.primary) or "not_in_plan: the route names a release that has no slot"
