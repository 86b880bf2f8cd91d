from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.judgement import gate
from converters.judgement.gate import Evidence
from shared.conversion import AccuracyBudget, GateReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUDGET = AccuracyBudget()


def evidence(
    samples: int, *, lost: int = 0, won: int = 0, labelled: bool = True, slices: NDArray[np.int64] | None = None
) -> Evidence:
    """Of ten classes; the source is right but where the artifact alone is."""
    labels = np.arange(samples) % 10
    source, artifact = labels.copy(), labels.copy()
    artifact[:lost] = (artifact[:lost] + 1) % 10
    source[lost : lost + won] = (source[lost : lost + won] + 1) % 10
    sure = np.arange(samples) % 2 == 0
    return Evidence(source=source, artifact=artifact, sure=sure, labels=labels if labelled else None, slices=slices)


def report(of: Evidence, *, chance: float = gate.CHANCE, margin: float = 0.01) -> GateReport:
    return gate.report(of, (), ("day", "night"), margin, chance)


def test_looks_together_spend_no_more_than_the_chance() -> None:
    spent = [gate.chance_of_look(look) for look in range(60)]
    assert sum(spent) <= gate.CHANCE
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == gate.CHANCE / 2


@pytest.mark.parametrize("samples", [100, 300, 2000])
def test_bound_without_discordance_is_the_exact_rule_of_three(samples: int) -> None:
    bound = gate.drop_bound(samples, 0, 0, 0.05)
    # Just so rare that it stays unseen with the promised chance.
    assert math.isclose((1 - bound) ** samples, 0.05)
    assert 2.9 / samples < bound < 3.0 / samples


@pytest.mark.parametrize(
    ("samples", "lost", "won", "bound"),
    [
        # Wilson's upper bound of 2 in 400 by hand, with the variance of rare events.
        (400, 2, 0, (2 + 1.3528 + 1.64485 * math.sqrt(2 + 0.67638)) / 400),
        # Near the plain formula, drop + 1.645·sqrt(discordant)/n, where there are many.
        (100_000, 600, 400, 0.002 + 1.64485 * math.sqrt(1000) / 100_000 + 1.4e-5),
    ],
)
def test_bound_is_the_closed_form(samples: int, lost: int, won: int, bound: float) -> None:
    assert gate.drop_bound(samples, lost, won, 0.05) == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize(
    ("samples", "lost", "won"), [(450, 0.01, 0.0), (300, 0.04, 0.04), (2000, 0.005, 0.002), (800, 0.012, 0.002)]
)
@pytest.mark.parametrize("chance", [0.05, 0.0125])
def test_bound_covers_as_often_as_it_says(samples: int, lost: float, won: float, chance: float) -> None:
    rng = np.random.default_rng(3)
    counts = rng.multinomial(samples, [lost, won, 1 - lost - won], size=20_000)
    kinds, often = np.unique(counts[:, :2], axis=0, return_counts=True)
    bounds = np.array([gate.drop_bound(samples, int(a), int(b), chance) for a, b in kinds])
    missed = often[bounds < lost - won].sum() / len(counts)
    # Counts are whole numbers, so that no rule can hit the chance exactly.
    assert missed <= 1.35 * chance


def test_plain_formula_would_let_through_what_the_bound_stops() -> None:
    # A true drop of 1 % on 450 samples: at most 2 of 4.5 expected losses show up 17 times in 100.
    plain = [(lost + 1.645 * math.sqrt(lost)) / 450 for lost in (1, 2)]
    assert max(plain) < 0.01 < gate.drop_bound(450, 2, 0, 0.05)


@given(st.integers(20, 5000), st.data())
def test_bound_grows_with_losses_and_certainty(samples: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, samples // 2 - 1))
    won = data.draw(st.integers(0, samples // 2 - 1))
    bound = gate.drop_bound(samples, lost, won, 0.05)
    assert (lost - won) / samples <= bound <= 1
    assert bound <= gate.drop_bound(samples, lost + 1, won, 0.05)
    assert bound <= gate.drop_bound(samples, lost, won, 0.01)


@given(st.integers(50, 3000), st.integers(0, 20), st.integers(0, 20), st.sampled_from([0.005, 0.01, 0.05]))
def test_samples_needed_certify_the_margin_at_the_same_rates(samples: int, lost: int, won: int, margin: float) -> None:
    needed = gate.samples_needed(samples, lost, won, margin, 0.05)
    if needed == 0:
        assert (lost - won) / samples >= margin - 1e-9
        return
    factor = needed / samples
    z = 1.6448536
    scored = ((lost - won) * factor + z**2 / 2 + z * math.sqrt((lost + won) * factor + z**2 / 4)) / needed
    assert scored <= margin + 1e-9
    assert 1 - 0.05 ** (1 / needed) <= margin + 1e-9


def test_three_hundred_samples_cannot_certify_a_point_and_the_report_says_how_many_can() -> None:
    measured = report(evidence(300, lost=12, won=12))
    assert measured.drop is not None
    assert measured.drop.drop == 0
    assert measured.drop.samples_needed > 2000
    refused = gate.refusal(measured, BUDGET)
    assert refused == f"accuracy_drop: bound 0.032 > 0.010 (300 samples; {measured.drop.samples_needed:,} needed)"


def test_gate_of_enough_samples_certifies_the_margin() -> None:
    assert gate.refusal(report(evidence(2000, lost=6, won=2)), BUDGET) == ""


def test_gate_says_where_no_number_of_samples_would_do() -> None:
    refused = gate.refusal(report(evidence(1000, lost=31)), BUDGET)
    assert refused.startswith("accuracy_drop: bound 0.0")
    assert refused.endswith("(1,000 samples; the drop itself is 0.031)")


def test_gate_later_look_needs_more() -> None:
    found = evidence(900, lost=2)
    assert gate.refusal(report(found, chance=gate.chance_of_look(0)), BUDGET) == ""
    assert gate.refusal(report(found, chance=gate.chance_of_look(3)), BUDGET).startswith("accuracy_drop: bound")


def test_gate_better_artifact_is_not_refused() -> None:
    assert gate.refusal(report(evidence(2000, won=30)), BUDGET) == ""


def test_gate_class_that_loses_is_named() -> None:
    found = evidence(4000)
    seven = np.flatnonzero(found.source == 7)[:40]
    found.artifact[seven] = 1
    budget = msgspec.structs.replace(BUDGET, max_drop=0.05, max_class_drop=0.05)
    refused = gate.refusal(report(found, margin=0.05), budget)
    assert refused == "class_drop: 7 0.100 > 0.050 (400 samples)"


def test_gate_class_of_few_samples_is_not_judged_alone() -> None:
    found = evidence(100)
    found.artifact[7] = 1
    budget = msgspec.structs.replace(BUDGET, max_drop=0.5, max_class_drop=0.05)
    assert gate.refusal(report(found, margin=0.5), budget) == ""


def test_gate_slice_that_loses_is_named() -> None:
    night = (np.arange(4000) < 100).astype(np.int64)
    budget = msgspec.structs.replace(BUDGET, max_drop=0.05, max_slice_drop=0.05)
    measured = report(evidence(4000, lost=20, slices=night), margin=0.05)
    assert gate.refusal(measured, budget) == "slice_drop: night 0.200 > 0.050 (100 samples)"
    assert [(group.name, group.samples) for group in measured.slices] == [("day", 3900), ("night", 100)]


@pytest.mark.parametrize(("snr_db", "refused"), [(None, ""), (30.0, ""), (17.34, "snr: 17.3 dB < 25.0 dB")])
def test_gate_noise_floor(snr_db: float | None, refused: str) -> None:
    measured = msgspec.structs.replace(report(evidence(2000)), snr_db=snr_db)
    assert gate.refusal(measured, msgspec.structs.replace(BUDGET, min_snr_db=25.0)) == refused


@pytest.mark.parametrize(
    ("lost", "refused"),
    [
        (0, ""),
        (4, "confident_agreement: 0.9800 < 0.9900 (100 samples)"),
        (5, "agreement: 0.9750 < 0.9800"),
    ],
)
def test_gate_without_labels_judges_by_agreement(lost: int, refused: str) -> None:
    measured = report(evidence(200, lost=lost, labelled=False))
    assert measured.drop is None
    assert gate.refusal(measured, BUDGET) == refused


def test_accuracy_without_labels_says_so() -> None:
    measured = gate.accuracy(evidence(200, lost=5, labelled=False))
    assert (measured.labelled, measured.source, measured.artifact, measured.agreement) == (False, 1.0, 0.975, 0.975)


def test_accuracy_of_an_answer_that_is_none_is_wrong() -> None:
    found = evidence(200)
    found.artifact[:50] = -1
    assert gate.accuracy(found).artifact == 0.75
    assert sum(map(sum, report(found).confusion)) == 150


def test_report_shows_what_changed_and_into_what() -> None:
    measured = report(evidence(200, lost=3, won=1))
    assert [(each.index, each.label, each.source, each.artifact) for each in measured.changed] == [
        (0, 0, 0, 1),
        (1, 1, 1, 2),
        (2, 2, 2, 3),
        (3, 3, 4, 3),
    ]
    assert measured.confusion[0][:2] == (19, 1)
    assert measured.classes[0].name == "0"


def test_report_of_many_changes_keeps_to_what_a_page_can_show() -> None:
    assert len(report(evidence(2000, lost=500)).changed) == 64


def test_labels_of_which_the_source_knows_nothing_let_agreement_judge() -> None:
    # Classes counted from 1 where the source counts from 0; a tenth of its answers became other ones.
    right = evidence(2000, lost=200)
    assert right.labels is not None
    blind = dataclasses.replace(right, labels=(right.labels + 1) % 10)
    assert gate.knows_nothing(blind)
    measured = report(blind)
    assert gate.refusal(measured, BUDGET) == ""
    assert gate.refusal(measured, BUDGET, by_agreement=True) == "agreement: 0.9000 < 0.9800"
    assert not gate.knows_nothing(evidence(100, lost=3))
    assert not gate.knows_nothing(evidence(100, labelled=False))
