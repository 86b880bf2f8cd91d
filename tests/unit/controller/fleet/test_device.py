"""Why a device is not where it should be, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from controller.facts import DesiredFacts
from controller.fleet.core.device import Device, Sighting, explanation
from shared.hardware import DeviceHardware, Runtime
from shared.ids import DeviceId, Epoch, Generation, ModelName, ReleaseId, RolloutId, Sha256, SiteId
from shared.wire import AssignmentPhase, AssignmentReport, AssignmentStatus, Report, SlotReport

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HARDWARE = DeviceHardware(
    architecture="aarch64", memory_bytes=1, cores=1, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
)
REPORT = Report(
    epoch=Epoch(1), generation=Generation(3), body_digest=Sha256("0" * 64), agent_version="1", hardware=HARDWARE
)
HEALTHY = Device(
    device_id=DeviceId("cam-1"),
    site=SiteId("north"),
    labels={},
    created_at=NOW,
    enrolled_at=NOW,
    removed_at=None,
    fingerprint=Sha256("1" * 64),
    hardware=HARDWARE,
    sighting=Sighting(at=NOW, epoch=1, generation=3),
    report=REPORT,
)
DESIRED = DesiredFacts(
    device_id=DeviceId("cam-1"),
    epoch=Epoch(1),
    generation=Generation(3),
    body_digest=Sha256("0" * 64),
    models=(),
    published=True,
)


def reporting(**fields: object) -> Callable[[Device], Device]:
    return lambda device: replace(device, report=msgspec.structs.replace(REPORT, **fields))


def assignment(**fields: object) -> AssignmentReport:
    base = AssignmentReport(
        model=ModelName("digits"),
        release_id=ReleaseId("r1"),
        rollout_id=RolloutId("x"),
        attempt=1,
        status=AssignmentStatus.IN_PROGRESS,
        changed_at=NOW,
    )
    return msgspec.structs.replace(base, **fields)


SILENT = Sighting(at=NOW - timedelta(seconds=121), epoch=1, generation=3)

CASES: list[tuple[Callable[[Device], Device], DesiredFacts | None, str]] = [
    (lambda device: device, DESIRED, ""),
    (lambda device: replace(device, removed_at=NOW), DESIRED, "removed"),
    (lambda device: replace(device, fingerprint=None), DESIRED, "not enrolled"),
    (lambda device: replace(device, sighting=None), DESIRED, "never heard"),
    (lambda device: replace(device, sighting=SILENT), DESIRED, "silent since 2026-11-22 11:57:59 UTC"),
    (lambda device: device, None, "nothing is desired"),
    (reporting(desired_refused="unseal_failed: x"), DESIRED, "refuses its desired state: unseal_failed: x"),
    (
        lambda device: replace(device, sighting=Sighting(at=NOW, epoch=2, generation=0)),
        DESIRED,
        "--recovered-from-backup",
    ),
    (lambda device: replace(device, sighting=Sighting(at=NOW, epoch=1, generation=2)), DESIRED, "has accepted 2"),
    (
        lambda device: replace(device, sighting=Sighting(at=NOW, epoch=1, generation=2)),
        replace(DESIRED, published=False),
        "about to be published",
    ),
    (lambda device: replace(device, report=None), DESIRED, "not reported yet"),
    (reporting(stale=True), DESIRED, "no fresh pulse"),
    (reporting(assignments=(assignment(phase=AssignmentPhase.SHADOW),)), DESIRED, "digits: shadow"),
    (
        reporting(assignments=(assignment(status=AssignmentStatus.REJECTED, reason="blacklisted"),)),
        DESIRED,
        "digits: rejected (blacklisted)",
    ),
    (
        reporting(slots=(SlotReport(model=ModelName("digits"), unavailable_reason="no_previous: slow"),)),
        DESIRED,
        "digits: no_previous: slow",
    ),
]


@pytest.mark.parametrize(("change", "desired", "expected"), CASES)
def test_explanation_names_the_first_thing_that_is_in_the_way(
    change: Callable[[Device], Device], desired: DesiredFacts | None, expected: str
) -> None:
    said = explanation(change(HEALTHY), desired, now=NOW, timeout_s=120)
    assert expected in said
    assert bool(said) is bool(expected)
