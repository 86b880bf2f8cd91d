"""A release as `litefleet release export` writes it, signed by a repository of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from controller import image_context
from controller.facts import PublishedFile
from controller.trust.installation import Trust
from controller.views import ExportView
from shared import manifest
from shared.clock import SystemClock
from shared.hardware import GENERIC
from shared.ids import ModelName, ReleaseId, RolloutId
from shared.manifest import Component, ManifestArtifact, ReleaseManifest
from shared.wire import DesiredComponent, DesiredModel, ProbationPolicy, TargetRef
from tests.support import models

if TYPE_CHECKING:
    from pathlib import Path

    from shared.pipeline import PipelineSpec

MODEL = ModelName("digits")
RELEASE = ReleaseId("00000000-0000-7000-8000-000000000001")
FINDER = ReleaseId("00000000-0000-7000-8000-000000000002")


def export(
    folder: Path, *, pipeline: PipelineSpec, finder: bytes | None = None, min_release_counter: int = 0
) -> ExportView:
    """Write `folder/exported` and return what the controller would have told of it."""
    trust = Trust.open(folder / "controller", clock=SystemClock())
    repository = trust.repository
    model = models.one_hot_classifier()
    made = models.release_manifest(model, release_id=RELEASE, name=MODEL, version_number=4, pipeline=pipeline)
    if finder is not None:
        other = models.release_manifest(finder, release_id=FINDER, name=MODEL, version_number=1)
        part = Component(name="finder", model=MODEL, release_id=FINDER, artifacts=other.artifacts)
        made = msgspec.structs.replace(made, components=(part,))
    document = manifest.encode(made)
    listed = [made.artifacts[0], *(artifact for part in made.components for artifact in part.artifacts)]
    repository.publish([*map(_file, listed), _manifest_file(made, document)])
    if min_release_counter:
        repository.raise_min_release_counter(min_release_counter)
    wanted = _wanted(made, document)
    documents = repository.documents([wanted.manifest.path, *(artifact.path for artifact in listed)])
    texts = {name: data.decode() for name, data in documents.items()}
    told = ExportView(wanted=wanted, root_sha256=manifest.digest(documents["root.json"]), documents=texts)
    image_context.write_trust(folder, told)
    release = folder / image_context.EXPORTED / "release"
    (release / "manifest.json").write_bytes(document)
    (release / "model.tflite").write_bytes(model)
    if finder is not None:
        (release / "components" / "finder.tflite").write_bytes(finder)
    return told


def _wanted(made: ReleaseManifest, document: bytes) -> DesiredModel:
    own = made.artifacts[0]
    parts = tuple(DesiredComponent(name=one.name, artifact=_ref(one.artifacts[0])) for one in made.components)
    return DesiredModel(
        model=made.model,
        release_id=made.release_id,
        rollout_id=RolloutId(""),
        attempt=0,
        manifest=TargetRef(
            path=manifest.manifest_path(made.release_id),
            length_bytes=len(document),
            sha256=manifest.digest(document),
        ),
        artifact=_ref(own),
        profile_id=own.profiles[0],
        release_counter=made.release_counter,
        policy=ProbationPolicy(),
        components=parts or msgspec.UNSET,
    )


def _ref(artifact: ManifestArtifact) -> TargetRef:
    return TargetRef(path=artifact.path, length_bytes=artifact.length_bytes, sha256=artifact.sha256)


def _file(artifact: ManifestArtifact) -> PublishedFile:
    return PublishedFile(
        path=artifact.path,
        sha256=artifact.sha256,
        length_bytes=artifact.length_bytes,
        release_counter=1,
        profiles=(GENERIC.profile_id,),
    )


def _manifest_file(made: ReleaseManifest, document: bytes) -> PublishedFile:
    return PublishedFile(
        path=manifest.manifest_path(made.release_id),
        sha256=manifest.digest(document),
        length_bytes=len(document),
        release_counter=made.release_counter,
        profiles=(GENERIC.profile_id,),
    )
