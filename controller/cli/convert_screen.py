"""How a conversion is shown: one bar while it runs, and the table of all that was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from controller.cli.output import ERR, OUT, percent, show_table, size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.progress import ProgressColumn

    from controller.views import CandidateView, RecipeView

# Below this width the outcome would be folded into a ribbon.
_WIDE = 104
_STEP_WIDTH = 38


def recipe_text(recipe: RecipeView) -> str:
    """Return a recipe in a few words: `full_int8 mse equalised`."""
    words = [
        recipe.scheme,
        recipe.calibration or "",
        "per-tensor" if recipe.per_tensor else "",
        "equalised" if recipe.equalise else "",
        "bias" if recipe.correct_bias else "",
        f"+{len(recipe.kept_float)} float" if recipe.kept_float else "",
        "int-io" if recipe.integer_io else "",
    ]
    return " ".join(word for word in words if word)


def show_candidates(
    candidates: Sequence[CandidateView], bounds: Mapping[str, float] = {}, *, to: Console | None = None
) -> None:
    """Show everything that was tried; ● marks what nothing beats in both size and loss.

    `bounds`: sha256 → the most accuracy that was lost, with 95 %, of those that reached the gate.
    """
    console = to or OUT
    labelled = any(one.accuracy is not None for one in candidates)
    columns: tuple[str | Text, ...] = (
        "",
        "RECIPE",
        "SIZE",
        "ACCURACY" if labelled else "AGREES",
        "LOSS ≤",
        "SNR",
        "LATENCY",
        "OUTCOME",
    )
    rows = [_row(one, bounds.get(one.sha256), labelled=labelled) for one in candidates]
    if console.width < _WIDE:
        columns, rows = _narrow(columns), [_narrow(row) for row in rows]
    show_table([str(column) for column in columns], rows, empty="nothing was tried", to=console)


def _narrow(cells: tuple[str | Text, ...]) -> tuple[str | Text, ...]:
    mark, recipe, size_text, accuracy, bound, _snr, _latency, outcome = cells
    return mark, recipe, size_text, accuracy, bound, outcome


def _row(one: CandidateView, bound: float | None, *, labelled: bool) -> tuple[str | Text, ...]:
    measured = one.accuracy if labelled else one.agreement
    made = bool(one.length_bytes)
    return (
        Text("●", style="green") if one.pareto else "",
        recipe_text(one.recipe),
        size(one.length_bytes) if made else "–",
        percent(measured) if made and measured is not None else "–",
        f"{100 * bound:.2f} pt" if bound is not None else "",
        _noise_text(one) if made else "–",
        f"{one.latency_ms:.2f} ms" if made else "–",
        outcome_text(one.outcome),
    )


def _noise_text(one: CandidateView) -> str:
    if one.snr_db is not None:
        return f"{one.snr_db:.1f} dB"
    # None is no noise at all, or no number to measure it on.
    return "exact" if one.agreement == 1 else "–"


def outcome_text(outcome: str) -> Text:
    """Return an outcome in its colour; the words stay, so that nothing hangs on the colour."""
    if outcome.startswith("chosen"):
        return Text(outcome, style="green")
    if outcome.startswith("failed"):
        return Text(outcome, style="red")
    return Text(outcome, style="dim" if outcome.startswith("search") else "yellow")


class ProgressScreen:
    """A bar on a terminal, one line for each step in a log; both on stderr. Use as a context manager."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._name = name
        self._quiet = quiet
        self._step = ""
        self._bar = Progress(*columns, console=ERR, transient=True, disable=quiet or not ERR.is_terminal, expand=True)
        self._task = self._bar.add_task(self._words("starting"), total=1.0)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def show(self, step: str, fraction: float) -> None:
        """Tell where the work stands."""
        self._bar.update(self._task, completed=fraction, description=self._words(step))
        if step != self._step and not self._quiet and not ERR.is_terminal:
            ERR.print(Text(f"{self._name}: {step}"), soft_wrap=True)
        self._step = step

    def _words(self, step: str) -> str:
        # Of one width, so that the bar does not jump; a step's name is no markup.
        words = step if len(step) <= _STEP_WIDTH else f"{step[: _STEP_WIDTH - 1]}…"
        return f"{words:<{_STEP_WIDTH}}".replace("[", "\\[")
