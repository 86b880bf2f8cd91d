"""The release manifest: everything that is true of a release, in one document that the repository signs."""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum

import msgspec

from shared.decoding import MALFORMED
from shared.errors import UntrustedError
from shared.ids import HardwareProfileId, ModelName, ReleaseId, Sha256
from shared.pipeline import PipelineSpec
from shared.request_log import LogConsent

MAX_MANIFEST_BYTES = 16 * 1024 * 1024


class Scheme(StrEnum):
    """How an artifact's numbers are stored and computed."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    MIXED = "mixed"
    """Weights of the most sensitive operators float16, of the others int8."""
    DYNAMIC_INT8 = "dynamic_int8"
    WEIGHT_INT8 = "weight_int8"
    """Weights stored as int8, computed as float32."""
    WEIGHT_INT4 = "weight_int4"
    BLOCK_INT4 = "block_int4"
    """Weights as int4 with a scale for each block of 32."""
    FULL_INT8 = "full_int8"
    INT16X8 = "int16x8"
    """Activations int16, weights int8."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a model. `shape` has -1 where the size is free (the batch)."""

    name: str
    dtype: str
    """numpy's name, e.g. float32, int8."""
    shape: tuple[int, ...]
    scale: float | msgspec.UnsetType = msgspec.UNSET
    """Of quantised integers, which stand for `(x - zero_point) * scale`; unset: they stand for themselves."""
    zero_point: int | msgspec.UnsetType = msgspec.UNSET


class TensorData(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor by value: C-order little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class GoldenCase(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs, in the order of the model's inputs, and the outputs that this very artifact gave where it was made."""

    inputs: tuple[TensorData, ...]
    outputs: tuple[TensorData, ...]


class GoldenCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the artifact must answer on a device before it may serve: |actual - expected| ≤ atol + rtol · |expected|."""

    cases: tuple[GoldenCase, ...]
    atol: float
    rtol: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Measured on the interpreter, through the release's own pipeline, on held-out labelled samples."""

    samples: int
    source: float
    """Share of right answers (0..1) of the source model in its own framework."""
    artifact: float
    """Share of right answers (0..1) of the artifact."""
    agreement: float
    """Share of samples (0..1) on which source and artifact have the same top answer."""
    labelled: bool = True
    """False: the data has no labels, and the source's own answers stand for them."""


class ReferenceHistogram(msgspec.Struct, frozen=True, kw_only=True):
    """How a figure was distributed over the data that judged the artifact: what drift is measured against."""

    name: str
    """`confidence`, `class`, or `input.{statistic}`: see docs/metrics.md."""
    edges: tuple[float, ...]
    """Inner edges, rising: bin k holds edges[k-1] ≤ x < edges[k], so that there is one bin more than edges."""
    counts: tuple[int, ...]


class ManifestArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """One converted file and what was measured of it."""

    path: str
    """Target path in the repository: `artifacts/{sha256}.tflite`."""
    sha256: Sha256
    length_bytes: int
    scheme: Scheme
    profiles: tuple[HardwareProfileId, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accuracy: Accuracy
    golden: GoldenCheck
    references: tuple[ReferenceHistogram, ...] = ()


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A model of another release that the pipeline of this one runs too, under a name of its own."""

    name: str
    """A slug, by which the pipeline's `run_model` steps call it."""
    model: ModelName
    release_id: ReleaseId
    artifacts: tuple[ManifestArtifact, ...]
    """As the other release has them; a device gets the one of its own hardware profile."""


class ReleaseManifest(msgspec.Struct, frozen=True, kw_only=True):
    """ModelVersion + Artifacts + Pipeline + golden check; immutable."""

    schema_version: int = 1
    release_id: ReleaseId
    model: ModelName
    version_number: int
    """1, 2, 3 … within the model; people say `digits/3`."""
    release_counter: int
    """Grows with every release of the installation; devices refuse one below the signed minimum."""
    source_sha256: Sha256
    created_at: datetime
    pipeline: PipelineSpec
    artifacts: tuple[ManifestArtifact, ...]
    components: tuple[Component, ...] = ()
    log_consent: LogConsent | None = None
    """None: nothing of the requests may be written down."""


def artifact_path(sha256: Sha256) -> str:
    """Return the repository path of an artifact."""
    return f"artifacts/{sha256}.tflite"


def measurement_path(sha256: Sha256) -> str:
    """Return the repository path of an artifact that devices may time, and that no release vouches for under it."""
    return f"measurements/{sha256}.tflite"


def manifest_path(release_id: ReleaseId) -> str:
    """Return the repository path of a release's manifest."""
    return f"releases/{release_id}.json"


def encode(manifest: ReleaseManifest) -> bytes:
    """Return the canonical bytes: keys sorted, so that the same manifest always has the same digest."""
    return msgspec.json.encode(manifest, order="sorted")


def decode(data: bytes) -> ReleaseManifest:
    """Read a manifest whose bytes were already verified. Raises UntrustedError when it is not one."""
    try:
        return msgspec.json.decode(data, type=ReleaseManifest)
    except MALFORMED as exc:
        message = f"not a release manifest: {exc}"
        raise UntrustedError(message) from exc


def digest(data: bytes) -> Sha256:
    """Return the sha256 of bytes, in hex."""
    return Sha256(hashlib.sha256(data).hexdigest())
