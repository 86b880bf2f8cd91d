"""The model card of a conversion, from what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters import inspect
from shared import dataset
from shared.card import CARD_FILE, ArtifactCard, ModelCard, SourceFacts
from shared.conversion import Recipe
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converters.judgement.choosing import Choice
    from converters.judgement.ground import Ground
    from shared.conversion import ConversionResult, ConvertedArtifact


def write(ground: Ground, choice: Choice, result: ConversionResult, sensitivity: Mapping[str, float]) -> str:
    """Write `card.json` and `card.html` into the scratch folder, and return the path of the former."""
    # It draws, which takes memory that nobody needs before.
    from converters.card import report

    request, spec = ground.request, ground.data.spec
    card = ModelCard(
        conversion_id=request.conversion_id,
        source=_source(ground),
        artifacts=tuple(_artifact(made, choice, sensitivity) for made in result.artifacts),
        candidates=result.candidates,
        dataset=f"{spec.name} {dataset.digest(spec)}",
        labels=request.pipeline.labels or spec.labels,
        warnings=result.warnings,
    )
    folder = Path(request.scratch_path)
    samples = ground.judged.samples
    changed = {sample.index for made in result.artifacts for sample in made.report.changed}
    report.write(folder, card, {index: np.asarray(samples.item(index)) for index in sorted(changed)})
    return str(folder / CARD_FILE)


def _source(ground: Ground) -> SourceFacts:
    path, facts = Path(ground.request.source_path), ground.made.facts
    return SourceFacts(
        name=ground.request.source_name or path.name,
        source_format=ground.request.source_format,
        sha256=Sha256(ground.made.source_sha256),
        length_bytes=path.stat().st_size,
        parameters=facts.parameters,
        operators=facts.operators_before,
        removed=facts.removed,
        worker=facts.worker,
    )


def _artifact(made: ConvertedArtifact, choice: Choice, sensitivity: Mapping[str, float]) -> ArtifactCard:
    return ArtifactCard(
        recipe=made.recipe or Recipe(scheme=made.scheme),
        graph=inspect.describe(Path(made.path).read_bytes(), sensitivity),
        accuracy=made.accuracy,
        report=made.report,
        latency_ms=made.latency_ms,
        profiles=tuple(profile for profile, sha256 in choice.chosen.items() if sha256 == made.sha256),
        refused=made.refused,
    )
