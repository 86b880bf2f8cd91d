"""What of a plan can be in force at once, while a plan before it still loads: going back must not wait for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.core.plan import Plan, Route, SlotSpec
    from shared.ids import ReleaseId


def interim(plan: Plan, in_force: Plan, held: Collection[ReleaseId]) -> Plan:
    """Return the plan in force with those of `plan`'s routes in place of its own of which every release is `held`.

    A route of a model that is to be forgotten stays until the whole plan is applied.
    """
    fresh = {route.model: route for route in plan.routes if _names(route) <= set(held)}
    routes = [fresh.pop(route.model, route) for route in in_force.routes]
    slots: dict[ReleaseId, SlotSpec] = {slot.release_id: slot for slot in (*in_force.slots, *plan.slots)}
    return msgspec.structs.replace(
        in_force,
        slots=tuple(slot for slot in slots.values() if slot.release_id in held),
        routes=(*routes, *fresh.values()),
    )


def _names(route: Route) -> set[ReleaseId]:
    return {release for release in (route.primary, route.shadow, route.candidate) if release is not None}
