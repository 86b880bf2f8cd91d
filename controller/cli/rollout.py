"""`litefleet rollout`: bring a release to a cohort, watch it, hold it, end it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.follow import ENDED, follow
from controller.cli.naming import called, release_id, release_names, rollout_id
from controller.cli.output import OUT, Format, FormatOption, ago, say, short, show_json, show_table, word
from controller.cli.release import ReleaseArgument
from controller.cli.rollout_options import (
    CanaryOption,
    CohortOption,
    DeviceDeadlineOption,
    DryRunOption,
    FlipsOption,
    LatencyOption,
    OnFailure,
    OnFailureOption,
    OverrideOption,
    PairsOption,
    ProbationOption,
    RolloutArgument,
    SoakOption,
    TimeoutOption,
    UnreachableOption,
    WaitOption,
    WaveDeadlineOption,
    WaveOption,
)
from controller.cli.rollout_screen import assignments_table, one_sentence, plan_screen, release_of, rollout_panel
from controller.cli.session import session
from controller.views import AssignmentView, DecisionView, PlanView, RolloutView
from shared.clock import SystemClock
from shared.wire import ProbationPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.client import Client

app = typer.Typer(help="Rollouts: start, list, show, watch, explain, pause, resume, abort.", no_args_is_help=True)

_POLICY = ProbationPolicy()
_WAVES = ("1", "25%", "100%")
_NAMED = 3
"""Devices named in the sentence that says why."""


@app.command()
def start(
    context: typer.Context,
    release: ReleaseArgument,
    cohort: CohortOption,
    wave: WaveOption = None,
    soak: SoakOption = 60,
    wave_deadline: WaveDeadlineOption = 86_400,
    unreachable_after: UnreachableOption = 600,
    on_failure: OnFailureOption = OnFailure.REVERT,
    min_pairs: PairsOption = _POLICY.min_pairs,
    max_flip_rate: FlipsOption = _POLICY.max_flip_rate,
    max_latency_ratio: LatencyOption = _POLICY.max_latency_ratio,
    probation: ProbationOption = _POLICY.probation_s,
    canary_share: CanaryOption = 1.0,
    device_deadline: DeviceDeadlineOption = _POLICY.deadline_s,
    override_blacklist: OverrideOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    timeout_s: TimeoutOption = 3600,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start a rollout, or show with --dry-run what it would do and which gates could decide in each wave."""
    body: dict[str, object] = {
        "cohort": cohort,
        "waves": wave or list(_WAVES),
        "soak_s": soak,
        "wave_deadline_s": wave_deadline,
        "unreachable_after_s": unreachable_after,
        "on_failure": on_failure.value,
        "override_blacklist": override_blacklist,
        "policy": ProbationPolicy(
            min_pairs=min_pairs,
            max_flip_rate=max_flip_rate,
            max_latency_ratio=max_latency_ratio,
            probation_s=probation,
            deadline_s=device_deadline,
            canary_share=canary_share,
        ),
    }
    planned, started = session(context).run(lambda api: _start(api, release, body, dry_run=dry_run))
    if started is not None and wait:
        follow(session(context), started.rollout_id, timeout_s=timeout_s, output=output)
    elif output is Format.JSON:
        show_json(started or planned)
    else:
        name = release if "/" in release else f"{planned.model} {short(planned.release_id)}"
        OUT.print(plan_screen(planned, release=name, asked=wave or []))
        if started is not None:
            number = short(started.rollout_id)
            say(f"\nstarted rollout {started.rollout_id}\nnext: litefleet rollout watch {number}")


async def _start(
    api: Client, release: str, order: Mapping[str, object], *, dry_run: bool
) -> tuple[PlanView, RolloutView | None]:
    body = {**order, "release_id": await release_id(api, release)}
    planned = await api.plan_rollout(body)
    return planned, None if dry_run else await api.start_rollout(body)


@app.command("ls")
def list_rollouts(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the rollouts, newest first."""

    async def work(api: Client) -> tuple[list[RolloutView], Mapping[str, str]]:
        return await api.rollouts(), await release_names(api)

    found, names = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    now = SystemClock().now()
    show_table(
        ("ROLLOUT", "RELEASE", "COHORT", "STATE", "STARTED", "WHY"),
        (
            (
                short(r.rollout_id),
                called(r.release_id, names),
                r.cohort,
                word(r.state),
                ago(r.created_at, now),
                r.reason,
            )
            for r in found
        ),
        empty="no rollout yet; next: litefleet rollout start MODEL/NUMBER --cohort all --dry-run",
    )


@app.command()
def show(context: typer.Context, rollout: RolloutArgument, output: FormatOption = Format.TABLE) -> None:
    """Show one rollout: its waves and every device's share."""

    async def work(api: Client) -> tuple[RolloutView, list[AssignmentView], Mapping[str, str]]:
        number = await rollout_id(api, rollout)
        return await api.rollout(number), await api.assignments(number), await release_names(api)

    found, shares, names = session(context).run(work)
    if output is Format.JSON:
        show_json({"rollout": found, "assignments": shares})
        return
    OUT.print(rollout_panel(found, release=release_of(found, names)))
    say("")
    OUT.print(assignments_table(shares))


@app.command()
def watch(
    context: typer.Context,
    rollout: RolloutArgument,
    timeout_s: TimeoutOption = 86_400,
    output: FormatOption = Format.TABLE,
) -> None:
    """Watch a rollout live until it ends; exit code 0 completed, 1 not, 3 timeout."""
    follow(session(context), rollout, timeout_s=timeout_s, output=output)


@app.command()
def explain(context: typer.Context, rollout: RolloutArgument, output: FormatOption = Format.TABLE) -> None:
    """Say in a sentence why a rollout stands where it stands, and every decision that led there."""

    async def work(api: Client) -> tuple[RolloutView, list[DecisionView], list[AssignmentView]]:
        number = await rollout_id(api, rollout)
        found = await api.rollout(number)
        if found.state in ENDED:
            return found, await api.decisions(number), []
        at_work = await api.some_assignments(number, status="in_progress", limit=_NAMED)
        return found, await api.decisions(number), at_work

    found, decisions, at_work = session(context).run(work)
    if output is Format.JSON:
        show_json({"rollout": found, "decisions": decisions})
        return
    OUT.print(one_sentence(found, at_work))
    say("")
    show_table(
        ("AT (UTC)", "DECISION"),
        ((f"{d.at:%H:%M:%S}", d.explanation or d.reason) for d in decisions),
        empty="no decision yet",
    )


@app.command()
def pause(context: typer.Context, rollout: RolloutArgument, output: FormatOption = Format.TABLE) -> None:
    """Hold a rollout: nothing new is assigned; what devices have goes on."""
    _act(context, rollout, "pause", {}, output)


@app.command()
def resume(context: typer.Context, rollout: RolloutArgument, output: FormatOption = Format.TABLE) -> None:
    """Let a held rollout go on; a finished wave without a clear verdict is accepted by that."""
    _act(context, rollout, "resume", {}, output)


@app.command()
def abort(
    context: typer.Context,
    rollout: RolloutArgument,
    mode: Annotated[OnFailure, typer.Option(help="revert: devices go back; stop: nothing more activates.")] = (
        OnFailure.REVERT
    ),
    output: FormatOption = Format.TABLE,
) -> None:
    """End a rollout for good, on every device within seconds."""
    _act(context, rollout, "abort", {"mode": mode.value}, output)


def _act(context: typer.Context, rollout: str, action: str, body: dict[str, str], output: Format) -> None:
    async def work(api: Client) -> RolloutView:
        return await api.post(f"/rollouts/{await rollout_id(api, rollout)}/{action}", body, RolloutView)

    found = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    OUT.print(one_sentence(found, []))
