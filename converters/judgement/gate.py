"""Whether an artifact keeps what its source knows: arithmetic on the answers of both to the same held-out samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from shared.conversion import ChangedSample, GateReport, GroupAccuracy, PairedDrop
from shared.manifest import Accuracy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shared.conversion import AccuracyBudget, ConvertedArtifact

    Answers = NDArray[np.int64]

CHANCE = 0.05
"""Of calling a margin kept that is not, over all looks at the gate together: one-sided 95 %."""
_EXACT = 1e-12
"""Shares are quotients of whole numbers: a share of exactly the margin must not fail by the last bit."""
_MAX_CONFUSION = 100
_MAX_CHANGED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The answers of source and artifact to the samples of one split, `(N,)` each."""

    source: Answers
    artifact: Answers
    """-1 where the answer is no number, which is always wrong."""
    sure: NDArray[np.bool_]
    """Where the source is sure of its answer."""
    labels: Answers | None
    slices: Answers | None

    @property
    def truth(self) -> Answers:
        """What counts as right: the labels or, without any, what the source says."""
        return self.source if self.labels is None else self.labels


def chance_of_look(look: int) -> float:
    """Return how much of CHANCE the look number 0, 1, 2 … at the gate may spend.

    Every candidate that is judged has its own chance of passing by luck, so that one who may look often passes
    anything. Half of what is left goes to each look: however many there are, together they spend no more than CHANCE.
    """
    return float(CHANCE / 2 ** (look + 1))


def accuracy(evidence: Evidence) -> Accuracy:
    """Measure both sides against the labels."""
    truth = evidence.truth
    return Accuracy(
        samples=len(truth),
        source=float((evidence.source == truth).mean()),
        artifact=float((evidence.artifact == truth).mean()),
        agreement=float((evidence.source == evidence.artifact).mean()),
        labelled=evidence.labels is not None,
    )


def paired_drop(evidence: Evidence, margin: float, chance: float) -> PairedDrop:
    """Measure the accuracy lost on the same samples, bounded from above but for a `chance` (0..1)."""
    was, is_ = evidence.source == evidence.truth, evidence.artifact == evidence.truth
    lost, won, samples = int((was & ~is_).sum()), int((is_ & ~was).sum()), len(was)
    return PairedDrop(
        samples=samples,
        drop=(lost - won) / samples,
        bound=drop_bound(samples, lost, won, chance),
        discordant=lost + won,
        samples_needed=samples_needed(samples, lost, won, margin, chance),
    )


def drop_bound(samples: int, lost: int, won: int, chance: float) -> float:
    """Return the drop (0..1) that the true one exceeds with no more than `chance`.

    Both sides answered the same samples, so that only the discordant ones carry noise: a score bound on their
    difference (Wilson's, for pairs). The simpler drop + z·sqrt(discordant)/n holds only where there are dozens: a true
    drop worth 4.5 samples passes it 17 times in 100 where 5 were promised. Where nothing is discordant, n samples still
    miss what happens once in n/3 (the "rule of three", here exact).

    Source: E. B. Wilson, JASA 22 (1927); T. Tango, Statistics in Medicine 17 (1998).
    """
    z = NormalDist().inv_cdf(1 - chance)
    scored = (lost - won + z**2 / 2 + z * math.sqrt(lost + won + z**2 / 4)) / samples
    unseen = 1 - math.pow(chance, 1 / samples)
    return min(1.0, max(scored, unseen))


def drop_floor(samples: int, lost: int, won: int, chance: float) -> float:
    """Return the drop (-1..1) that the true one stays below with no more than `chance`: bounded from the other side."""
    z = NormalDist().inv_cdf(1 - chance)
    return (lost - won + z**2 / 2 - z * math.sqrt(lost + won + z**2 / 4)) / samples


def samples_needed(samples: int, lost: int, won: int, margin: float, chance: float) -> int:
    """Return how many samples would certify `margin` if further ones were as these; 0 where no number would."""
    drop, discordant = (lost - won) / samples, (lost + won) / samples
    room = margin - drop
    if room <= _EXACT or margin <= 0:
        return 0
    if margin >= 1:
        return 1
    z = NormalDist().inv_cdf(1 - chance)
    # Both bounds, solved for the number of samples.
    scored = z**2 * (room + discordant) / room**2
    unseen = math.log(chance) / math.log1p(-margin)
    return math.ceil(max(scored, unseen))


def report(evidence: Evidence, names: Sequence[str], slices: Sequence[str], margin: float, chance: float) -> GateReport:
    """Return all that the answers tell. `names[k]` names class k, `slices[k]` slice k; classes may have no name."""
    truth, labelled = evidence.truth, evidence.labels is not None
    same = evidence.source == evidence.artifact
    sure = int(evidence.sure.sum())
    classes = 1 + int(max(truth.max(), evidence.source.max(), evidence.artifact.max(), 0))
    named = [names[k] if k < len(names) else str(k) for k in range(classes)]
    return GateReport(
        drop=paired_drop(evidence, margin, chance) if labelled else None,
        classes=_groups(evidence, truth, named) if labelled else (),
        slices=() if evidence.slices is None else _groups(evidence, evidence.slices, slices),
        confusion=_confusion(truth, evidence.artifact, classes) if classes <= _MAX_CONFUSION else (),
        changed=tuple(
            ChangedSample(
                index=index,
                label=int(truth[index]) if labelled else None,
                source=int(evidence.source[index]),
                artifact=int(evidence.artifact[index]),
            )
            for index in np.flatnonzero(~same)[:_MAX_CHANGED].tolist()
        ),
        agreement=float(same.mean()),
        confident_agreement=float(same[evidence.sure].mean()) if sure else 1.0,
        confident_samples=sure,
    )


def knows_nothing(evidence: Evidence) -> bool:
    """Whether the source is right no more often than a constant answer, so that labels show no artifact's loss."""
    if evidence.labels is None:
        return False
    constant = float(np.bincount(evidence.labels).max() / len(evidence.labels))
    return float((evidence.source == evidence.labels).mean()) <= constant


def refusal(measured: GateReport, budget: AccuracyBudget, *, by_agreement: bool = False) -> str:
    """Return "" for an artifact within the budget, else the first word and figures that speak against it.

    Where there are no labels, or these show nothing (`by_agreement`), it must answer as its source does.
    """
    problem = _drop_refusal(measured.drop, budget.max_drop) if measured.drop is not None else ""
    if measured.drop is None or by_agreement:
        problem = problem or _agreement_refusal(measured, budget)
    return (
        problem
        or _group_refusal("class_drop", measured.classes, budget.max_class_drop, budget.min_class_samples)
        or _group_refusal("slice_drop", measured.slices, budget.max_slice_drop, budget.min_class_samples)
        or snr_refusal(measured.snr_db, budget.min_snr_db)
    )


def snr_refusal(snr_db: float | None, floor_db: float | None) -> str:
    """Return "" or `snr: 17.3 dB < 25.0 dB`."""
    if snr_db is None or floor_db is None or snr_db >= floor_db:
        return ""
    return f"snr: {snr_db:.1f} dB < {floor_db:.1f} dB"


def closest(artifacts: Sequence[ConvertedArtifact]) -> str:
    """Say which refused artifact lost the least, and why it was refused."""
    best = min(artifacts, key=lambda made: (made.accuracy.source - made.accuracy.artifact, made.length_bytes))
    return f"{best.scheme} came closest: {best.refused or '; '.join(best.refused_for.values())}"


def _groups(evidence: Evidence, members: Answers, names: Sequence[str]) -> tuple[GroupAccuracy, ...]:
    truth, found = evidence.truth, []
    for number, name in enumerate(names):
        mine = members == number
        if mine.any():
            found.append(
                GroupAccuracy(
                    name=name,
                    samples=int(mine.sum()),
                    source=float((evidence.source == truth)[mine].mean()),
                    artifact=float((evidence.artifact == truth)[mine].mean()),
                )
            )
    return tuple(found)


def _confusion(truth: Answers, answers: Answers, classes: int) -> tuple[tuple[int, ...], ...]:
    given = answers >= 0
    counts = np.bincount(truth[given] * classes + answers[given], minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in counts.tolist())


def _drop_refusal(drop: PairedDrop, margin: float) -> str:
    if drop.bound <= margin + _EXACT:
        return ""
    remedy = f"{drop.samples_needed:,} needed" if drop.samples_needed else f"the drop itself is {drop.drop:.3f}"
    return f"accuracy_drop: bound {drop.bound:.3f} > {margin:.3f} ({drop.samples:,} samples; {remedy})"


def _agreement_refusal(measured: GateReport, budget: AccuracyBudget) -> str:
    if measured.agreement < budget.min_agreement - _EXACT:
        return f"agreement: {measured.agreement:.4f} < {budget.min_agreement:.4f}"
    if measured.confident_agreement < budget.min_confident_agreement - _EXACT:
        return (
            f"confident_agreement: {measured.confident_agreement:.4f} < {budget.min_confident_agreement:.4f} "
            f"({measured.confident_samples:,} samples)"
        )
    return ""


def _group_refusal(word: str, groups: Sequence[GroupAccuracy], limit: float | None, least: int) -> str:
    judged = [group for group in groups if group.samples >= least]
    if limit is None or not judged:
        return ""
    worst = max(judged, key=lambda group: group.source - group.artifact)
    drop = worst.source - worst.artifact
    if drop <= limit + _EXACT:
        return ""
    return f"{word}: {worst.name} {drop:.3f} > {limit:.3f} ({worst.samples:,} samples)"
