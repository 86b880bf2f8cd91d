"""Assignments, their rollout, and what devices report of them: values for tests without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from controller.rollouts.spec import AssignedFacts, Assignment, RolloutRequest, RolloutSpec
from shared.hardware import DeviceHardware, Runtime
from shared.ids import DeviceId, Epoch, Generation, ModelName, ReleaseId, RolloutId, SiteId
from shared.wire import NO_BODY, AssignmentReport, AssignmentStatus, HaltMode, ProbationPolicy, Report, SlotReport

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODEL = ModelName("digits")
OLD, NEW = ReleaseId("release-1"), ReleaseId("release-2")
ROLLOUT = RolloutId("rollout-2")
SPEC = RolloutSpec(
    rollout_id=ROLLOUT,
    model=MODEL,
    request=RolloutRequest(
        release_id=NEW,
        cohort="site=north",
        waves=("1", "100%"),
        soak_s=60.0,
        on_failure=HaltMode.REVERT,
        policy=ProbationPolicy(deadline_s=100.0, probation_s=10.0, min_pairs=30, max_flip_rate=0.25),
        wave_deadline_s=3600.0,
        unreachable_after_s=300.0,
        override_blacklist=False,
    ),
    salt="digits/release-2",
    created_by="alice",
    created_at=NOW,
)
_QUEUED = Assignment(
    rollout_id=ROLLOUT,
    device_id=DeviceId("d-1"),
    model=MODEL,
    release_id=NEW,
    wave=1,
    bucket=7,
    facts=AssignedFacts(site=SiteId("north"), labels={}, architecture="x86_64"),
    changed_at=NOW,
    opened_at=NOW,
    previous_release_id=OLD,
)


def assignment(**values: object) -> Assignment:
    """Return an assignment whose device was told, with the fields that a test means."""
    return replace(_QUEUED, **values)  # type: ignore[arg-type] # a test names the fields it means


def share(status: AssignmentStatus, **values: object) -> AssignmentReport:
    """Return how a device says that the assignment stands."""
    fields: dict[str, object] = {
        "model": MODEL,
        "release_id": NEW,
        "rollout_id": ROLLOUT,
        "attempt": 1,
        "status": status,
        "changed_at": NOW,
    }
    return AssignmentReport(**{**fields, **values})  # type: ignore[arg-type] # as above


def report(*shares: AssignmentReport, slots: tuple[SlotReport, ...] = ()) -> Report:
    """Return a device's report."""
    return Report(
        epoch=Epoch(1),
        generation=Generation(1),
        body_digest=NO_BODY,
        agent_version="1",
        hardware=DeviceHardware(
            architecture="x86_64", memory_bytes=2**30, cores=2, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
        ),
        slots=slots,
        assignments=shares,
    )
