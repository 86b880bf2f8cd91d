"""Whose figures count, and what they let through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from controller.registry.core.choice import choose, kept_choice
from controller.registry.core.conversion import summary
from controller.registry.core.measurement import (
    CONVERTER,
    DEADLINE,
    Measurement,
    MeasurementState,
    budgets,
    classes_of,
    judged,
    measurable,
    timed_out,
)
from controller.registry.core.release import release_artifacts
from controller.registry.core.types import Release
from shared.conversion import CheckOutcome, ConvertedArtifact, GateReport, RuntimeCheck
from shared.hardware import DeviceHardware, HardwareProfile, Runtime
from shared.ids import ConversionId, DeviceId, HardwareProfileId, MeasurementId, ModelName, ReleaseId, Sha256
from shared.manifest import Accuracy, GoldenCheck, Scheme
from shared.wire import Figures

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PI = HardwareProfile(profile_id=HardwareProfileId("pi"), architectures=("aarch64",), max_latency_ms=30.0)
ANY = HardwareProfile(profile_id=HardwareProfileId("any"), architectures=("aarch64",))
GATEWAY = HardwareProfile(profile_id=HardwareProfileId("gateway"), architectures=("x86_64",), max_latency_ms=30.0)
CAM = DeviceHardware(
    architecture="aarch64", memory_bytes=2**30, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.3.0"
)
OTHER = "another: one that passed, too, suits this class better"
SLOW_CONVERTER = "latency: p95 50 ms > 30 ms (on the converter)"
WRONG = RuntimeCheck(
    runtime=Runtime.AI_EDGE_LITERT, version="2.3.0", outcome=CheckOutcome.FAILED, reason="differs by 3"
)


def artifact(
    length_bytes: int, refused_for: dict[str, str] | None = None, *, refused: str = "", p95_ms: float = 5.0
) -> ConvertedArtifact:
    return ConvertedArtifact(
        scheme=Scheme.FULL_INT8 if length_bytes < 200 else Scheme.FLOAT16,
        path="",
        sha256=Sha256(f"{length_bytes:064x}"),
        length_bytes=length_bytes,
        inputs=(),
        outputs=(),
        accuracy=Accuracy(samples=10, source=0.9, artifact=0.9, agreement=1.0),
        max_abs_diff=0.0,
        latency_ms=1.0,
        golden=GoldenCheck(cases=(), atol=0.0, rtol=0.0),
        report=GateReport(latency_p95_ms=p95_ms, peak_memory_bytes=7, measured_on=CONVERTER),
        refused_for={HardwareProfileId(profile): why for profile, why in (refused_for or {}).items()},
        refused=refused,
    )


def measured(
    of: ConvertedArtifact, p95_ms: float | None, *, device: str = "cam-7", hardware: DeviceHardware = CAM
) -> Measurement:
    """Return what a device found; None: it failed."""
    figures = None
    if p95_ms is not None:
        figures = Figures(
            runs=100,
            cpu_p50_ms=p95_ms / 2,
            cpu_p95_ms=p95_ms,
            wall_p50_ms=p95_ms,
            # A device that serves beside it: its own matter.
            wall_p95_ms=100 * p95_ms,
            peak_memory_bytes=1234,
        )
    return Measurement(
        conversion_id=ConversionId("c"),
        sha256=of.sha256,
        device_id=DeviceId(device),
        measurement_id=MeasurementId(f"{device}-{of.length_bytes}"),
        length_bytes=of.length_bytes,
        state=MeasurementState.FAILED if figures is None else MeasurementState.DONE,
        hardware=hardware,
        figures=figures,
        reason="" if figures else "crashed: SIGSEGV",
        ordered_at=NOW,
        sent_at=NOW,
        ended_at=NOW,
    )


def given(artifacts: list[ConvertedArtifact], *found: Measurement) -> dict[str, int]:
    """Return the length of what each profile gets."""
    choice = choose(judged(artifacts, [PI, ANY], found), [PI, ANY])
    return {profile.profile_id: made.length_bytes for made, profiles in choice.artifacts for profile in profiles}


def test_converters_word_stands_without_a_measurement() -> None:
    artifacts = [artifact(100), artifact(200, {"pi": OTHER, "any": OTHER}), artifact(50, {"pi": SLOW_CONVERTER})]
    assert judged(artifacts, [PI, ANY], []) == tuple(artifacts)
    assert judged(artifacts, [PI, ANY], [measured(artifacts[0], None)]) == tuple(artifacts)
    assert given(artifacts) == {"pi": 100, "any": 50}


def test_device_that_is_slower_refuses_with_its_name() -> None:
    (made,) = judged([artifact(100)], [PI, ANY], [measured(artifact(100), 41.0)])
    assert made.refused_for == {"pi": "latency: p95 41 ms > 30 ms on device cam-7"}
    assert (made.report.measured_on, made.report.latency_p95_ms, made.report.peak_memory_bytes) == ("cam-7", 41.0, 1234)


def test_device_that_is_faster_takes_the_converters_refusal_back() -> None:
    slow = artifact(100, {"pi": SLOW_CONVERTER}, p95_ms=50.0)
    (made,) = judged([slow], [PI], [measured(slow, 12.0)])
    assert (made.refused_for, made.report.latency_p95_ms, made.report.measured_on) == ({}, 12.0, "cam-7")


def test_next_best_takes_the_place_of_one_that_a_device_refused() -> None:
    small, large = artifact(100), artifact(200, {"pi": OTHER, "any": OTHER})
    assert given([small, large], measured(small, 41.0)) == {"pi": 200, "any": 100}
    assert given([small, large], measured(small, 41.0), measured(large, 9.0)) == {"pi": 200, "any": 100}
    assert given([small, large], measured(small, 41.0), measured(large, 31.0)) == {"any": 100}


def test_release_is_refused_with_the_reason_when_nothing_keeps_the_budget() -> None:
    small = artifact(100)
    choice = choose(judged([small], [PI], [measured(small, 41.0)]), [PI])
    assert choice.unserved == {"pi": "full_int8 latency: p95 41 ms > 30 ms on device cam-7"}


def test_slowest_of_several_devices_speaks_for_the_class() -> None:
    small = artifact(100)
    found = [measured(small, 12.0), measured(small, 33.0, device="cam-8"), measured(small, None, device="cam-9")]
    (made,) = judged([small], [PI], found)
    assert made.refused_for == {"pi": "latency: p95 33 ms > 30 ms on device cam-8"}


def test_device_of_another_class_says_nothing() -> None:
    small = artifact(100)
    assert judged([small], [GATEWAY], [measured(small, 500.0)]) == (small,)


@pytest.mark.parametrize(
    "said",
    ["size: 100 bytes > 90", "runtime: tflite-runtime computes dynamic_int8 wrongly or not at all"],
)
def test_fast_device_takes_no_other_refusal_back(said: str) -> None:
    small = artifact(100, {"pi": said})
    (made,) = judged([small], [PI], [measured(small, 1.0)])
    assert made.refused_for == {"pi": said}


def test_fast_device_uncovers_what_stood_behind_the_latency() -> None:
    # The converter says one reason of several: latency, before it looked at runtimes.
    slow = artifact(100, {"pi": SLOW_CONVERTER})
    wrong = msgspec.structs.replace(slow, report=msgspec.structs.replace(slow.report, runtimes=(WRONG,)))
    (made,) = judged([wrong], [PI], [measured(wrong, 1.0)])
    assert made.refused_for == {"pi": "runtime: ai-edge-litert 2.3.0: differs by 3"}
    tight = msgspec.structs.replace(PI, max_size_bytes=99)
    (made,) = judged([slow], [tight], [measured(slow, 1.0)])
    assert made.refused_for == {"pi": "size: 100 bytes > 99"}


def test_budgets_say_by_whose_word_they_are_kept() -> None:
    shown = summary(artifact(100, p95_ms=5.0))
    (by_converter,) = budgets(shown, [PI, ANY], [])
    assert (by_converter.measured_on, by_converter.latency_p95_ms, by_converter.kept) == (CONVERTER, 5.0, True)
    (by_device,) = budgets(shown, [PI, ANY], [measured(artifact(100), 41.0)])
    assert (by_device.measured_on, by_device.latency_p95_ms, by_device.kept) == ("cam-7", 41.0, False)


def test_only_artifacts_that_latency_alone_could_keep_back_are_measured() -> None:
    kinds = {
        100: artifact(100),
        101: artifact(101, {"pi": SLOW_CONVERTER}),
        102: artifact(102, {"pi": OTHER}),
        103: artifact(103, {"pi": "size: 103 bytes > 90"}),
        104: artifact(104, refused="accuracy_drop: 0.03 > 0.01"),
    }
    found = measurable([summary(made) for made in kinds.values()], [PI])
    assert [made.length_bytes for made in found] == [100, 101, 102]


def test_device_belongs_to_the_classes_that_it_fits() -> None:
    assert classes_of([PI, GATEWAY, ANY], CAM) == (PI, ANY)


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (timedelta(), False),
        (DEADLINE - timedelta(seconds=1), False),
        (DEADLINE, True),
        # A clock that was corrected by seconds, and one that was wrong by days when the device was asked.
        (timedelta(seconds=-5), False),
        (timedelta(days=-3), True),
    ],
)
def test_device_has_its_time_and_no_more(passed: timedelta, expected: bool) -> None:
    assert timed_out(measured(artifact(100), 1.0), NOW + passed) is expected


def test_release_keeps_the_choice_that_it_was_begun_with() -> None:
    artifacts = [artifact(100), artifact(200)]
    choice = choose(artifacts, [PI])
    begun = Release(
        release_id=ReleaseId("r"),
        conversion_id=ConversionId("c"),
        model=ModelName("doors"),
        version_number=1,
        release_counter=1,
        manifest=None,
        artifacts=release_artifacts(choice),
        profile_order=("pi",),
        created_at=NOW,
    )
    assert kept_choice(begun, artifacts) == choice
