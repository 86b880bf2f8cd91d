"""The manifest of a release, and what the API takes and shows of the registry."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from controller.registry.bodies import ConversionView, NewConversion, NewVersion, ReleaseView
from controller.registry.core.choice import choose
from controller.registry.core.options import served_pipeline
from controller.registry.core.release import assemble, files_to_publish, release_artifacts
from controller.registry.core.types import (
    ArtifactSummary,
    Conversion,
    ConversionOrder,
    ConversionState,
    ModelVersion,
    Release,
)
from shared import manifest
from shared.conversion import AccuracyBudget, ConvertedArtifact, Objective, SourceFormat
from shared.hardware import GENERIC, HardwareProfile
from shared.ids import ConversionId, HardwareProfileId, ModelName, ReleaseId, Sha256
from shared.manifest import Accuracy, GoldenCheck, Scheme
from shared.pipeline import MODEL_ONLY, DecodeImage, Normalise, PipelineSpec, RunModel
from shared.wire import TargetRef

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_ACCURACY = Accuracy(samples=10, source=0.9, artifact=0.89, agreement=0.99)
_PI = HardwareProfile(profile_id=HardwareProfileId("pi"), architectures=("aarch64",), max_size_bytes=50)
_DIGEST = Sha256("a" * 64)


def _artifact(scheme: Scheme, length_bytes: int, refused: str = "") -> ConvertedArtifact:
    return ConvertedArtifact(
        scheme=scheme,
        path=f"/scratch/{scheme}.tflite",
        sha256=Sha256(f"{length_bytes:064x}"),
        length_bytes=length_bytes,
        inputs=(),
        outputs=(),
        accuracy=_ACCURACY,
        max_abs_diff=0.0,
        latency_ms=1.0,
        golden=GoldenCheck(cases=(), atol=0.0, rtol=0.0),
        refused=refused,
    )


_CHOICE = choose(
    [_artifact(Scheme.FLOAT32, 100), _artifact(Scheme.FULL_INT8, 40), _artifact(Scheme.FLOAT16, 10, "bad")],
    [_PI, GENERIC],
)
_CONVERSION = Conversion(
    conversion_id=ConversionId("c"),
    order=ConversionOrder(
        model=ModelName("digits"),
        version_number=3,
        dataset_sha256=_DIGEST,
        pipeline=MODEL_ONLY,
        schemes=(Scheme.FLOAT32, Scheme.FULL_INT8),
        profiles=(_PI, GENERIC),
        budget=AccuracyBudget(),
        objective=Objective.SMALLEST,
        image_input=False,
        batch=1,
    ),
    state=ConversionState.SUCCEEDED,
    step="done",
    fraction=1.0,
    failure=None,
    message="",
    artifacts=(
        ArtifactSummary(scheme=Scheme.FLOAT16, sha256=_DIGEST, length_bytes=10, accuracy=_ACCURACY, refused="bad"),
    ),
    candidates=(),
    card=None,
    result_sha256=None,
    attempts=1,
    created_at=_AT,
)
_VERSION = ModelVersion(
    model=ModelName("digits"),
    number=3,
    sha256=_DIGEST,
    size_bytes=1000,
    filename="digits.keras",
    source_format=SourceFormat.KERAS,
    created_at=_AT,
)


def _release(published: TargetRef | None = None) -> Release:
    return Release(
        release_id=ReleaseId("r"),
        conversion_id=ConversionId("c"),
        model=ModelName("digits"),
        version_number=3,
        release_counter=7,
        manifest=published,
        artifacts=release_artifacts(_CHOICE),
        profile_order=("pi", "generic"),
        created_at=_AT,
    )


def _assembled() -> manifest.ReleaseManifest:
    return assemble(_release(), version=_VERSION, conversion=_CONVERSION, choice=_CHOICE)


def test_manifest_says_where_the_release_comes_from() -> None:
    made = _assembled()
    assert (made.release_id, made.model, made.version_number, made.release_counter) == ("r", "digits", 3, 7)
    assert made.source_sha256 == _VERSION.sha256
    assert made.pipeline == MODEL_ONLY


def test_pipeline_folded_into_the_model_is_not_done_twice() -> None:
    steps = (DecodeImage(), Normalise(scale=1 / 255), RunModel())
    order = replace(_CONVERSION.order, pipeline=PipelineSpec(steps=steps), image_input=True)
    assert served_pipeline(order).steps == (DecodeImage(), RunModel())
    assert served_pipeline(replace(order, image_input=False)).steps == steps


def test_manifest_of_the_same_release_has_the_same_bytes_after_a_crash() -> None:
    assert manifest.encode(_assembled()) == manifest.encode(_assembled())


def test_manifest_lists_the_chosen_artifacts_and_no_refused_one() -> None:
    assert [(a.scheme, a.profiles) for a in _assembled().artifacts] == [(Scheme.FULL_INT8, ("pi", "generic"))]


def test_manifest_holds_no_path_of_the_machine_that_converted() -> None:
    assert b"scratch" not in manifest.encode(_assembled())


def test_manifest_names_the_files_that_are_published() -> None:
    files = files_to_publish(_release(), manifest_sha256=_DIGEST, manifest_bytes=5)
    assert {a.path for a in _assembled().artifacts} == {file.path for file in files[:-1]}
    assert (files[-1].sha256, files[-1].length_bytes, files[-1].profiles) == (_DIGEST, 5, ("pi", "generic"))
    assert {file.release_counter for file in files} == {7}


def test_view_of_a_release_shows_which_profile_gets_which_file() -> None:
    published = TargetRef(path="m", length_bytes=5, sha256=_DIGEST)
    view = ReleaseView.of(_release(published))
    assert view.manifest_sha256 == _DIGEST
    assert [(a.scheme, a.profiles, a.refused) for a in view.artifacts] == [(Scheme.FULL_INT8, ["pi", "generic"], "")]


def test_view_of_a_conversion_shows_why_an_artifact_was_refused() -> None:
    view = ConversionView.of(_CONVERSION)
    assert [(a.scheme, a.refused, a.profiles) for a in view.artifacts] == [(Scheme.FLOAT16, "bad", [])]
    assert view.profiles == ["pi", "generic"]
    assert ConversionView.model_validate_json(view.model_dump_json()) == view


def _conversion(**changes: object) -> dict[str, Any]:
    return {
        "model": "digits",
        "version_number": 1,
        "dataset_sha256": _DIGEST,
        **changes,
    }


def test_conversion_asked_for_without_wishes_takes_tensors_and_every_scheme() -> None:
    body = NewConversion.model_validate(_conversion())
    assert (body.pipeline, body.schemes, body.profiles, body.budget, body.batch) == (
        MODEL_ONLY,
        (),
        (),
        AccuracyBudget(),
        1,
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version_number": 0}, "version_number"),
        ({"dataset_sha256": "../../etc/passwd"}, "dataset_sha256"),
        ({"dataset_sha256": _DIGEST.upper()}, "dataset_sha256"),
        ({"dataset_sha256": _DIGEST + "\n"}, "dataset_sha256"),
        ({"schemes": ["int4"]}, "schemes"),
        ({"budget": {"max_drop": "much"}}, "budget"),
        ({"batch": 0}, "batch"),
        ({"profiles": [{"profile_id": "pi"}]}, "profiles"),
        ({"profiles": [{"profile_id": "pi", "architectures": ["aarch64"], "memory": 1}]}, "profiles"),
        ({"pipeline": {"steps": [{"type": "exec"}]}}, "pipeline"),
        ({"profile": []}, "profile"),
    ],
)
def test_conversion_that_cannot_be_meant_is_refused_by_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        NewConversion.model_validate(_conversion(**changes))


@pytest.mark.parametrize(
    "changes", [{"filename": ""}, {"filename": "x" * 256}, {"source_format": "pickle"}, {"sha256": "a" * 63}]
)
def test_version_that_cannot_be_meant_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        NewVersion.model_validate({"sha256": _DIGEST, "filename": "m.keras", "source_format": "keras", **changes})
