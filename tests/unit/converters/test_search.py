from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from converters.judgement import choosing, search
from converters.judgement.search import Question, Trial
from shared.conversion import (
    LADDER,
    AccuracyBudget,
    CalibrationMethod,
    CheckOutcome,
    ConvertedArtifact,
    GateReport,
    Objective,
    Recipe,
    RuntimeCheck,
    RuntimeVersion,
)
from shared.hardware import GENERIC, HardwareProfile, Runtime
from shared.ids import HardwareProfileId, Sha256
from shared.manifest import Accuracy, GoldenCheck, Scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KB = 1000
OLD = HardwareProfile(
    profile_id=HardwareProfileId("old"), architectures=("armv7l",), runtime=Runtime.TFLITE_RUNTIME, threads=1
)
SIZES = {
    Scheme.FLOAT32: 18_600,
    Scheme.FLOAT16: 9_400,
    Scheme.FULL_INT8: 5_350,
    Scheme.DYNAMIC_INT8: 5_080,
    Scheme.WEIGHT_INT8: 5_110,
    Scheme.INT16X8: 5_500,
}
AGREEMENT = {Scheme.FLOAT32: 1.0, Scheme.FLOAT16: 0.99, Scheme.DYNAMIC_INT8: 0.86, Scheme.WEIGHT_INT8: 0.92}


def agreement_of(recipe: Recipe) -> float:
    """As measured of EfficientNet-lite0: mixed reaches 98 % with 22 of its 50 layers."""
    if recipe.scheme is Scheme.MIXED:
        return min(0.92 + 0.0028 * len(recipe.kept_float), 0.99)
    if recipe.scheme is Scheme.FULL_INT8:
        return 0.95 if recipe.calibration is CalibrationMethod.MSE else 0.93
    return AGREEMENT.get(recipe.scheme, 0.7)


@dataclass(slots=True)
class Table:
    """A workbench whose figures were measured beforehand."""

    agreement: Callable[[Recipe], float] = agreement_of
    layers: tuple[str, ...] = tuple(f"layer{number}" for number in range(50))
    patience: int = 1000
    tried: list[Recipe] = field(default_factory=list)

    def attempt(self, recipe: Recipe) -> Trial:
        self.tried.append(recipe)
        size = SIZES.get(recipe.scheme, 5_110 + 110 * len(recipe.kept_float)) * KB
        agreement = self.agreement(recipe)
        return Trial(
            recipe=recipe,
            failed="cannot be made" if agreement < 0 else "",
            sha256=Sha256(f"{len(self.tried):064x}"),
            length_bytes=size,
            latency_ms=330.0 if recipe.scheme is Scheme.INT16X8 else 13.0,
            latency_p95_ms=350.0 if recipe.scheme is Scheme.INT16X8 else 14.0,
            samples=300,
            agreement=agreement,
            confident_agreement=1.0,
            snr_db=30.0,
        )

    def ranking(self) -> tuple[str, ...]:
        return self.layers

    def in_time(self) -> bool:
        return len(self.tried) < self.patience


def question(
    *profiles: HardwareProfile, schemes: Sequence[Scheme] = LADDER, objective: Objective = Objective.SMALLEST
) -> Question:
    return Question(
        schemes=tuple(schemes), profiles=profiles or (GENERIC,), budget=AccuracyBudget(), objective=objective
    )


def chosen_recipe(table: Table, asked: Question) -> Recipe:
    return search.ranked(search.explore(asked, table), asked, asked.profiles[0])[0].recipe


def test_search_finds_the_fewest_layers_that_must_stay_float() -> None:
    recipe = chosen_recipe(Table(), question())
    assert recipe.scheme is Scheme.MIXED
    assert len(recipe.kept_float) == 22
    assert recipe.kept_float == tuple(f"layer{number}" for number in range(22))


def test_search_of_a_network_that_takes_int8_well_takes_the_smallest() -> None:
    assert chosen_recipe(Table(agreement=lambda _: 0.999), question()).scheme is Scheme.DYNAMIC_INT8


def test_search_corrects_biases_wherever_weights_lose_bits() -> None:
    table = Table()
    search.explore(question(), table)
    assert all(recipe.correct_bias is (recipe.scheme not in search._FIRST) for recipe in table.tried)


def test_search_tries_every_way_to_choose_ranges_until_one_passes() -> None:
    table = Table()
    search.explore(question(schemes=[Scheme.FULL_INT8]), table)
    methods = [recipe.calibration for recipe in table.tried]
    assert set(methods) == set(CalibrationMethod)
    assert methods[0] is CalibrationMethod.PERCENTILE
    # What came closest is tried on equalised layers, too.
    assert (table.tried[-1].calibration, table.tried[-1].equalise) == (CalibrationMethod.MSE, True)
    assert len(set(table.tried)) == len(table.tried)


def test_search_does_not_mend_what_is_far_off() -> None:
    table = Table(agreement=lambda _: 0.6)
    search.explore(question(schemes=[Scheme.WEIGHT_INT8, Scheme.FULL_INT8]), table)
    assert [recipe.scheme for recipe in table.tried] == [Scheme.WEIGHT_INT8, Scheme.FULL_INT8]


def test_search_does_not_repeat_what_cannot_be_made() -> None:
    table = Table(agreement=lambda recipe: -1.0 if recipe.scheme is Scheme.FULL_INT8 else 1.0)
    search.explore(question(schemes=[Scheme.FLOAT32, Scheme.FULL_INT8]), table)
    assert [recipe.scheme for recipe in table.tried] == [Scheme.FLOAT32, Scheme.FULL_INT8]


def test_search_of_old_runtime_leaves_out_what_it_computes_wrongly() -> None:
    table = Table(agreement=lambda _: 1.0)
    asked = question(OLD, schemes=[*LADDER, Scheme.WEIGHT_INT4, Scheme.BLOCK_INT4])
    trials = search.explore(asked, table)
    tried = {recipe.scheme for recipe in table.tried}
    assert tried.isdisjoint({Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT4, Scheme.BLOCK_INT4})
    assert search.ranked(trials, asked, OLD)[0].recipe.scheme is Scheme.WEIGHT_INT8


def test_search_of_two_classes_gives_each_what_it_can_run() -> None:
    asked = question(GENERIC, OLD)
    trials = search.explore(asked, Table(agreement=lambda _: 1.0))
    assert search.ranked(trials, asked, GENERIC)[0].recipe.scheme is Scheme.DYNAMIC_INT8
    assert search.ranked(trials, asked, OLD)[0].recipe.scheme is Scheme.WEIGHT_INT8


@pytest.mark.parametrize("patience", [0, 1, 2, 7])
def test_search_cut_short_keeps_what_it_has(patience: int) -> None:
    table = Table(patience=patience)
    asked = question()
    trials = search.explore(asked, table)
    assert len(trials) == patience
    assert (len(search.ranked(trials, asked, GENERIC)) > 0) is (patience > 0)


def test_search_of_few_layers_takes_small_steps() -> None:
    table = Table(agreement=lambda recipe: 0.99 if len(recipe.kept_float) > 3 else 0.9, layers=tuple("abcdefg"))
    search.explore(question(schemes=[Scheme.MIXED]), table)
    assert [len(recipe.kept_float) for recipe in table.tried] == [1, 2, 4, 3]


def test_size_cap_and_latency_budget_are_kept() -> None:
    small = HardwareProfile(profile_id=HardwareProfileId("s"), architectures=("x86_64",), max_size_bytes=5_100 * KB)
    quick = HardwareProfile(profile_id=HardwareProfileId("q"), architectures=("x86_64",), max_latency_ms=100.0)
    asked = question(small, quick, schemes=[*LADDER, Scheme.INT16X8])
    trials = search.explore(asked, Table(agreement=lambda _: 1.0))
    assert {trial.recipe.scheme for trial in search.ranked(trials, asked, small)} == {Scheme.DYNAMIC_INT8}
    assert Scheme.INT16X8 not in {trial.recipe.scheme for trial in search.ranked(trials, asked, quick)}
    (slow,) = (trial for trial in trials if trial.recipe.scheme is Scheme.INT16X8)
    assert search.unfit(slow, quick) == "latency: p95 350 ms > 100 ms (on the converter)"


def test_fastest_is_asked_for_and_found() -> None:
    asked = question(schemes=[Scheme.FLOAT32, Scheme.INT16X8], objective=Objective.FASTEST)
    trials = search.explore(asked, Table(agreement=lambda _: 1.0))
    assert search.ranked(trials, asked, GENERIC)[0].recipe.scheme is Scheme.FLOAT32


@pytest.mark.parametrize(
    ("lost", "won", "given_up"), [(0, 0, False), (3, 0, False), (8, 4, False), (20, 0, True), (100, 0, True)]
)
def test_first_look_gives_up_only_what_is_surely_lost(lost: int, won: int, given_up: bool) -> None:
    assert search.hopeless(256, lost, won, 0.01) is given_up


def trial(number: int, *, agreement: float, length_bytes: int = 1000, snr_db: float = 30.0) -> Trial:
    return Trial(
        recipe=Recipe(scheme=Scheme.MIXED, kept_float=tuple(map(str, range(number)))),
        sha256=Sha256(f"{number:064x}"),
        length_bytes=length_bytes + number,
        samples=300,
        agreement=agreement,
        confident_agreement=1.0,
        snr_db=snr_db,
    )


def test_next_look_skips_what_is_less_faithful_than_what_failed() -> None:
    order = [
        trial(0, agreement=0.985),
        trial(1, agreement=0.982, snr_db=40),
        trial(2, agreement=0.99, snr_db=31),
        trial(3, agreement=0.99, snr_db=32),
    ]
    assert search.next_look(order, []) == order[0]
    assert search.next_look(order, order[:1]) == order[3]


def test_next_look_where_nothing_is_clearly_better_takes_the_best_of_the_rest() -> None:
    order = [trial(0, agreement=0.985), trial(1, agreement=0.99, snr_db=30.1), trial(2, agreement=0.99, snr_db=30.4)]
    assert search.next_look(order, order[:1]) == order[2]


def test_next_look_spends_the_last_on_the_most_faithful() -> None:
    order = [trial(number, agreement=0.98 + 0.001 * number, snr_db=30 + number) for number in range(10)]
    assert search.next_look(order, order[: search.MAX_LOOKS - 1]) == order[-1]
    assert search.next_look(order, order[: search.MAX_LOOKS]) is None
    assert search.next_look(order[:2], order[:2]) is None


def judged(of: Trial, *, refused: str = "", failing_runtime: bool = False) -> ConvertedArtifact:
    check = RuntimeCheck(
        runtime=Runtime.TFLITE_RUNTIME, version="2.14.0", outcome=CheckOutcome.FAILED, reason="golden_mismatch: case 0"
    )
    return ConvertedArtifact(
        scheme=of.recipe.scheme,
        path="/nowhere",
        sha256=of.sha256,
        length_bytes=of.length_bytes,
        inputs=(),
        outputs=(),
        accuracy=Accuracy(samples=700, source=1.0, artifact=of.agreement, agreement=of.agreement),
        max_abs_diff=0.1,
        latency_ms=1.0,
        golden=GoldenCheck(cases=(), atol=0.1, rtol=0.0),
        report=GateReport(runtimes=(check,) if failing_runtime else ()),
        refused=refused,
    )


TRIALS = [trial(number, agreement=0.98 + 0.001 * number, snr_db=30 + 2 * number) for number in range(10)]


def test_choice_judges_the_next_best_after_a_failure_and_counts_the_looks() -> None:
    looks: list[tuple[int, int]] = []

    def judge(of: Trial, look: int) -> ConvertedArtifact:
        looks.append((len(of.recipe.kept_float), look))
        return judged(of, refused="" if of.agreement > 0.981 else "agreement: 0.97 < 0.98")

    choice = choosing.choose(TRIALS, question(), (), judge)
    assert looks == [(0, 0), (1, 1), (2, 2)]
    assert choice.chosen == {GENERIC.profile_id: TRIALS[2].sha256}
    assert choice.outcomes()[TRIALS[0].sha256] == "gate: agreement: 0.97 < 0.98"
    assert choice.outcomes()[TRIALS[2].sha256] == "chosen: generic"


def test_choice_gives_up_after_a_fixed_number_of_looks() -> None:
    looks: list[int] = []

    def judge(of: Trial, look: int) -> ConvertedArtifact:
        looks.append(look)
        return judged(of, refused="agreement: 0.97 < 0.98")

    assert choosing.choose(TRIALS, question(), (), judge).chosen == {}
    assert looks == list(range(search.MAX_LOOKS))


def test_choice_of_two_classes_looks_once_at_what_both_want() -> None:
    other = HardwareProfile(profile_id=HardwareProfileId("pi"), architectures=("aarch64",))
    looks: list[int] = []

    def judge(of: Trial, look: int) -> ConvertedArtifact:
        looks.append(look)
        return judged(of)

    choice = choosing.choose(TRIALS, question(GENERIC, other), (), judge)
    assert looks == [0]
    assert set(choice.chosen.values()) == {TRIALS[0].sha256}
    assert choice.artifacts[TRIALS[0].sha256].refused_for == {}


def test_choice_refuses_each_artifact_for_the_classes_that_got_another() -> None:
    choice = choosing.choose(
        TRIALS,
        question(GENERIC, OLD),
        (RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version="2.14.0"),),
        lambda of, _: judged(of, failing_runtime=of.sha256 == TRIALS[0].sha256),
    )
    assert choice.chosen == {GENERIC.profile_id: TRIALS[0].sha256, OLD.profile_id: TRIALS[1].sha256}
    first, second = choice.artifacts.values()
    assert first.refused_for == {OLD.profile_id: "runtime: tflite-runtime 2.14.0: golden_mismatch: case 0"}
    assert list(second.refused_for) == [GENERIC.profile_id]


def test_choice_spends_no_look_on_a_class_whose_runtime_nobody_can_ask() -> None:
    looks: list[int] = []

    def judge(of: Trial, look: int) -> ConvertedArtifact:
        looks.append(look)
        return judged(of)

    reason = "runtime: tflite-runtime 2.14.0 cannot be asked: not installed"
    choice = choosing.choose(TRIALS, question(OLD, GENERIC), (), judge, {OLD.profile_id: reason})
    assert looks == [0]
    assert list(choice.chosen) == [GENERIC.profile_id]
    assert choice.artifacts[TRIALS[0].sha256].refused_for == {OLD.profile_id: reason}


def test_table_shows_what_is_on_the_front_and_why_the_others_lost() -> None:
    asked = question()
    trials = search.explore(asked, Table())
    rows = {search.describe(row.recipe): row for row in search.table(trials, {}, asked)}
    assert rows["float32"].pareto
    assert rows["dynamic_int8, bias corrected"].pareto
    assert not rows["float16"].pareto
    assert rows["dynamic_int8, bias corrected"].outcome == "search: agreement: 0.8600 < 0.9800"
    assert all(row.outcome for row in rows.values())


def test_closest_names_what_lost_least() -> None:
    asked = question(schemes=[Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT8])
    trials = search.explore(asked, Table())
    said = search.closest(trials, search.table(trials, {}, asked))
    assert said == "weight_int8, bias corrected came closest: search: agreement: 0.9200 < 0.9800"
