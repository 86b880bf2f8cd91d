"""Which artifact goes to whom."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.registry.core.choice import (
    checked_budget,
    choose,
    fitting_artifact,
    wanted_profiles,
    wanted_schemes,
)
from controller.registry.core.conversion import MAX_ATTEMPTS, after_restart, judge
from controller.registry.core.release import files_to_publish, release_artifacts
from controller.registry.core.types import ConversionState, Release
from shared.conversion import LADDER, AccuracyBudget, ConversionResult, ConvertedArtifact, FailureKind, Objective
from shared.errors import InvalidInputError
from shared.hardware import GENERIC, DeviceHardware, HardwareProfile, Runtime
from shared.ids import ConversionId, HardwareProfileId, ModelName, ReleaseId, Sha256
from shared.manifest import Accuracy, GoldenCheck, Scheme

ACCURACY = Accuracy(samples=10, source=0.9, artifact=0.9, agreement=1.0)


def _artifact(scheme: Scheme, length_bytes: int, refused: str = "") -> ConvertedArtifact:
    return ConvertedArtifact(
        scheme=scheme,
        path=f"/scratch/{scheme}.tflite",
        sha256=Sha256(f"{length_bytes:064x}"),
        length_bytes=length_bytes,
        inputs=(),
        outputs=(),
        accuracy=ACCURACY,
        max_abs_diff=0.0,
        latency_ms=1.0,
        golden=GoldenCheck(cases=(), atol=0.0, rtol=0.0),
        refused=refused,
    )


def _profile(name: str, *, architectures: tuple[str, ...] = ("x86_64",), **limits: int) -> HardwareProfile:
    return HardwareProfile(
        profile_id=HardwareProfileId(name),
        architectures=architectures,
        max_size_bytes=limits.get("max_size_bytes"),
        min_memory_bytes=limits.get("min_memory_bytes", 0),
    )


def _release(artifacts: list[ConvertedArtifact], profiles: list[HardwareProfile]) -> Release:
    chosen = release_artifacts(choose(artifacts, profiles))
    served = {profile.profile_id for artifact in chosen for profile in artifact.profiles}
    return Release(
        release_id=ReleaseId("r"),
        conversion_id=ConversionId("c"),
        model=ModelName("digits"),
        version_number=1,
        release_counter=7,
        manifest=None,
        artifacts=chosen,
        profile_order=tuple(p.profile_id for p in profiles if p.profile_id in served),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _device(architecture: str = "x86_64", memory_bytes: int = 10**9) -> DeviceHardware:
    return DeviceHardware(
        architecture=architecture,
        memory_bytes=memory_bytes,
        cores=4,
        runtime=Runtime.AI_EDGE_LITERT,
        runtime_version="2",
    )


FLOAT = _artifact(Scheme.FLOAT32, 400)
HALF = _artifact(Scheme.FLOAT16, 200)
SMALL = _artifact(Scheme.FULL_INT8, 100)
REFUSED = _artifact(Scheme.FULL_INT8, 90, refused="accuracy_drop: 0.5 > 0.01")


def test_choice_takes_the_smallest_that_passed() -> None:
    [(artifact, profiles)] = choose([FLOAT, SMALL, HALF, REFUSED], [GENERIC]).artifacts
    assert (artifact, profiles) == (SMALL, (GENERIC,))


def test_choice_without_passing_artifact_says_why_for_each_profile() -> None:
    choice = choose([REFUSED], [GENERIC])
    assert (choice.artifacts, choice.unserved) == ((), {"generic": "no artifact passed"})


def test_choice_profile_too_small_for_all_is_named_with_sizes() -> None:
    tiny = _profile("tiny", max_size_bytes=50)
    choice = choose([FLOAT, SMALL], [tiny, GENERIC])
    problem = "full_int8 has 100 bytes, the profile takes 50; float32 has 400 bytes, the profile takes 50"
    assert choice.unserved == {"tiny": problem}
    assert choice.artifacts == ((SMALL, (GENERIC,)),)


def test_choice_gives_no_profile_what_was_refused_for_it() -> None:
    slow = msgspec.structs.replace(SMALL, refused_for={GENERIC.profile_id: "latency: 40.0 > 20.0 ms"})
    quick = _profile("quick")
    choice = choose([FLOAT, slow], [GENERIC, quick])
    assert choice.artifacts == ((FLOAT, (GENERIC,)), (slow, (quick,)))
    nothing = choose([slow], [GENERIC])
    assert nothing.unserved == {"generic": "full_int8 latency: 40.0 > 20.0 ms"}


def test_choice_for_speed_takes_the_fastest_however_large() -> None:
    fast = msgspec.structs.replace(FLOAT, latency_ms=0.5)
    [(artifact, _)] = choose([SMALL, fast], [GENERIC], Objective.FASTEST).artifacts
    assert artifact == fast


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"max_drop": -0.1}, "max_drop"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"max_class_drop": 2.0}, "max_class_drop"),
        ({"min_agreement": 98.0}, "min_agreement"),
        ({"confident": -1.0}, "confident"),
        ({"min_snr_db": -3.0}, "min_snr_db"),
        ({"min_class_samples": 0}, "min_class_samples"),
    ],
)
def test_budget_that_nothing_could_keep_is_refused(changed: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^budget\.{field}"):
        checked_budget(msgspec.structs.replace(AccuracyBudget(), **changed))


def test_budget_usable_is_returned_as_it_is() -> None:
    budget = AccuracyBudget(max_class_drop=0.05, min_snr_db=20.0)
    assert checked_budget(budget) is budget


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6, unique=True), st.integers(1, 1000))
def test_choice_never_exceeds_the_budget_and_none_smaller_passed(sizes: list[int], budget: int) -> None:
    artifacts = [_artifact(Scheme.FLOAT32, size) for size in sizes]
    choice = choose(artifacts, [_profile("p", max_size_bytes=budget)])
    if min(sizes) > budget:
        assert not choice.artifacts
    else:
        assert choice.artifacts[0][0].length_bytes == min(sizes)


def test_fit_prefers_the_first_profile_that_the_device_is_of() -> None:
    big = _profile("big", min_memory_bytes=8 * 10**9)
    release = _release([SMALL], [big, GENERIC])
    found = fitting_artifact(release, _device())
    assert not isinstance(found, str)
    assert found[1].profile_id == "generic"
    rich = fitting_artifact(release, _device(memory_bytes=9 * 10**9))
    assert not isinstance(rich, str)
    assert rich[1].profile_id == "big"


def test_fit_of_no_profile_says_why_for_each() -> None:
    release = _release([SMALL], [_profile("pi", architectures=("aarch64",))])
    assert fitting_artifact(release, _device()) == (
        "no_fitting_artifact: pi: architecture x86_64 is not one of aarch64"
    )


def test_files_to_publish_are_artifacts_and_then_the_manifest() -> None:
    release = _release([SMALL], [GENERIC])
    artifact, manifest = files_to_publish(release, manifest_sha256=Sha256("f" * 64), manifest_bytes=12)
    assert (artifact.path, artifact.length_bytes) == (f"artifacts/{SMALL.sha256}.tflite", 100)
    assert (manifest.path, manifest.length_bytes, manifest.profiles) == ("releases/r.json", 12, ("generic",))
    assert {artifact.release_counter, manifest.release_counter} == {7}


def test_schemes_none_named_are_all() -> None:
    assert set(wanted_schemes(())) == set(LADDER)


def test_schemes_repeated_and_unordered_are_once_from_large_to_small() -> None:
    asked = (Scheme.FULL_INT8, Scheme.FLOAT32, Scheme.FULL_INT8)
    assert wanted_schemes(asked) == (Scheme.FLOAT32, Scheme.FULL_INT8)


def test_profiles_none_named_are_the_generic_one() -> None:
    assert wanted_profiles(()) == (GENERIC,)


@pytest.mark.parametrize("profiles", [(GENERIC, GENERIC), (_profile("p", architectures=()),)])
def test_profiles_unusable_are_refused(profiles: tuple[HardwareProfile, ...]) -> None:
    with pytest.raises(InvalidInputError, match="profiles"):
        wanted_profiles(profiles)


def test_result_with_a_passing_artifact_is_a_success() -> None:
    assert judge(ConversionResult(artifacts=(REFUSED, SMALL))).state is ConversionState.SUCCEEDED


def test_result_without_a_passing_artifact_is_a_failure_that_says_why() -> None:
    outcome = judge(ConversionResult(artifacts=(REFUSED,)))
    assert (outcome.state, outcome.failure) == (ConversionState.FAILED, FailureKind.NOTHING_PASSED)
    assert "accuracy_drop" in outcome.message


def test_result_of_nothing_at_all_is_a_failure() -> None:
    assert judge(ConversionResult()).failure is FailureKind.NOTHING_PASSED


def test_restart_queues_again_until_the_conversion_is_the_suspect() -> None:
    states = [after_restart(attempts).state for attempts in range(1, MAX_ATTEMPTS + 1)]
    assert states == [ConversionState.QUEUED, ConversionState.QUEUED, ConversionState.FAILED]
