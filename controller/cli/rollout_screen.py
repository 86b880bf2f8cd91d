"""How a rollout looks in a terminal: one lane a wave, one line that says why."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from controller.cli.output import counted, plain_table, short, size, word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from controller.views import AssignmentView, GateView, PlanView, RolloutView, WaveView

_LANE = 20
"""Cells; with the counts beside it, it fits 80 columns."""
_NAMED = 6
"""Devices named in a plan's row; `-o json` has more."""


def rollout_panel(rollout: RolloutView, *, release: str) -> RenderableType:
    """Return the whole screen of one rollout; `release` is what people call what it brings."""
    head: tuple[RenderableType, ...] = (headline(rollout, release=release), waves_table(rollout.waves))
    return Group(*head, *saving_line(rollout), why_line(rollout))


def headline(rollout: RolloutView, *, release: str) -> Text:
    """Return what goes where, and how it stands."""
    return Text.assemble(
        (release, "bold"),
        f" to {rollout.cohort}  ",
        word(rollout.state),
        (f"  rollout {short(rollout.rollout_id)}", "dim"),
    )


def saving_line(rollout: RolloutView) -> list[Text]:
    """Return what devices fetched and what deltas saved them; nothing as long as none has told."""
    if not rollout.full_bytes:
        return []
    # A delta that turned out to be of no use was fetched for nothing: a saving may be negative.
    saved = 1 - rollout.fetched_bytes / rollout.full_bytes
    said = f"devices fetched {size(rollout.fetched_bytes)} of artifacts of {size(rollout.full_bytes)}"
    return [Text(f"{said}: deltas saved {saved:.1%}" if saved > 0 else said, style="dim")]


def why_line(rollout: RolloutView) -> Text:
    """Return why it is not further."""
    return Text(rollout.explanation or rollout.reason, style="" if rollout.state == "paused" else "dim")


def waves_table(waves: Sequence[WaveView]) -> Table:
    """Return one row a wave, with a lane that fills as devices succeed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("WAVE", "DEVICES", "", "STATE", "DONE", "FAILED", "EXCUSED"):
        table.add_column(column, no_wrap=True, justify="right" if column in {"DEVICES", "DONE", "FAILED"} else "left")
    for wave in waves:
        table.add_row(
            f"{wave.index} ({wave.size})",
            str(wave.devices),
            lane(wave),
            _stands(wave),
            str(wave.succeeded),
            str(wave.failed),
            str(wave.excused) if wave.excused else "",
        )
    return table


def _stands(wave: WaveView) -> Text:
    """Return a wave's state; its verdict only where that says more."""
    return word(wave.verdict if wave.verdict == "inconclusive" else wave.state)


def lane(wave: WaveView) -> Text:
    """Return a bar: done `█`, failed `✗`, activated `▒`, assigned `░`, excused `–`, still to come `·`."""
    total = max(wave.devices, wave.assigned, 1)
    ended = wave.succeeded + wave.failed + wave.excused
    # Who was excused may have activated before: what is open is never more than what has not ended.
    trying = max(0, min(wave.activated - wave.succeeded - wave.failed, wave.assigned - ended))
    waiting = max(0, wave.assigned - ended - trying)
    bar = Text()
    for count, sign, style in (
        (wave.succeeded, "█", "green"),
        (wave.failed, "✗", "red"),
        (trying, "▒", "cyan"),
        (waiting, "░", "blue"),
        (wave.excused, "–", "yellow"),
    ):
        cells = round(_LANE * count / total)
        bar.append(sign * (max(1, cells) if count else 0), style=style)
    bar.truncate(_LANE)
    bar.append("·" * (_LANE - len(bar)), style="dim")
    return bar


def plan_screen(plan: PlanView, *, release: str, asked: Sequence[str]) -> RenderableType:
    """Return who would be in which wave, and which gates could decide there; `asked` are the sizes that were typed."""
    head = f" to {plan.cohort}: {counted(plan.devices, 'device')} in {counted(len(plan.waves), 'wave')}"
    notes = []
    if plan.not_enrolled:
        notes.append(f"{counted(plan.not_enrolled, 'device')} not enrolled yet: in a wave that starts after they have")
    planned = {wave.size for wave in plan.waves}
    notes += [f"{size} adds no device to the wave before it, so it is no wave" for size in asked if size not in planned]
    return Group(
        Text.assemble((release, "bold"), head),
        *(Text(note, style="dim") for note in notes),
        Text(),
        _members_table(plan.waves),
        *gates_screen(plan.waves),
    )


def _members_table(waves: Sequence[WaveView]) -> Table:
    table = plain_table(("WAVE", "DEVICES", "WHO"))
    for wave in waves:
        more = wave.devices - min(_NAMED, len(wave.device_ids))
        who = " ".join(wave.device_ids[:_NAMED]) + (f" … and {more} more" if more > 0 and wave.device_ids else "")
        table.add_row(f"{wave.index} ({wave.size})", str(wave.devices), Text(who))
    return table


def gates_screen(waves: Sequence[WaveView]) -> list[RenderableType]:
    """Return what each gate can do in each wave; waves of which the same is true stand together."""
    parts: list[RenderableType] = []
    for gates, group in groupby(waves, key=lambda wave: wave.gates):
        numbers = [wave.index for wave in group]
        which = f"wave {numbers[0]}" if len(numbers) == 1 else f"waves {numbers[0]} to {numbers[-1]}"
        parts += [Text(f"\ngates in {which}", style="bold"), _gates_table(gates)]
    return parts


def _gates_table(gates: Sequence[GateView]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for gate in sorted(gates, key=lambda one: not one.can_decide):
        sign = Text("✓", style="green") if gate.can_decide else Text("–", style="dim")
        table.add_row(sign, gate.gate, Text(gate.why, style="" if gate.can_decide else "dim"))
    return table


def assignments_table(assignments: Sequence[AssignmentView]) -> Table:
    """Return every device's share."""
    table = plain_table(("WAVE", "DEVICE", "STATUS", "COMPARED", "WHY"))
    for share in sorted(assignments, key=lambda a: (a.wave, a.device_id)):
        compared = f"{share.pairs}, {share.flips} differ" if share.pairs else ""
        table.add_row(str(share.wave), share.device_id, _status(share), compared, Text(share.reason))
    return table


def _status(share: AssignmentView) -> Text:
    if share.going_back:
        return Text("going back", style="magenta")
    if share.unreachable:
        return Text("not seen", style="yellow")
    return Text.assemble(word(share.status), f" {share.phase}" if share.phase else "")


def one_sentence(rollout: RolloutView, open_shares: Sequence[AssignmentView]) -> Text:
    """Answer "why is it not moving?": the controller's reason, and what devices at work on it are doing."""
    why = rollout.explanation or rollout.reason
    said = Text(why) if why.startswith(rollout.state) else Text.assemble(word(rollout.state), f": {why}")
    doing = "; ".join(_doing(share) for share in open_shares)
    return said.append(f"; {doing}") if doing else said


def _doing(share: AssignmentView) -> str:
    doing = f"{share.device_id} is in {share.phase}" if share.phase else f"{share.device_id} is {share.status}"
    if share.phase == "shadow":
        compared = counted(share.pairs, "request") if share.pairs else "no request"
        doing += f" and has compared {compared} yet"
    return doing + (f" ({share.reason})" if share.reason else "")


def release_of(rollout: RolloutView, names: Mapping[str, str]) -> str:
    """Return what people call the release that a rollout brings."""
    return names.get(rollout.release_id, f"{rollout.model} {short(rollout.release_id)}")
