"""What a release may add to its conversion: another pipeline, models of other releases, consent to request logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from controller.registry.core.types import NO_OPTIONS, Release, ReleaseComponent, ReleaseOptions
from shared import pipeline
from shared.errors import InvalidInputError, NotFoundError
from shared.ids import HardwareProfileId, RolloutId, is_slug
from shared.manifest import Component, digest
from shared.pipeline import Normalise, RunModel
from shared.wire import DesiredComponent, DesiredModel, ProbationPolicy, TargetRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.registry.core.types import ConversionOrder, ReleaseArtifact
    from shared.manifest import ReleaseManifest
    from shared.pipeline import PipelineSpec

_MAX_COMPONENTS = 16


def digest_of(options: ReleaseOptions) -> str:
    """Return what tells two releases of one conversion apart; empty where nothing was added."""
    return "" if options == NO_OPTIONS else digest(msgspec.json.encode(options, order="sorted"))


def served_pipeline(order: ConversionOrder, options: ReleaseOptions = NO_OPTIONS) -> PipelineSpec:
    """Return what devices do around the model: what was folded into its graph is not to be done twice."""
    if options.pipeline is not None:
        return options.pipeline
    if not order.image_input:
        return order.pipeline
    steps = tuple(step for step in order.pipeline.steps if not isinstance(step, Normalise))
    return msgspec.structs.replace(order.pipeline, steps=steps)


def check(order: ConversionOrder, options: ReleaseOptions) -> None:
    """Refuse what no device could run.

    Raises:
        InvalidInputError: names the field, e.g. the step of the pipeline.
    """
    if len(options.components) > _MAX_COMPONENTS:
        raise InvalidInputError(field="components", problem=f"more than {_MAX_COMPONENTS}")
    for name in options.components:
        if not is_slug(name):
            raise InvalidInputError(field=f"components.{name}", problem="is no name: a-z, 0-9 and -")
    graph = pipeline.check(served_pipeline(order, options), tuple(options.components))
    if not order.image_input or options.pipeline is None:
        return
    for node in graph.nodes:
        own = isinstance(node.step, RunModel) and not node.step.model
        for source in node.sources if own else ():
            if source.place >= 0 and isinstance(graph.nodes[source.place].step, Normalise):
                raise InvalidInputError(
                    field=f"pipeline.steps[{source.place}]",
                    problem="normalises for a model into which normalising was folded by the conversion",
                    remedy="leave the step out",
                )


def component_of(name: str, other: Release, profiles: Sequence[HardwareProfileId]) -> ReleaseComponent:
    """Return what is remembered of a component: of the other release, the artifacts for these profiles.

    Raises:
        InvalidInputError: it has none for a profile, or has components itself.
    """
    field, called = f"components.{name}", f"{other.model}/{other.version_number}"
    if other.manifest is None or other.options.components:
        problem = f"{called} runs components itself" if other.options.components else f"{called} is not published"
        raise InvalidInputError(field=field, problem=problem, remedy="name releases of single models")
    serving = by_profile(other.artifacts)
    if missing := [profile for profile in profiles if profile not in serving]:
        raise InvalidInputError(
            field=field,
            problem=f"{called} has no artifact for the profile {', '.join(missing)}, which this release serves",
            remedy="convert it for that profile too, or this one without",
        )
    wanted = {serving[profile].sha256 for profile in profiles}
    return ReleaseComponent(
        name=name,
        model=other.model,
        release_id=other.release_id,
        manifest_sha256=other.manifest.sha256,
        artifacts=tuple(artifact for artifact in other.artifacts if artifact.sha256 in wanted),
    )


def in_manifest(component: ReleaseComponent, other: ReleaseManifest) -> Component:
    """Return a component as the manifest has it: its artifacts as the other release's manifest has them."""
    wanted = {artifact.sha256 for artifact in component.artifacts}
    return Component(
        name=component.name,
        model=component.model,
        release_id=component.release_id,
        artifacts=tuple(artifact for artifact in other.artifacts if artifact.sha256 in wanted),
    )


def desired_components(release: Release, profile: HardwareProfileId) -> tuple[DesiredComponent, ...]:
    """Return the files that a device of a profile needs beside the release's own."""
    return tuple(_desired(component, by_profile(component.artifacts)[profile]) for component in release.components)


def as_desired(release: Release, profile: HardwareProfileId) -> DesiredModel:
    """Return a release as a device of a profile would be told it; an empty profile is the preferred one.

    Raises:
        NotFoundError: it is not published.
        InvalidInputError: it has no artifact for the profile.
    """
    if release.manifest is None:
        raise NotFoundError(kind="release", name=release.release_id)
    serving = by_profile(release.artifacts)
    wanted = profile or HardwareProfileId(release.profile_order[0])
    if wanted not in serving:
        raise InvalidInputError(
            field="profile",
            problem=f"the release has no artifact for {wanted}",
            remedy=f"one of {', '.join(release.profile_order)}",
        )
    artifact = serving[wanted]
    return DesiredModel(
        model=release.model,
        release_id=release.release_id,
        # No rollout brings it anywhere.
        rollout_id=RolloutId(""),
        attempt=0,
        manifest=release.manifest,
        artifact=TargetRef(path=artifact.path, length_bytes=artifact.length_bytes, sha256=artifact.sha256),
        profile_id=wanted,
        release_counter=release.release_counter,
        policy=ProbationPolicy(),
        components=desired_components(release, wanted) or msgspec.UNSET,
    )


def by_profile(artifacts: Sequence[ReleaseArtifact]) -> Mapping[HardwareProfileId, ReleaseArtifact]:
    """Return the artifact of each profile."""
    return {profile.profile_id: artifact for artifact in artifacts for profile in artifact.profiles}


def _desired(component: ReleaseComponent, artifact: ReleaseArtifact) -> DesiredComponent:
    target = TargetRef(path=artifact.path, length_bytes=artifact.length_bytes, sha256=artifact.sha256)
    return DesiredComponent(name=component.name, artifact=target)
