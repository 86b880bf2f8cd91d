"""PipelineSpec, HardwareProfile, the manifest and the metrics table: what they accept and what they refuse."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from shared import hardware, manifest, metrics, pipeline
from shared.errors import InvalidInputError, UntrustedError
from shared.hardware import DeviceHardware, HardwareProfile, Runtime
from shared.ids import HardwareProfileId, ModelName, ReleaseId, Sha256
from shared.pipeline import (
    DecodeImage,
    Normalise,
    PipelineSpec,
    ResizeImage,
    RunModel,
    Softmax,
    Step,
    TopLabels,
)

PI = DeviceHardware(
    architecture="aarch64", memory_bytes=1 << 30, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.3.0"
)
FULL = PipelineSpec(
    steps=(
        DecodeImage(),
        ResizeImage(height=8, width=8),
        Normalise(scale=0.1),
        RunModel(),
        Softmax(),
        TopLabels(count=2),
    ),
    labels=("a", "b"),
)


def test_pipeline_with_every_step_in_order_is_accepted() -> None:
    pipeline.check(FULL)
    assert pipeline.takes_images(FULL)
    assert not pipeline.takes_images(pipeline.MODEL_ONLY)


@pytest.mark.parametrize(
    ("steps", "labels", "problem"),
    [
        ((), (), "no run_model"),
        ((Softmax(),), (), "no run_model"),
        ((TopLabels(), RunModel()), ("a",), "cannot take labels"),
        ((Normalise(), DecodeImage(), RunModel()), (), "cannot take tensor"),
        ((RunModel(), TopLabels()), (), "needs labels"),
        ((RunModel(), TopLabels(count=0)), ("a",), "at least 1"),
        ((ResizeImage(height=0, width=8), RunModel()), (), "1..8192"),
        ((ResizeImage(height=8, width=9000), RunModel()), (), "1..8192"),
        ((Normalise(scale=float("nan")), RunModel()), (), "must be finite"),
        ((Normalise(offset=float("inf")), RunModel()), (), "must be finite"),
        ((Normalise(scale=0), RunModel()), (), "scale is 0"),
    ],
)
def test_pipeline_that_could_not_run_is_refused(steps: tuple[Step, ...], labels: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        pipeline.check(PipelineSpec(steps=steps, labels=labels))


def test_pipeline_is_the_same_after_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FULL), type=PipelineSpec) == FULL


def test_pipeline_with_an_unknown_step_is_refused_by_the_decoder() -> None:
    with pytest.raises(msgspec.ValidationError, match="run_python"):
        msgspec.json.decode(b'{"steps":[{"type":"run_python"}]}', type=PipelineSpec)


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (HardwareProfile(profile_id=HardwareProfileId("p"), architectures=("armv7l",)), "architecture aarch64"),
        (
            HardwareProfile(
                profile_id=HardwareProfileId("p"), architectures=("aarch64",), runtime=Runtime.TFLITE_RUNTIME
            ),
            "runtime ai-edge-litert",
        ),
        (
            HardwareProfile(profile_id=HardwareProfileId("p"), architectures=("aarch64",), min_memory_bytes=1 << 31),
            "memory 1073741824",
        ),
    ],
)
def test_device_outside_a_profile_is_told_why(profile: HardwareProfile, why: str) -> None:
    assert why in (hardware.misfit(profile, PI) or "")


def test_device_within_a_profile_fits() -> None:
    assert hardware.misfit(hardware.GENERIC, PI) is None


def release_manifest() -> manifest.ReleaseManifest:
    return manifest.ReleaseManifest(
        release_id=ReleaseId("r-1"),
        model=ModelName("digits"),
        version_number=1,
        release_counter=1,
        source_sha256=Sha256("0" * 64),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        pipeline=FULL,
        artifacts=(),
    )


def test_manifest_has_the_same_bytes_every_time() -> None:
    encoded = manifest.encode(release_manifest())
    assert manifest.encode(manifest.decode(encoded)) == encoded
    assert manifest.digest(encoded) == manifest.digest(manifest.encode(release_manifest()))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"release_id": 3}'])
def test_manifest_from_other_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedError, match="not a release manifest"):
        manifest.decode(data)


def test_repository_paths_name_their_content() -> None:
    assert manifest.artifact_path(Sha256("ab")) == "artifacts/ab.tflite"
    assert manifest.manifest_path(ReleaseId("r-1")) == "releases/r-1.json"


def test_metrics_table_has_one_row_a_name_and_buckets_only_for_histograms() -> None:
    assert len(metrics.BY_NAME) == len(metrics.METRICS)
    for metric in metrics.METRICS:
        assert bool(metric.buckets) == (metric.kind is metrics.MetricKind.HISTOGRAM)
        assert list(metric.buckets) == sorted(set(metric.buckets))
