"""Which artifacts are wanted, which of them a profile gets, and which one a device gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.conversion import LADDER, Objective
from shared.errors import InvalidInputError
from shared.hardware import GENERIC, misfit
from shared.ids import HardwareProfileId
from shared.manifest import Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.registry.core.types import Release, ReleaseArtifact
    from shared.conversion import AccuracyBudget, ConvertedArtifact
    from shared.hardware import DeviceHardware, HardwareProfile

# Twice what 24-bit floats can tell apart: a budget above it is a slip of the decimal point.
_MOST_DB = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What each profile gets, and why the others get nothing."""

    artifacts: tuple[tuple[ConvertedArtifact, tuple[HardwareProfile, ...]], ...]
    """Each chosen artifact once, with the profiles that it is for."""
    unserved: dict[str, str]
    """Profile id → why no artifact is for it."""


def wanted_schemes(asked: Sequence[Scheme]) -> tuple[Scheme, ...]:
    """Return the schemes to make, each once, from the largest to the smallest; the whole ladder when none is named."""
    chosen = set(asked) or set(LADDER)
    return tuple(scheme for scheme in Scheme if scheme in chosen)


def wanted_profiles(asked: Sequence[HardwareProfile]) -> tuple[HardwareProfile, ...]:
    """Return the profiles to serve, in the order of preference; the generic one when none is named.

    Raises:
        InvalidInputError: two profiles of one name, or one that no device can be of.
    """
    seen: set[str] = set()
    for index, profile in enumerate(asked):
        if profile.profile_id in seen:
            raise InvalidInputError(field=f"profiles[{index}]", problem=f"{profile.profile_id} is named twice")
        if not profile.architectures:
            raise InvalidInputError(
                field=f"profiles[{index}].architectures", problem="empty", remedy="name at least one, e.g. aarch64"
            )
        seen.add(profile.profile_id)
    return tuple(asked) or (GENERIC,)


def checked_budget(budget: AccuracyBudget) -> AccuracyBudget:
    """Return a budget that something could keep. Raises InvalidInputError."""
    shares = {
        name: getattr(budget, name)
        for name in ("max_drop", "max_class_drop", "max_slice_drop", "min_agreement", "min_confident_agreement")
    }
    for name, share in {**shares, "confident": budget.confident}.items():
        # Written so that NaN, which compares with nothing, is refused too.
        if share is not None and not 0 <= share <= 1:
            raise InvalidInputError(field=f"budget.{name}", problem=f"{share} is no share", remedy="0 to 1; 0.01 = 1 %")
    if budget.min_snr_db is not None and not 0 <= budget.min_snr_db <= _MOST_DB:
        raise InvalidInputError(field="budget.min_snr_db", problem=f"{budget.min_snr_db} is not 0 to {_MOST_DB} dB")
    if budget.min_class_samples < 1:
        raise InvalidInputError(field="budget.min_class_samples", problem="a class has at least one sample")
    return budget


def choose(
    artifacts: Sequence[ConvertedArtifact],
    profiles: Sequence[HardwareProfile],
    objective: Objective = Objective.SMALLEST,
) -> Choice:
    """Give each profile the best artifact that passed, keeps its budget, and was not refused for it."""
    # All that passed are as accurate as was asked: the smallest, or the fastest, costs a device least.
    rank = _size_then_name if objective is Objective.SMALLEST else _latency_then_size
    passing = sorted((a for a in artifacts if not a.refused), key=rank)
    chosen: dict[str, tuple[ConvertedArtifact, tuple[HardwareProfile, ...]]] = {}
    unserved: dict[str, str] = {}
    for profile in profiles:
        fitting = next((a for a in passing if not _why_not(a, profile)), None)
        if fitting is None:
            unserved[profile.profile_id] = _why_none(passing, profile)
            continue
        _, others = chosen.get(fitting.sha256, (fitting, ()))
        chosen[fitting.sha256] = (fitting, (*others, profile))
    return Choice(artifacts=tuple(chosen.values()), unserved=unserved)


def kept_choice(release: Release, artifacts: Sequence[ConvertedArtifact]) -> Choice:
    """Return the choice that a release was begun with."""
    by_digest = {artifact.sha256: artifact for artifact in artifacts}
    return Choice(
        artifacts=tuple((by_digest[chosen.sha256], chosen.profiles) for chosen in release.artifacts), unserved={}
    )


def fitting_artifact(release: Release, device: DeviceHardware) -> tuple[ReleaseArtifact, HardwareProfile] | str:
    """Return the artifact for a device and the profile that it belongs to, or why there is none."""
    by_profile = {
        profile.profile_id: (artifact, profile) for artifact in release.artifacts for profile in artifact.profiles
    }
    reasons: list[str] = []
    for profile_id in release.profile_order:
        artifact, profile = by_profile[HardwareProfileId(profile_id)]
        reason = misfit(profile, device)
        if reason is None:
            return artifact, profile
        reasons.append(f"{profile_id}: {reason}")
    return "no_fitting_artifact: " + "; ".join(reasons)


def _size_then_name(artifact: ConvertedArtifact) -> tuple[int, str]:
    # Two files of one length need some order, so that the same conversion always gives the same release.
    return artifact.length_bytes, artifact.sha256


def _latency_then_size(artifact: ConvertedArtifact) -> tuple[float, int, str]:
    return artifact.latency_ms, *_size_then_name(artifact)


def _why_not(artifact: ConvertedArtifact, profile: HardwareProfile) -> str:
    refused = artifact.refused_for.get(profile.profile_id, "")
    if refused:
        return f"{artifact.scheme} {refused}"
    if profile.max_size_bytes is not None and artifact.length_bytes > profile.max_size_bytes:
        return f"{artifact.scheme} has {artifact.length_bytes} bytes, the profile takes {profile.max_size_bytes}"
    return ""


def _why_none(passing: Sequence[ConvertedArtifact], profile: HardwareProfile) -> str:
    return "; ".join(_why_not(artifact, profile) for artifact in passing) or "no artifact passed"
