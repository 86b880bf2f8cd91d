"""What a release's manifest says of watching it: what to hold its requests against, and what may be written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.serving.requests import ClassifyRequest
from shared import manifest
from shared.errors import DigestMismatchError, LitefleetError, ModelLoadError, PipelineError
from shared.pipeline import OWN_MODEL
from shared.runtime import drift
from shared.runtime.pipeline import CompiledPipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agent.core.plan import SlotSpec
    from agent.serving.requests import Outcome, Request
    from shared.manifest import ManifestArtifact, ReferenceHistogram, ReleaseManifest, TensorSpec
    from shared.request_log import LogConsent

    Tensor = NDArray[Any]

_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """Of one release."""

    slot: SlotSpec
    references: tuple[ReferenceHistogram, ...]
    consent: LogConsent | None
    labels: tuple[str, ...]
    feeding: Feeding | None
    """None where it is not clear what the release's own model is fed."""


def read(slot: SlotSpec) -> Declared | None:
    """Read what the manifest of a slot declares; None when there is nothing to watch.

    Raises:
        ModelLoadError: it cannot be read.
        DigestMismatchError: it is not what was signed.
        UntrustedError: it is no manifest.
    """
    if not slot.folder:
        return None
    path = Path(slot.folder) / _MANIFEST
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelLoadError(f"{path} cannot be read: {exc.strerror}") from exc
    actual = manifest.digest(data)
    if actual != slot.manifest_sha256:
        raise DigestMismatchError(expected=slot.manifest_sha256, actual=actual, path=str(path))
    described = manifest.decode(data)
    artifact = next((each for each in described.artifacts if each.sha256 == slot.artifact_sha256), None)
    references = artifact.references if artifact is not None else ()
    if not references and described.log_consent is None:
        return None
    return Declared(
        slot=slot,
        references=references,
        consent=described.log_consent,
        labels=described.pipeline.labels,
        feeding=_feeding(described, artifact) if artifact is not None and references else None,
    )


def output_figures(outcome: Outcome, labels: tuple[str, ...]) -> dict[str, float]:
    """Return the figures of an answer, by what was said of its first item."""
    figures: dict[str, float] = {}
    if outcome.confidence is not None:
        figures[drift.CONFIDENCE] = outcome.confidence
    if outcome.top in labels:
        figures[drift.CLASS] = float(labels.index(outcome.top))
    elif outcome.top.isdigit():
        figures[drift.CLASS] = float(outcome.top)
    return figures


class Feeding:
    """The release's pipeline up to its model: tells what a request feeds it, and asks no model anything."""

    def __init__(self, pipeline: CompiledPipeline) -> None:
        self._pipeline = pipeline

    def figures(self, request: Request) -> dict[str, float]:
        """Return the figures of a request's first item; none where its model is not fed by it directly."""
        try:
            if isinstance(request, ClassifyRequest):
                self._pipeline.from_image(request.encoded)
            elif len(request.inputs) == 1 and request.inputs[0].array.ndim:
                self._pipeline.from_array(request.inputs[0].array[0])
        except _FedError as exc:
            return drift.input_figures(exc.fed)
        except LitefleetError:
            # Another model stands before this one, or the item is one that its own model would refuse.
            return {}
        return {}


class _FedError(PipelineError):
    """The model was about to be asked."""

    def __init__(self, fed: Tensor) -> None:
        super().__init__("a model that only looks at what it is fed")
        self.fed = fed


class _Onlooker:
    """Stands in the place of a model."""

    def __init__(self, artifact: ManifestArtifact, *, is_own: bool) -> None:
        self._inputs, self._outputs, self._is_own = artifact.inputs, artifact.outputs, is_own

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        return self._outputs

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Hand over what the release's own model is fed. Raises PipelineError, always."""
        if not self._is_own:
            raise PipelineError("another model stands before the release's own")
        # A copy: pipelines keep what they prepare items in.
        raise _FedError(np.array(inputs[0][0]))


def _feeding(described: ReleaseManifest, own: ManifestArtifact) -> Feeding | None:
    models = {OWN_MODEL: _Onlooker(own, is_own=True)}
    for each in described.components:
        models[each.name] = _Onlooker(each.artifacts[0], is_own=False)
    try:
        return Feeding(CompiledPipeline(described.pipeline, models))
    except LitefleetError:
        return None
