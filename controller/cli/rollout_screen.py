"""How a rollout looks in a terminal: one lane a wave, one line that says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from controller.cli.output import word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from controller.views import AssignmentView, RolloutView, WaveView

_LANE = 24
_NAMED = 6
"""Devices named in a plan's row; `-o json` has more."""


def rollout_panel(rollout: RolloutView) -> RenderableType:
    """Return the whole screen of one rollout."""
    head = Text.from_markup(
        f"[bold]{rollout.model}[/bold]  {rollout.rollout_id}  {word(rollout.state)}  cohort {rollout.cohort}"
    )
    why = Text(rollout.explanation or rollout.reason, style="dim")
    return Group(head, waves_table(rollout.waves), why)


def waves_table(waves: Sequence[WaveView]) -> Table:
    """Return one row a wave, with a lane that fills as devices succeed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WAVE", "DEVICES", "", "STATE", "VERDICT", "DONE", "FAILED", "EXCUSED"):
        table.add_column(column)
    for wave in waves:
        table.add_row(
            f"{wave.index} ({wave.size})",
            str(wave.devices),
            lane(wave),
            word(wave.state),
            word(wave.verdict),
            str(wave.succeeded),
            str(wave.failed),
            str(wave.excused),
        )
    return table


def lane(wave: WaveView) -> Text:
    """Return a bar of fixed width: done `█`, failed `✗`, activated `▒`, assigned `░`, still to come `·`."""
    total = max(wave.devices, wave.assigned, 1)
    trying = max(0, wave.activated - wave.succeeded - wave.failed)
    waiting = max(0, wave.assigned - wave.succeeded - wave.failed - trying)
    bar = Text()
    for count, sign, style in (
        (wave.succeeded, "█", "green"),
        (wave.failed, "✗", "red"),
        (trying, "▒", "cyan"),
        (waiting, "░", "blue"),
    ):
        cells = round(_LANE * count / total)
        bar.append(sign * (max(1, cells) if count else 0), style=style)
    bar.truncate(_LANE)
    bar.append("·" * (_LANE - len(bar)), style="dim")
    return bar


def plan_table(waves: Sequence[WaveView]) -> Table:
    """Return who would be in which wave, and which gates could decide there."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WAVE", "DEVICES", "WHO", "GATES THAT CAN DECIDE", "GATES THAT CANNOT"):
        table.add_column(column, overflow="fold")
    for wave in waves:
        more = wave.devices - _NAMED
        who = " ".join(wave.device_ids[:_NAMED]) + (f" … and {more} more" if more > 0 and wave.device_ids else "")
        table.add_row(
            f"{wave.index} ({wave.size})",
            str(wave.devices),
            who,
            "\n".join(g.gate for g in wave.gates if g.can_decide),
            "\n".join(f"{g.gate}: {g.why}" for g in wave.gates if not g.can_decide),
        )
    return table


def assignments_table(assignments: Sequence[AssignmentView]) -> Table:
    """Return every device's share."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WAVE", "DEVICE", "STATUS", "PHASE", "COMPARED", "DIFFERENT", "WHY"):
        table.add_column(column, overflow="fold")
    for share in sorted(assignments, key=lambda a: (a.wave, a.device_id)):
        compared = (str(share.pairs), str(share.flips)) if share.pairs else ("", "")
        table.add_row(str(share.wave), share.device_id, word(share.status), share.phase or "", *compared, share.reason)
    return table
