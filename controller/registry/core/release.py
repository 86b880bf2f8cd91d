"""A release from a conversion: the manifest, and what the repository is asked to vouch for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.facts import PublishedFile
from controller.registry.core.options import served_pipeline
from controller.registry.core.types import ReleaseArtifact
from shared.manifest import ManifestArtifact, ReleaseManifest, artifact_path, manifest_path

if TYPE_CHECKING:
    from controller.registry.core.choice import Choice
    from controller.registry.core.types import Conversion, ModelVersion, Release
    from shared.ids import Sha256
    from shared.manifest import Component


def release_artifacts(choice: Choice) -> tuple[ReleaseArtifact, ...]:
    """Return what the registry remembers of the chosen artifacts."""
    return tuple(
        ReleaseArtifact(
            path=artifact_path(artifact.sha256),
            sha256=artifact.sha256,
            length_bytes=artifact.length_bytes,
            scheme=artifact.scheme,
            accuracy=artifact.accuracy,
            profiles=profiles,
        )
        for artifact, profiles in choice.artifacts
    )


def assemble(
    release: Release,
    *,
    version: ModelVersion,
    conversion: Conversion,
    choice: Choice,
    components: tuple[Component, ...] = (),
) -> ReleaseManifest:
    """Return the manifest: the same release always gives the same bytes, so that a crash in between does no harm."""
    return ReleaseManifest(
        release_id=release.release_id,
        model=release.model,
        version_number=release.version_number,
        release_counter=release.release_counter,
        source_sha256=version.sha256,
        created_at=release.created_at,
        pipeline=served_pipeline(conversion.order, release.options),
        artifacts=tuple(
            ManifestArtifact(
                path=artifact_path(artifact.sha256),
                sha256=artifact.sha256,
                length_bytes=artifact.length_bytes,
                scheme=artifact.scheme,
                profiles=tuple(profile.profile_id for profile in profiles),
                inputs=artifact.inputs,
                outputs=artifact.outputs,
                accuracy=artifact.accuracy,
                golden=artifact.golden,
                references=artifact.references,
            )
            for artifact, profiles in choice.artifacts
        ),
        components=components,
        log_consent=release.options.log_consent,
    )


def files_to_publish(release: Release, *, manifest_sha256: Sha256, manifest_bytes: int) -> tuple[PublishedFile, ...]:
    """Return the artifacts and then the manifest that names them."""
    artifacts = tuple(
        PublishedFile(
            path=artifact.path,
            sha256=artifact.sha256,
            length_bytes=artifact.length_bytes,
            release_counter=release.release_counter,
            profiles=tuple(profile.profile_id for profile in artifact.profiles),
        )
        for artifact in release.artifacts
    )
    every_profile = tuple(profile for file in artifacts for profile in file.profiles)
    manifest = PublishedFile(
        path=manifest_path(release.release_id),
        sha256=manifest_sha256,
        length_bytes=manifest_bytes,
        release_counter=release.release_counter,
        profiles=every_profile,
    )
    return (*artifacts, manifest)
