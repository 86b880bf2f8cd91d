"""Release manifests that fit a wanted release, for tests that read none of the model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.ids import Sha256
from shared.manifest import Accuracy, GoldenCheck, ManifestArtifact, ReleaseManifest, Scheme
from shared.pipeline import PipelineSpec

if TYPE_CHECKING:
    from shared.wire import DesiredModel


def manifest(wanted: DesiredModel, *, version_number: int = 1) -> ReleaseManifest:
    """Return the manifest that a wanted release should have."""
    artifact = ManifestArtifact(
        path=wanted.artifact.path,
        sha256=wanted.artifact.sha256,
        length_bytes=wanted.artifact.length_bytes,
        scheme=Scheme.FLOAT32,
        profiles=(wanted.profile_id,),
        inputs=(),
        outputs=(),
        accuracy=Accuracy(samples=1, source=1.0, artifact=1.0, agreement=1.0),
        golden=GoldenCheck(cases=(), atol=0.0, rtol=0.0),
    )
    return ReleaseManifest(
        release_id=wanted.release_id,
        model=wanted.model,
        version_number=version_number,
        release_counter=wanted.release_counter,
        source_sha256=Sha256("0" * 64),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        pipeline=PipelineSpec(steps=()),
        artifacts=(artifact,),
    )
