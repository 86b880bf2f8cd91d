"""How the outcome of a conversion is shown: artifacts, what devices measured of them, and who keeps which budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from controller.cli.convert_screen import recipe_text
from controller.cli.output import OUT, ago, percent, show_table, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from rich.console import Console

    from controller.views import ArtifactView, BudgetView, MeasurementView


# Below this width the last column would be folded into a ribbon.
_WIDE = 104


def show_artifacts(artifacts: Sequence[ArtifactView], *, to: Console | None = None) -> None:
    """Show what was made, and what was refused."""
    show_table(
        ("RECIPE", "SIZE", "ACCURACY", "SOURCE", "LOSS ≤", ""),
        (
            (
                recipe_text(a.recipe) if a.recipe else a.scheme,
                size(a.length_bytes),
                percent(a.accuracy.artifact),
                percent(a.accuracy.source),
                f"{100 * a.drop.bound:.2f} pt" if a.drop else "",
                Text(f"refused: {a.refused}", style="red") if a.refused else " ".join(a.profiles),
            )
            for a in artifacts
        ),
        empty="no artifact",
        to=to,
    )


def _narrow(cells: tuple[str | Text, ...]) -> tuple[str | Text, ...]:
    name, device, p50, p95, _wall, memory, _runtime, standing = cells
    return name, device, p50, p95, memory, standing


def artifact_name(artifact: ArtifactView) -> str:
    """Return what people call an artifact."""
    return recipe_text(artifact.recipe) if artifact.recipe else artifact.scheme


def show_measurements(
    measurements: Iterable[MeasurementView],
    names: Mapping[str, str],
    *,
    now: datetime,
    empty: str = "",
    to: Console | None = None,
) -> None:
    """Show what devices measured. `names`: sha256 → what people call the artifact."""
    columns: tuple[str | Text, ...] = ("MEASURED", "DEVICE", "P50", "P95", "WALL P95", "MEMORY", "RUNTIME", "")
    rows = [_measured(one, names.get(one.sha256, one.sha256[:12]), now) for one in measurements]
    if (to or OUT).width < _WIDE:
        columns, rows = _narrow(columns), [_narrow(row) for row in rows]
    show_table([str(column) for column in columns], rows, empty=empty, to=to)


def show_budgets(artifacts: Iterable[ArtifactView]) -> None:
    """Show which budgets for latency artifacts keep, and by whose word."""
    show_table(
        ("ARTIFACT", "PROFILE", "BUDGET", "P95", "MEASURED ON", ""),
        (_budget(artifact_name(artifact), one) for artifact in artifacts for one in artifact.budgets),
        empty="no profile has a budget for latency",
    )


def _measured(one: MeasurementView, name: str, now: datetime) -> tuple[str | Text, ...]:
    figures = one.figures
    shown = ["–"] * 4
    if figures is not None:
        times = (figures.cpu_p50_ms, figures.cpu_p95_ms, figures.wall_p95_ms)
        shown = [*(milliseconds(time) for time in times), size(figures.peak_memory_bytes)]
    return (name, one.device_id, *shown, f"{one.runtime} {one.runtime_version}", _standing(one, now))


def _standing(one: MeasurementView, now: datetime) -> Text:
    if one.state == "failed":
        return Text(f"failed: {one.reason}", style="red")
    if one.state == "done":
        return Text(ago(one.ended_at, now))
    return Text("again: " + one.state if one.figures else one.state, style="cyan")


def _budget(name: str, one: BudgetView) -> tuple[str | Text, ...]:
    verdict = Text("keeps", style="green") if one.kept else Text("breaks", style="red")
    return (
        name,
        one.profile_id,
        f"{one.max_latency_ms:g} ms",
        milliseconds(one.latency_p95_ms),
        one.measured_on if one.measured_on != "converter" else "the converter only",
        verdict,
    )


def milliseconds(time_ms: float) -> str:
    """Return a duration as people read it."""
    return f"{time_ms:.3g} ms" if time_ms >= 1 else f"{1000 * time_ms:.3g} µs"
