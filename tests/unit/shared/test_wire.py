"""Golden bytes: what was once released must be read for ever, and what is written must not drift unnoticed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import wire
from shared.hardware import DeviceHardware, Runtime
from shared.ids import (
    BootId,
    DeviceId,
    Epoch,
    Generation,
    HardwareProfileId,
    InstallationId,
    MeasurementId,
    ModelName,
    ReleaseId,
    RolloutId,
    Sha256,
)
from shared.sketches import Sketch

GOLDEN = Path(__file__).parents[2] / "golden" / "wire" / "v1"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RELEASE = ReleaseId("0192f0c1-0000-7000-8000-000000000001")
ROLLOUT = RolloutId("0192f0c1-0000-7000-8000-000000000002")
DIGEST = Sha256("ab" * 32)

BODY = wire.DesiredBody(
    models=(
        wire.DesiredModel(
            model=ModelName("digits"),
            release_id=RELEASE,
            rollout_id=ROLLOUT,
            attempt=1,
            manifest=wire.TargetRef(path=f"releases/{RELEASE}.json", length_bytes=10, sha256=DIGEST),
            artifact=wire.TargetRef(path=f"artifacts/{DIGEST}.tflite", length_bytes=20, sha256=DIGEST),
            profile_id=HardwareProfileId("generic"),
            release_counter=3,
            policy=wire.ProbationPolicy(),
        ),
    ),
    blacklist_overrides=(DIGEST,),
)

MESSAGES: dict[str, msgspec.Struct] = {
    "desired": wire.Desired(
        installation_id=InstallationId("inst-1"),
        device_id=DeviceId("pi-1"),
        key_fingerprint=DIGEST,
        epoch=Epoch(1),
        generation=Generation(7),
        body=BODY,
        issued_at=AT,
        expires_at=AT,
    ),
    "pulse": wire.Pulse(
        installation_id=InstallationId("inst-1"),
        epoch=Epoch(1),
        serial=9,
        issued_at=AT,
        halted={ROLLOUT: wire.HaltMode.REVERT},
    ),
    "report": wire.Report(
        epoch=Epoch(1),
        generation=Generation(7),
        body_digest=DIGEST,
        agent_version="0.1.0",
        hardware=DeviceHardware(
            architecture="aarch64",
            memory_bytes=1 << 30,
            cores=4,
            runtime=Runtime.AI_EDGE_LITERT,
            runtime_version="2.3.0",
        ),
        slots=(wire.SlotReport(model=ModelName("digits"), stable=RELEASE),),
        assignments=(
            wire.AssignmentReport(
                model=ModelName("digits"),
                release_id=RELEASE,
                rollout_id=ROLLOUT,
                attempt=1,
                status=wire.AssignmentStatus.ROLLED_BACK,
                activated=True,
                reason="flip_rate: 0.4 > 0.1",
                changed_at=AT,
                paired=wire.PairedCounts(pairs=30, flips=12),
            ),
        ),
    ),
    "heartbeat": wire.Heartbeat(epoch=Epoch(1), generation=Generation(7), body_digest=DIGEST, pulse_serial=9),
    "telemetry": wire.Telemetry(
        window_start=AT,
        window_s=60.0,
        series=(
            wire.Series(
                model=ModelName("digits"),
                release_id=RELEASE,
                counts={"requests": 5},
                sketches={"latency_ms": Sketch(bins={3: 5}, total=5.3)},
            ),
        ),
    ),
    "uplink": wire.Uplink(boot_id=BootId("000000000001"), seq=4, mac="00" * 32, body=msgspec.Raw(b'{"a": 1}')),
    "acked": wire.Acked(boot_id=BootId("000000000001"), acked_seq=4),
}

MEASUREMENT = MeasurementId("0192f0c1-0000-7000-8000-000000000003")
MEASURED_BODY = msgspec.structs.replace(
    BODY,
    measurements=(
        wire.WantedMeasurement(
            measurement_id=MEASUREMENT,
            artifact=wire.TargetRef(path=f"measurements/{DIGEST}.tflite", length_bytes=20, sha256=DIGEST),
        ),
    ),
)
FIGURES = wire.Figures(
    runs=100, cpu_p50_ms=11.5, cpu_p95_ms=12.5, wall_p50_ms=13.0, wall_p95_ms=41.0, peak_memory_bytes=4_000_000
)
MEASURED = wire.MeasurementReport(
    measurement_id=MEASUREMENT,
    sha256=DIGEST,
    runtime=Runtime.AI_EDGE_LITERT,
    runtime_version="2.3.0",
    ended_at=AT,
    figures=FIGURES,
)
MESSAGES |= {
    "desired_measured": msgspec.structs.replace(MESSAGES["desired"], body=MEASURED_BODY),
    "report_measured": msgspec.structs.replace(MESSAGES["report"], measurements=(MEASURED,)),
}


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_message_is_written_as_its_golden_bytes(name: str) -> None:
    assert msgspec.json.encode(MESSAGES[name]) == (GOLDEN / f"{name}.json").read_bytes().rstrip(b"\n")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_golden_bytes_are_read_back_whole(name: str) -> None:
    expected = MESSAGES[name]
    decoded = msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes(), type=type(expected))
    assert msgspec.json.encode(decoded) == msgspec.json.encode(expected)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_reader_ignores_a_field_of_a_later_version(name: str) -> None:
    expected = MESSAGES[name]
    raw: dict[str, Any] = msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes())
    raw["added_in_a_later_version"] = {"x": 1}
    decoded = msgspec.json.decode(msgspec.json.encode(raw), type=type(expected))
    assert type(decoded) is type(expected)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_message_says_its_schema_version(name: str) -> None:
    assert msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes())["schema_version"] == wire.SCHEMA_VERSION


@given(junk=st.binary(max_size=100), name=st.sampled_from(sorted(MESSAGES)))
def test_junk_raises_only_decode_errors(junk: bytes, name: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(junk, type=type(MESSAGES[name]))


def test_uplink_keeps_the_exact_bytes_that_the_mac_covers() -> None:
    sent = b'{"b":  2, "a":1}'
    encoded = msgspec.json.encode(wire.Uplink(boot_id=BootId("1"), seq=1, mac="", body=msgspec.Raw(sent)))
    assert bytes(msgspec.json.decode(encoded, type=wire.Uplink).body) == sent


def test_body_digest_moves_only_with_the_body() -> None:
    assert wire.body_digest(BODY) == wire.body_digest(msgspec.structs.replace(BODY))
    assert wire.body_digest(BODY) != wire.body_digest(msgspec.structs.replace(BODY, blacklist_overrides=()))
    assert wire.body_digest(BODY) == "9c23473a90f4b9593686cb05967592e6863823ac0357200fa61bc6aa4b1c0b35"


def test_terminal_statuses_are_all_but_queued_and_in_progress() -> None:
    assert set(wire.AssignmentStatus) - wire.TERMINAL == {
        wire.AssignmentStatus.QUEUED,
        wire.AssignmentStatus.IN_PROGRESS,
    }


def test_assignment_of_an_agent_that_tells_no_transfer_has_none() -> None:
    report = MESSAGES["report"]
    assert isinstance(report, wire.Report)
    assert report.assignments[0].transfer is msgspec.UNSET
    assert b"transfer" not in msgspec.json.encode(report)


@pytest.mark.parametrize("size", [-1, 2**50 + 1])
def test_transfer_of_a_size_that_no_file_has_is_malformed(size: int) -> None:
    text = b'{"fetched_bytes": %d, "full_bytes": 1}' % size
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=wire.Transfer)


def test_body_without_measurements_has_the_digest_that_agents_without_them_compute() -> None:
    known = {"models": msgspec.to_builtins(BODY.models), "blacklist_overrides": [DIGEST]}
    assert wire.body_digest(BODY) == hashlib.sha256(msgspec.json.encode(known, order="sorted")).hexdigest()


@pytest.mark.parametrize("hostile", [b"-1", b"1e400", b"NaN", b'"1"', b"null"])
def test_attack_figure_that_no_arithmetic_takes_refused(hostile: bytes) -> None:
    figures = wire.Figures(runs=1, cpu_p50_ms=777.5, cpu_p95_ms=1, wall_p50_ms=1, wall_p95_ms=1, peak_memory_bytes=1)
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(msgspec.json.encode(figures).replace(b"777.5", hostile), type=wire.Figures)
