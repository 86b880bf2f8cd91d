"""`litefleet device traffic`: variants of a model beside the one that rollouts move, and who answers which share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from controller.cli.naming import called, release_id, release_names
from controller.cli.output import Format, FormatOption, fail, say, show_json
from controller.cli.rollout_options import (
    CanaryOption,
    DeviceDeadlineOption,
    FlipsOption,
    LatencyOption,
    OnFailure,
    OverrideOption,
    PairsOption,
    ProbationOption,
)
from controller.cli.scope import DryRunOption, NamesArgument, SelectorOption, YesOption, carry_out, pairs_of, scope_of
from controller.cli.session import EXIT_USAGE, session
from shared.traffic import MAIN, StickyBy, TrafficMode
from shared.wire import ProbationPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.client import Client
    from controller.traffic_views import ChangeView, DeviceTrafficView, RuleView, TrafficView

app = typer.Typer(
    help="Variants of a model on devices: show, set, clear, halt. See docs/traffic.md.", no_args_is_help=True
)

_POLICY = ProbationPolicy()
_RULE = "Who answers"
_HEADER = f"{StickyBy.HEADER}:"

VariantOption = Annotated[
    list[str] | None,
    typer.Option("--variant", metavar="NAME=RELEASE", help="Bring a release as this variant; repeat."),
]
RemoveOption = Annotated[
    list[str] | None, typer.Option("--remove", metavar="NAME", help="Take a variant away that no rule names; repeat.")
]
WeightsOption = Annotated[
    str,
    typer.Option(
        metavar="NAME=N,…", rich_help_panel=_RULE, help="Shares, e.g. main=90,blue=10; replaces the whole rule."
    ),
]
StickyOption = Annotated[
    str,
    typer.Option(
        metavar="key|application|header:NAME", rich_help_panel=_RULE, help="What keeps a caller with its variant."
    ),
]
PinOption = Annotated[
    list[str] | None,
    typer.Option("--pin", metavar="VALUE=VARIANT", rich_help_panel=_RULE, help="Who always gets it; repeat."),
]
ShadowOption = Annotated[
    str, typer.Option(metavar="VARIANT", rich_help_panel=_RULE, help="Runs on copies, and answers nobody.")
]
ModeOption = Annotated[
    TrafficMode, typer.Option(rich_help_panel=_RULE, help="bandit: rewards that applications report decide.")
]


@app.command()
def show(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Show which variants a device should run, and who answers which share."""

    async def work(api: Client) -> tuple[DeviceTrafficView, Mapping[str, str]]:
        return await api.traffic(device), await release_names(api)

    found, names = session(context).run(work)
    if output is Format.JSON:
        show_json(found)
        return
    for one in found.items:
        _say_model(one, names)
    if not found.items:
        say(f"nothing is desired of {device} yet; next: litefleet rollout start MODEL/NUMBER --cohort device={device}")


@app.command("set")
def set_traffic(
    context: typer.Context,
    names: NamesArgument,
    selector: SelectorOption = "",
    variant: VariantOption = None,
    remove: RemoveOption = None,
    weights: WeightsOption = "",
    sticky: StickyOption = "",
    pin: PinOption = None,
    shadow: ShadowOption = "",
    mode: ModeOption = TrafficMode.WEIGHTED,
    min_pairs: PairsOption = _POLICY.min_pairs,
    max_flip_rate: FlipsOption = _POLICY.max_flip_rate,
    max_latency_ratio: LatencyOption = _POLICY.max_latency_ratio,
    probation: ProbationOption = _POLICY.probation_s,
    canary_share: CanaryOption = 1.0,
    device_deadline: DeviceDeadlineOption = _POLICY.deadline_s,
    override_blacklist: OverrideOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Bring variants of a model to devices, and say who answers which share; what is not named stays as it is."""
    scope, model = scope_of(names, selector)
    rule = _rule(weights=weights, sticky=sticky, pins=pin or [], shadow=shadow, mode=mode)
    brought = pairs_of(variant or [], option="--variant", form="NAME=RELEASE")
    if not (rule or brought or remove):
        fail("nothing to set", remedy="give --variant, --weights, --shadow or --remove", code=EXIT_USAGE)
    policy = ProbationPolicy(
        min_pairs=min_pairs,
        max_flip_rate=max_flip_rate,
        max_latency_ratio=max_latency_ratio,
        probation_s=probation,
        deadline_s=device_deadline,
        canary_share=canary_share,
    )

    async def change(api: Client, dry: bool) -> ChangeView:
        variants = {
            name: {
                "release_id": await release_id(api, typed),
                "policy": msgspec.to_builtins(policy),
                "override_blacklist": override_blacklist,
            }
            for name, typed in brought.items()
        }
        body = {"model": model, "variants": variants, "remove": remove or [], "rule": rule, "dry_run": dry, **scope}
        return await api.set_traffic(body)

    carry_out(context, change, many=bool(selector), dry_run=dry_run, yes=yes, output=output, halts=bool(brought))


@app.command()
def clear(
    context: typer.Context,
    names: NamesArgument,
    selector: SelectorOption = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Take the rule and all variants of a model away: the main variant answers everything."""
    scope, model = scope_of(names, selector)

    async def change(api: Client, dry: bool) -> ChangeView:
        return await api.set_traffic({"model": model, "clear": True, "dry_run": dry, **scope})

    carry_out(context, change, many=bool(selector), dry_run=dry_run, yes=yes, output=output)


@app.command()
def halt(
    context: typer.Context,
    change: Annotated[str, typer.Argument(metavar="CHANGE", help="The id that `set` or `show` told.")],
    mode: Annotated[OnFailure, typer.Option(help="revert: devices go back; stop: nothing more activates.")] = (
        OnFailure.REVERT
    ),
    output: FormatOption = Format.TABLE,
) -> None:
    """Take back on every device, within seconds and for ever, the variants that one change brought."""
    session(context).run(lambda api: api.halt_traffic(change, mode.value))
    if output is Format.JSON:
        show_json({"halted": change, "mode": mode.value})
        return
    say(f"halted {change} ({mode.value})")


def rule_in_words(rule: RuleView) -> str:
    """Return a rule in one line."""
    words = [" ".join(f"{arm.variant}={arm.weight}" for arm in rule.arms)]
    words += [rule.mode] if rule.mode != TrafficMode.WEIGHTED else []
    if rule.sticky_by != StickyBy.NOTHING:
        words.append(f"sticky by {rule.sticky_by}{' ' + rule.header if rule.header else ''}")
    words += [f"{value} always {variant}" for value, variant in sorted(rule.pins.items())]
    words += [f"shadow {rule.shadow}"] if rule.shadow else []
    return ", ".join(words)


def _say_model(one: TrafficView, names: Mapping[str, str]) -> None:
    say(f"{one.model}: {rule_in_words(one.rule) if one.rule else 'no rule: main answers everything'}")
    for variant in one.variants:
        brought = "rollout" if variant.variant == MAIN else "change"
        say(f"  {variant.variant:<12} {called(variant.release_id, names)}  ({brought} {variant.change_id})")
    if one.request_log is not None:
        where = "and sent upstream" if one.request_log.upstream else "on the device"
        say(f"  request log  {one.request_log.sample_rate:.2%} of the requests, {where}")


def _rule(
    *, weights: str, sticky: str, pins: Sequence[str], shadow: str, mode: TrafficMode
) -> dict[str, object] | None:
    """Return the rule as the API takes it; None when no option speaks of one."""
    if not weights and (sticky or pins or mode is not TrafficMode.WEIGHTED):
        fail("--sticky, --pin and --mode need --weights", remedy="e.g. --weights main=50,blue=50", code=EXIT_USAGE)
    if not (weights or shadow):
        return None
    # A shadow alone leaves the answers where they are.
    shares = pairs_of((weights or f"{MAIN}=100").split(","), option="--weights", form="NAME=N,NAME=N")
    by_header = sticky.startswith(_HEADER)
    return {
        "arms": [{"variant": name, "weight": _weight(share)} for name, share in shares.items()],
        "mode": mode.value,
        "sticky_by": StickyBy.HEADER.value if by_header else _sticky(sticky),
        "header": sticky.removeprefix(_HEADER).lower() if by_header else "",
        "pins": dict(pairs_of(pins, option="--pin", form="VALUE=VARIANT")),
        "shadow": shadow,
    }


def _weight(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        fail(f"--weights: {text!r} is no whole number", code=EXIT_USAGE)
    return int(text)


def _sticky(text: str) -> str:
    if text not in {"", StickyBy.KEY, StickyBy.APPLICATION}:
        fail(f"--sticky {text!r} is not key, application or header:NAME", code=EXIT_USAGE)
    return text or StickyBy.NOTHING.value
