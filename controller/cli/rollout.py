"""`litefleet rollout`: bring a release to a cohort, watch it, hold it, end it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from controller.cli.output import OUT, Format, FormatOption, ago, fail, show_json, show_table, word
from controller.cli.rollout_screen import assignments_table, plan_table, rollout_panel
from controller.cli.session import EXIT_FAILED, EXIT_TIMEOUT, session
from controller.views import DecisionView, RolloutView
from shared.clock import SystemClock

if TYPE_CHECKING:
    from controller.client import Client

app = typer.Typer(help="Rollouts: start, watch, explain, pause, resume, abort.", no_args_is_help=True)

_POLL_S = 0.5
ENDED = frozenset({"completed", "aborted", "rolled_back"})


class OnFailure(StrEnum):
    """What a failed wave does to the devices that already activated."""

    REVERT = "revert"
    STOP = "stop"


WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it has ended: 0 completed, 1 not, 3 timeout.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="With --wait: seconds to wait at most.")]


@app.command()
def start(
    context: typer.Context,
    release: Annotated[str, typer.Argument(help="Release id; see `litefleet release ls`.")],
    cohort: Annotated[str, typer.Option(help="Label query, e.g. site=lab; `all` for the whole fleet.")],
    wave: Annotated[
        list[str] | None, typer.Option(help="Cumulative size of a wave; repeat. Default: 1, 25%, 100%.")
    ] = None,
    soak: Annotated[float, typer.Option(min=0, help="Seconds that a finished wave is watched before the next.")] = 60,
    on_failure: Annotated[OnFailure, typer.Option(help="What a failed wave does.")] = OnFailure.REVERT,
    min_pairs: Annotated[int, typer.Option(min=0, help="Requests a device compares, candidate against stable.")] = 30,
    max_flip_rate: Annotated[float, typer.Option(min=0.001, max=0.999, help="Share answered differently.")] = 0.1,
    max_latency_ratio: Annotated[float, typer.Option(min=1, help="Median candidate time / stable time.")] = 2.0,
    probation: Annotated[float, typer.Option(min=0, help="Seconds the candidate answers, watched.")] = 10,
    wave_deadline: Annotated[
        float, typer.Option(min=1, help="Seconds after which a wave without verdict holds.")
    ] = 3600,
    override_blacklist: Annotated[
        bool, typer.Option("--override-blacklist", help="Try again what was once reverted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show who would be in which wave.")] = False,
    wait: WaitOption = False,
    timeout_s: TimeoutOption = 3600,
    output: FormatOption = Format.TABLE,
) -> None:
    """Start a rollout, or show with --dry-run what it would do and which gates could decide in each wave."""
    body = {
        "release_id": release,
        "cohort": cohort,
        "waves": wave or ["1", "25%", "100%"],
        "soak_s": soak,
        "on_failure": on_failure.value,
        "wave_deadline_s": wave_deadline,
        "override_blacklist": override_blacklist,
        "policy": {
            "min_pairs": min_pairs,
            "max_flip_rate": max_flip_rate,
            "max_latency_ratio": max_latency_ratio,
            "probation_s": probation,
        },
    }
    if dry_run:
        plan = session(context).run(lambda api: api.plan_rollout(body))
        show_json(plan) if output is Format.JSON else OUT.print(plan_table(plan.waves))
        return
    started = session(context).run(lambda api: api.start_rollout(body))
    if wait:
        _follow(context, started.rollout_id, timeout_s, output)
        return
    if output is Format.JSON:
        show_json(started)
        return
    OUT.print(plan_table(started.waves))
    OUT.print(f"started {started.rollout_id}\nnext: litefleet rollout watch {started.rollout_id}")


@app.command("ls")
def list_rollouts(context: typer.Context, output: FormatOption = Format.TABLE) -> None:
    """List the rollouts, newest first."""
    found = session(context).run(lambda api: api.rollouts())
    if output is Format.JSON:
        show_json(found)
        return
    now = SystemClock().now()
    show_table(
        ("ROLLOUT", "MODEL", "COHORT", "STATE", "STARTED", "WHY"),
        ((r.rollout_id, r.model, r.cohort, word(r.state), ago(r.created_at, now), r.reason) for r in found),
        empty="no rollout yet; next: litefleet release ls, then litefleet rollout start RELEASE --cohort all",
    )


@app.command()
def show(context: typer.Context, rollout: str, output: FormatOption = Format.TABLE) -> None:
    """Show one rollout: its waves and every device's share."""

    async def work(api: Client) -> tuple[RolloutView, object, object]:
        found, shares = await api.rollout(rollout), await api.assignments(rollout)
        return found, assignments_table(shares), {"rollout": found, "assignments": shares}

    found, table, document = session(context).run(work)
    if output is Format.JSON:
        show_json(document)
        return
    OUT.print(rollout_panel(found))
    OUT.print(table)


@app.command()
def watch(context: typer.Context, rollout: str, timeout_s: TimeoutOption = 86400) -> None:
    """Watch a rollout live until it ends; exit code 0 completed, 1 not, 3 timeout."""
    _follow(context, rollout, timeout_s, Format.TABLE)


@app.command()
def explain(context: typer.Context, rollout: str, output: FormatOption = Format.TABLE) -> None:
    """Say why a rollout stands where it stands, and every decision that led there."""

    async def work(api: Client) -> tuple[RolloutView, list[DecisionView]]:
        return await api.rollout(rollout), await api.decisions(rollout)

    found, decisions = session(context).run(work)
    if output is Format.JSON:
        show_json({"rollout": found, "decisions": decisions})
        return
    OUT.print(f"{word(found.state)}: {found.explanation or found.reason}\n")
    show_table(
        ("AT (UTC)", "REASON", ""),
        ((f"{d.at:%H:%M:%S}", d.reason, d.explanation) for d in decisions),
        empty="no decision yet",
    )


@app.command()
def pause(context: typer.Context, rollout: str) -> None:
    """Hold a rollout: nothing new is assigned; what devices have goes on."""
    _act(context, rollout, "pause", {})


@app.command()
def resume(context: typer.Context, rollout: str) -> None:
    """Let a held rollout go on."""
    _act(context, rollout, "resume", {})


@app.command()
def abort(
    context: typer.Context,
    rollout: str,
    mode: Annotated[OnFailure, typer.Option(help="revert: devices go back; stop: nothing more activates.")] = (
        OnFailure.REVERT
    ),
) -> None:
    """End a rollout for good, on every device within seconds."""
    _act(context, rollout, "abort", {"mode": mode.value})


def _act(context: typer.Context, rollout: str, action: str, body: dict[str, str]) -> None:
    found = session(context).run(lambda api: api.post(f"/rollouts/{rollout}/{action}", body, RolloutView))
    OUT.print(f"{found.rollout_id}: {word(found.state)}  {found.explanation or found.reason}")


def _follow(context: typer.Context, rollout: str, timeout_s: float, output: Format) -> None:
    async def work(api: Client) -> RolloutView:
        found = await api.rollout(rollout)
        with Live(rollout_panel(found), console=OUT, auto_refresh=False, transient=True) as live:
            while found.state not in ENDED:
                await asyncio.sleep(_POLL_S)
                found = await api.rollout(rollout)
                live.update(rollout_panel(found), refresh=output is Format.TABLE)
        return found

    async def bounded(api: Client) -> RolloutView | None:
        try:
            async with asyncio.timeout(timeout_s):
                return await work(api)
        except TimeoutError:
            return None

    found = session(context).run(bounded)
    if found is None:
        fail(f"rollout {rollout} has not ended after {timeout_s:.0f} s", code=EXIT_TIMEOUT)
    if output is Format.JSON:
        show_json(found)
    else:
        OUT.print(rollout_panel(found))
    if found.state != "completed":
        raise typer.Exit(EXIT_FAILED)
