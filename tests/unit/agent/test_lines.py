"""Variants of a model as lines of their own: each is brought, tried, judged and taken back by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core import events as ev
from agent.core import trust
from agent.core.commands import ApplyPlan, FetchRelease, RunTrial
from agent.core.plan import PairStats, SeriesStats, Stats
from agent.core.recovery import slot_from_boot
from agent.core.state import AgentState, Phase
from shared.errors import UntrustedError
from shared.ids import ModelName, ReleaseId
from shared.request_log import LogWish
from shared.traffic import MAIN, Arm, StickyBy, TrafficRule, line_of
from shared.wire import AssignmentStatus, PairedCounts
from tests.support.device_core import DIGITS, DIRECTOR, GOOD, NOON, POLICY, SETTINGS, Bench, only, release
from tests.support.manifests import manifest

if TYPE_CHECKING:
    from agent.core.plan import Route
    from agent.core.state import ModelState
    from shared.wire import DesiredModel

BLUE = line_of(DIGITS, "blue")
RULE = TrafficRule(model=DIGITS, arms=(Arm(variant=MAIN, weight=90), Arm(variant="blue", weight=10)))


def line(bench: Bench, name: ModelName) -> ModelState:
    (found,) = (model for model in bench.state.models if model.model == name)
    return found


def route(bench: Bench, name: ModelName) -> Route:
    (found,) = (each for each in bench.state.plan.routes if each.model == name)
    return found


def watched(bench: Bench, name: ModelName, release_name: str, paired: PairedCounts = GOOD) -> None:
    """Serving tells what it counted for the candidate of a line."""
    stable = line(bench, name).stable
    pair = PairStats(
        model=name,
        candidate=ReleaseId(release_name),
        stable=stable.release_id if stable is not None else ReleaseId("none"),
        counts=paired,
    )
    series = SeriesStats(model=name, release_id=ReleaseId(release_name), counts={"requests": 5, "request_errors": 0})
    bench.feed(ev.StatsMeasured(at=bench.at, stats=Stats(boot_id=bench.boot, series=(series,), pairs=(pair,))))


def commit(bench: Bench, name: ModelName, release_name: str) -> None:
    """Bring what the line downloads all the way to stable."""
    bench.fetched(release_name, model=name)
    bench.tried(release_name, model=name)
    bench.applied()
    if line(bench, name).phase is Phase.SHADOW:
        watched(bench, name, release_name)
        bench.applied()
    for _ in range(4):
        bench.wait(4)
        watched(bench, name, release_name)
    assert line(bench, name).phase is Phase.IDLE


@pytest.fixture
def bench() -> Bench:
    """A device with v1 on the main line and v2 on `blue`, both stable."""
    made = Bench()
    made.start()
    made.desire(release("v1"), release("v2", variant="blue"), traffic=(RULE,))
    made.pulse()
    commit(made, DIGITS, "v1")
    commit(made, BLUE, "v2")
    return made


def test_variant_is_downloaded_tried_and_committed_on_a_line_of_its_own(bench: Bench) -> None:
    assert [model.model for model in bench.state.models] == [DIGITS, BLUE]
    assert [(slot.model, slot.release_id) for slot in bench.state.plan.slots] == [(DIGITS, "v1"), (BLUE, "v2")]
    assert (route(bench, DIGITS).primary, route(bench, BLUE).primary) == ("v1", "v2")


def test_commands_name_the_line_and_the_release_its_model() -> None:
    bench = Bench()
    bench.start()
    (fetch,) = only(bench.desire(release("v2", variant="blue")), FetchRelease)
    assert (fetch.model, fetch.release.model) == (BLUE, DIGITS)
    (trial,) = only(bench.fetched("v2", model=BLUE), RunTrial)
    assert trial.model == BLUE


def test_reports_tell_model_and_variant(bench: Bench) -> None:
    told = [(slot.model, slot.variant, slot.stable) for slot in bench.report.slots]
    assert told == [(DIGITS, msgspec.UNSET, "v1"), (DIGITS, "blue", "v2")]
    assert [(each.model, each.variant) for each in bench.report.assignments] == [
        (DIGITS, msgspec.UNSET),
        (DIGITS, "blue"),
    ]


def test_variant_that_fails_goes_back_and_leaves_the_main_line_alone(bench: Bench) -> None:
    bench.desire(release("v1"), release("v3", variant="blue"), traffic=(RULE,))
    bench.fetched("v3", model=BLUE)
    bench.tried("v3", model=BLUE)
    bench.applied()
    watched(bench, BLUE, "v3", PairedCounts(pairs=200, flips=150))
    assert (line(bench, BLUE).phase, route(bench, BLUE).primary) == (Phase.IDLE, "v2")
    assert bench.assignment("v3").status is AssignmentStatus.ROLLED_BACK
    assert bench.assignment("v3").variant == "blue"
    assert line(bench, DIGITS).stable is not None
    assert bench.assignment("v1").status is AssignmentStatus.SUCCEEDED


def test_halt_of_a_variants_rollout_reverts_that_variant_alone(bench: Bench) -> None:
    bench.pulse(r_v2="revert")
    assert (route(bench, DIGITS).primary, route(bench, BLUE).primary) == ("v1", None)
    assert (bench.assignment("v2").status, bench.assignment("v2").variant) == (AssignmentStatus.ROLLED_BACK, "blue")


def test_variant_that_is_no_longer_listed_is_removed_and_the_others_stay(bench: Bench) -> None:
    bench.desire(release("v1"))
    assert [model.model for model in bench.state.models] == [DIGITS]
    assert [each.model for each in bench.state.plan.routes] == [DIGITS]


def test_rollout_on_one_line_does_not_count_pairs_of_another(bench: Bench) -> None:
    bench.desire(release("v3"), release("v2", variant="blue"), traffic=(RULE,))
    bench.fetched("v3")
    bench.tried("v3")
    bench.applied()
    watched(bench, BLUE, "v3")
    assert line(bench, DIGITS).phase is Phase.SHADOW
    watched(bench, DIGITS, "v3")
    assert line(bench, DIGITS).phase is Phase.PROBATION


def test_pairs_of_a_rules_shadow_are_no_evidence_for_a_candidate(bench: Bench) -> None:
    bench.desire(release("v3"), release("v2", variant="blue"), traffic=(RULE,))
    bench.fetched("v3")
    bench.tried("v3")
    bench.applied()
    pair = PairStats(model=DIGITS, candidate=ReleaseId("v3"), stable=ReleaseId("v1"), counts=GOOD, by_rule=True)
    bench.feed(ev.StatsMeasured(at=bench.at, stats=Stats(boot_id=bench.boot, pairs=(pair,))))
    assert line(bench, DIGITS).phase is Phase.SHADOW


def test_same_release_may_stand_on_two_lines_and_stays_on_disk_for_either() -> None:
    bench = Bench()
    bench.start()
    bench.desire(release("v1"), release("v1", variant="blue"))
    bench.pulse()
    commit(bench, DIGITS, "v1")
    commit(bench, BLUE, "v1")
    bench.desire(release("v1", variant="blue"))
    assert bench.state.on_disk == ("v1",)


# --- traffic ---


def test_rule_reaches_serving_with_the_plan(bench: Bench) -> None:
    assert bench.state.plan.traffic == (RULE,)


def test_rule_that_changes_is_a_new_plan_and_nothing_else_moves(bench: Bench) -> None:
    changed = replace(RULE, arms=(Arm(variant=MAIN, weight=0), Arm(variant="blue", weight=1)))
    (sent,) = only(bench.desire(release("v1"), release("v2", variant="blue"), traffic=(changed,)), ApplyPlan)
    assert (sent.plan.traffic, [slot.release_id for slot in sent.plan.slots]) == ((changed,), ["v1", "v2"])


def test_rule_may_name_a_variant_that_is_not_here(bench: Bench) -> None:
    bench.desire(release("v1"), traffic=(RULE,))
    assert (bench.report.desired_refused, bench.state.plan.traffic) == ("", (RULE,))


def test_rule_that_ends_leaves_everything_to_the_main_line(bench: Bench) -> None:
    bench.desire(release("v1"), release("v2", variant="blue"))
    assert bench.state.plan.traffic == ()


BAD_RULES = {
    "no weight": replace(RULE, arms=(Arm(variant=MAIN, weight=0),)),
    "no arms": replace(RULE, arms=()),
    "twice": replace(RULE, arms=(Arm(variant=MAIN, weight=1), Arm(variant=MAIN, weight=1))),
    "no name": replace(RULE, arms=(Arm(variant="b@d", weight=1),)),
    "own shadow": replace(RULE, shadow="blue"),
    "unknown pin": replace(RULE, sticky_by=StickyBy.KEY, pins={"a": "green"}),
    "pins nothing": replace(RULE, pins={"a": "blue"}),
    "no header": replace(RULE, sticky_by=StickyBy.HEADER),
}


@pytest.mark.parametrize("bad", BAD_RULES.values(), ids=BAD_RULES)
def test_attack_bad_rule_is_refused_whole_and_what_serves_goes_on_serving(bench: Bench, bad: TrafficRule) -> None:
    plan = bench.state.plan
    bench.desire(release("v9"), traffic=(bad,))
    assert bench.report.desired_refused.startswith("bad_traffic: traffic of digits")
    assert (bench.state.plan, len(bench.state.models)) == (plan, 2)
    # The next one, of a higher generation, is followed.
    bench.desire(release("v1"), release("v2", variant="blue"), traffic=(RULE,))
    assert bench.report.desired_refused == ""


def test_attack_two_rules_of_one_model_are_refused(bench: Bench) -> None:
    bench.desire(release("v1"), traffic=(RULE, RULE))
    assert bench.report.desired_refused.startswith("bad_traffic")


@pytest.mark.parametrize(
    "models",
    [
        (release("v1"), release("v2")),
        (release("v1"), release("v2", variant=MAIN)),
        (release("v1", variant="blue"), release("v2", variant="blue")),
    ],
)
def test_attack_model_listed_twice_without_different_variants_is_refused(models: tuple[DesiredModel, ...]) -> None:
    bench = Bench()
    bench.start()
    bench.desire(*models)
    assert bench.report.desired_refused.startswith("duplicate_model")


@pytest.mark.parametrize("variant", ["", "b@d", "../up", "Blue", "a" * 64])
def test_attack_variant_that_is_no_name_is_refused(variant: str) -> None:
    bench = Bench()
    with pytest.raises(UntrustedError, match="bad_variant"):
        trust.check_body(bench.desired(release("v1", variant=variant)).body)


def test_attack_model_named_as_the_line_of_another_is_refused() -> None:
    body = Bench().desired(release("v1", variant="blue"), release("v2", model=ModelName("digits@blue"))).body
    with pytest.raises(UntrustedError, match="bad_variant"):
        trust.check_body(body)


# --- canary, request logs, restarts ---


@pytest.mark.parametrize(("share", "expected"), [(0.05, 0.05), (msgspec.UNSET, 1.0)])
def test_canary_share_of_the_policy_holds_in_probation_only(
    bench: Bench, share: float | msgspec.UnsetType, expected: float
) -> None:
    policy = replace(POLICY, canary_share=share)
    bench.desire(release("v3", policy=policy), release("v2", variant="blue"), traffic=(RULE,))
    bench.fetched("v3")
    bench.tried("v3")
    bench.applied()
    assert (route(bench, DIGITS).shadow, route(bench, DIGITS).canary_share) == ("v3", 1.0)
    watched(bench, DIGITS, "v3")
    assert (route(bench, DIGITS).primary, route(bench, DIGITS).canary_share) == ("v3", expected)


def test_wish_for_request_logs_reaches_serving_and_ends_with_desired(bench: Bench) -> None:
    wish = LogWish(model=DIGITS, sample_rate=0.1)
    bench.generation += 1
    desired = bench.desired(release("v1"), release("v2", variant="blue"), traffic=(RULE,))
    logged = replace(desired, body=replace(desired.body, request_logs=(wish,)))
    bench.feed(ev.DesiredReceived(at=bench.at, desired=logged, key_id=DIRECTOR))
    assert [each.sample_rate for each in bench.state.plan.request_logs] == [0.1]
    bench.desire(release("v1"), release("v2", variant="blue"), traffic=(RULE,))
    assert not bench.state.plan.request_logs


def test_journal_of_an_agent_that_knew_no_variants_is_read_and_goes_on(bench: Bench) -> None:
    old = msgspec.to_builtins(bench.state)
    new_fields = {
        "traffic", "applications", "request_logs", "components", "canary_share", "variant", "probe",
        "distances", "ratios", "by_rule",
    }  # fmt: skip
    restored = msgspec.convert(_without(old, new_fields), AgentState)
    assert [model.model for model in restored.models] == [DIGITS, BLUE]
    assert restored.plan.traffic == ()


def _without(value: object, names: set[str]) -> object:
    if isinstance(value, dict):
        return {key: _without(each, names) for key, each in value.items() if key not in names}
    return [_without(each, names) for each in value] if isinstance(value, list | tuple) else value


def test_start_repeats_rule_and_variants_without_a_new_serial(bench: Bench) -> None:
    (sent,) = only(bench.start(boot_serial=bench.state.plan.serial), ApplyPlan)
    assert sent.plan == bench.state.plan
    assert sent.plan.traffic == (RULE,)


def test_lost_journal_brings_variants_and_rule_back_from_the_boot_file(bench: Bench) -> None:
    boot = bench.state.plan
    wanted = {ReleaseId(name): release(name) for name in ("v1", "v2")}
    found = [slot_from_boot(spec, manifest(wanted[spec.release_id]), manifest_length_bytes=10) for spec in boot.slots]
    lost = Bench()
    lost.feed(
        ev.Started(
            at=NOON,
            settings=SETTINGS,
            on_disk=(ReleaseId("v1"), ReleaseId("v2")),
            recovered=tuple(slot for slot in found if slot is not None),
            recovered_traffic=boot.traffic,
            boot_serial=boot.serial,
        )
    )
    assert [(each.model, each.primary) for each in lost.state.plan.routes] == [(DIGITS, "v1"), (BLUE, "v2")]
    assert lost.state.plan.traffic == (RULE,)


# --- independence ---

STEP = st.tuples(
    st.sampled_from([DIGITS, BLUE]), st.sampled_from(["fetched", "tried", "failed", "good", "bad", "wait"])
)
OWN = {DIGITS: "v1", BLUE: "v2"}


@given(st.lists(STEP, max_size=25))
def test_line_goes_its_way_whatever_happens_on_another(steps: list[tuple[ModelName, str]]) -> None:
    """What a line comes to on a device with two of them is what it would come to alone."""
    both = _device(DIGITS, BLUE)
    alone = {name: _device(name) for name in OWN}
    for name, what in steps:
        for bench in (both, *(alone.values() if what == "wait" else (alone[name],))):
            _happen(bench, name, what)
    for name, bench in alone.items():
        assert _outlook(both, name) == _outlook(bench, name)


def _device(*lines: ModelName) -> Bench:
    bench = Bench()
    bench.start()
    wanted = {DIGITS: release("v1"), BLUE: release("v2", variant="blue")}
    bench.desire(*(wanted[name] for name in lines))
    bench.pulse()
    return bench


def _happen(bench: Bench, name: ModelName, what: str) -> None:
    own = OWN[name]
    match what:
        case "fetched":
            bench.fetched(own, model=name)
        case "tried":
            bench.tried(own, model=name)
        case "failed":
            bench.tried(own, "golden_mismatch", model=name)
        case "wait":
            bench.wait(3)
            bench.applied()
        case _:
            errors = int(what == "bad")
            series = SeriesStats(
                model=name, release_id=ReleaseId(own), counts={"requests": 5, "request_errors": errors}
            )
            bench.feed(ev.StatsMeasured(at=bench.at, stats=Stats(boot_id=bench.boot, series=(series,))))


def _outlook(bench: Bench, name: ModelName) -> tuple[object, ...]:
    state = line(bench, name)
    slots = (state.candidate, state.stable, state.previous)
    ends = [(each.release_id, each.status) for each in bench.report.assignments if each.release_id == OWN[name]]
    return state.phase, [slot.release_id if slot else None for slot in slots], route(bench, name), ends
