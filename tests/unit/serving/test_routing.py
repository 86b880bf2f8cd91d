from __future__ import annotations

from agent.core.plan import BootFile, Plan, Route, SlotSpec
from agent.serving.traffic.routing import fragile, resolve
from shared.ids import ModelName, ReleaseId, Sha256

MODEL, OLD, NEW = ModelName("digits"), ReleaseId("old"), ReleaseId("new")
SHADOW_STAGE = Route(model=MODEL, primary=OLD, shadow=NEW, candidate=NEW, max_latency_ratio=3.0)


def test_route_with_everything_loaded_stays_as_planned() -> None:
    fitted = resolve(SHADOW_STAGE, {OLD: None, NEW: None})
    assert (fitted.primary, fitted.shadow, fitted.candidate) == (OLD, NEW, NEW)
    assert fitted.max_latency_ratio == 3.0
    assert fitted.reason == ""


def test_route_whose_shadow_failed_to_load_answers_without_comparison() -> None:
    fitted = resolve(SHADOW_STAGE, {OLD: None, NEW: "digest_mismatch: …"})
    assert (fitted.primary, fitted.shadow, fitted.candidate) == (OLD, None, None)


def test_route_whose_primary_failed_to_load_falls_back_to_the_other_slot() -> None:
    fitted = resolve(SHADOW_STAGE, {OLD: "digest_mismatch: …", NEW: None})
    assert (fitted.primary, fitted.shadow, fitted.candidate) == (NEW, None, None)


def test_route_with_nothing_loaded_gives_the_reason_of_its_primary() -> None:
    fitted = resolve(SHADOW_STAGE, {OLD: "digest_mismatch: a", NEW: "model_load_failed: b"})
    assert fitted.primary is None
    assert fitted.reason == "digest_mismatch: a"


def test_route_to_a_release_without_slot_says_so() -> None:
    assert resolve(Route(model=MODEL, primary=OLD), {}).reason.startswith("not_in_plan")


def test_withheld_primary_stays_withheld_even_if_a_shadow_is_loaded() -> None:
    route = Route(model=MODEL, primary=None, shadow=NEW, unavailable_reason="no_previous: golden_mismatch")
    fitted = resolve(route, {NEW: None})
    assert fitted.primary is None
    assert fitted.reason == "no_previous: golden_mismatch"


def test_route_without_primary_and_reason_still_has_a_reason() -> None:
    assert resolve(Route(model=MODEL, primary=None), {}).reason == "no_release"


def test_candidate_that_is_in_neither_place_is_no_comparison() -> None:
    route = Route(model=MODEL, primary=OLD, shadow=NEW, candidate=ReleaseId("third"))
    assert resolve(route, {OLD: None, NEW: None}).candidate is None


def slot(release: ReleaseId) -> SlotSpec:
    digest = Sha256("0" * 64)
    return SlotSpec(
        model=MODEL, release_id=release, version_number=1, folder="/", artifact_sha256=digest, manifest_sha256=digest
    )


def test_candidate_of_a_comparison_is_fragile() -> None:
    plan = Plan(serial=1, slots=(slot(OLD), slot(NEW)), routes=(SHADOW_STAGE,))
    assert fragile(BootFile(plan=plan, fallback=plan, tries_left=3)) == {NEW}


def test_first_release_is_fragile_until_the_fallback_has_it_too() -> None:
    plan = Plan(serial=1, slots=(slot(NEW),), routes=(Route(model=MODEL, primary=NEW),))
    nothing = Plan(serial=1, routes=(Route(model=MODEL, primary=None),))
    assert fragile(BootFile(plan=plan, fallback=nothing, tries_left=3)) == {NEW}
    assert fragile(BootFile(plan=plan, fallback=plan, tries_left=3)) == frozenset()
