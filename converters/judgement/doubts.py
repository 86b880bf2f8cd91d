"""What a conversion that was not refused still does not show, in sentences for the person who releases it.

A gate cannot fail on data that cannot tell: labels that a constant answer would match, few samples, a check that
anything passes. Then the figures are true and mean little, which must be said beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from converters.judgement import gate, golden_cases, runtimes
from shared.conversion import CheckOutcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.conversion import AccuracyBudget, ConvertedArtifact

_NAMED = 5
"""Classes named in one sentence."""


def of_data(field: str, measured_source: float, labels: NDArray[np.int64], classes: int) -> list[str]:
    """Return what the labels cannot show of a source that is right on the share `measured_source` of them."""
    counts = np.bincount(labels, minlength=max(classes, 2))
    said = []
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        names = ", ".join(map(str, missing[:_NAMED])) + (", …" if missing.size > _NAMED else "")
        said.append(f"{field}: no sample of {missing.size} of {len(counts)} classes ({names})")
    constant = float(counts.max() / counts.sum())
    if measured_source <= constant:
        said.append(
            f"{field}: the source is right on {measured_source:.1%}, and always answering class {counts.argmax()} "
            f"on {constant:.1%}: are labels and pipeline those of the training?"
        )
    return said


def of_artifact(made: ConvertedArtifact, budget: AccuracyBudget) -> list[str]:
    """Return what was not shown of an artifact that passed its gate; nothing of one that was refused."""
    if made.refused:
        return []
    said = [
        f"{made.scheme}: left to devices to try on {check.runtime} {check.version}: {check.reason}"
        for check in made.report.runtimes
        if check.outcome is CheckOutcome.NOT_CHECKED and runtimes.is_left_to_devices(check.runtime)
    ]
    if golden_cases.is_blind(made.golden):
        said.append(f"{made.scheme}: its golden check would pass a model that always answers the same")
    said += _of_groups(made, budget)
    if not made.accuracy.labelled:
        said += _of_agreement(made, budget)
    return said


def of_time(tried: int, limit_s: float) -> str:
    """Return what a search that ran out of time leaves open."""
    return f"the search ended after {limit_s:g} s with {tried} candidates tried: a smaller one may exist (max_search_s)"


def _of_groups(made: ConvertedArtifact, budget: AccuracyBudget) -> list[str]:
    said = []
    floors = (
        ("class", budget.max_class_drop, made.report.classes),
        ("slice", budget.max_slice_drop, made.report.slices),
    )
    for word, limit, groups in floors:
        few = [group.name for group in groups if group.samples < budget.min_class_samples]
        if limit is not None and few:
            names = ", ".join(few[:_NAMED]) + (", …" if len(few) > _NAMED else "")
            said.append(
                f"{made.scheme}: max_{word}_drop is not judged of {len(few)} of {len(groups)} with fewer than "
                f"{budget.min_class_samples} samples ({names})"
            )
    return said


def _of_agreement(made: ConvertedArtifact, budget: AccuracyBudget) -> list[str]:
    said = [f"{made.scheme}: the data has no labels: it is shown to answer as its source, not to be right"]
    if not made.report.confident_samples and budget.min_confident_agreement > 0:
        said.append(f"{made.scheme}: the source is sure of no answer, so that min_confident_agreement shows nothing")
    differing = round((1 - made.report.agreement) * made.accuracy.samples)
    bound = 1 - gate.drop_bound(made.accuracy.samples, differing, 0, gate.CHANCE)
    if bound < budget.min_agreement:
        said.append(
            f"{made.scheme}: {made.accuracy.samples:,} samples show an agreement of at least {bound:.2%}, and "
            f"{budget.min_agreement:.2%} is asked for: judge on more"
        )
    return said
