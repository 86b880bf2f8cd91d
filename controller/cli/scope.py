"""Which devices a command changes: one by name, or a cohort, whose count is shown before anything happens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.output import ERR, Format, counted, fail, say, show_json
from controller.cli.session import EXIT_FAILED, EXIT_USAGE, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from controller.client import Client
    from controller.traffic_views import ChangeView

_SHOWN = 10

NamesArgument = Annotated[
    list[str], typer.Argument(metavar="[DEVICE] MODEL", help="The model; the device before it, unless --selector.")
]
SelectorOption = Annotated[
    str, typer.Option("--selector", "-l", metavar="QUERY", help="Many devices: site=lab,arch!=x86_64, or all.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count the devices and what would change.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="With --selector: do not ask.")]


def scope_of(names: Sequence[str], selector: str) -> tuple[dict[str, str], str]:
    """Return the devices as the API takes them, and the model; ends the program when they are not clear."""
    wanted = 1 if selector else 2
    if len(names) != wanted:
        what = "MODEL alone beside --selector" if selector else "DEVICE and MODEL, or --selector QUERY and MODEL"
        fail(f"give {what}", code=EXIT_USAGE)
    return ({"cohort": selector} if selector else {"device": names[0]}), names[-1]


def carry_out(
    context: typer.Context,
    change: Callable[[Client, bool], Awaitable[ChangeView]],
    *,
    many: bool,
    dry_run: bool,
    yes: bool,
    output: Format,
    halts: bool = False,
) -> None:
    """Make a change, of many devices only after their count was shown and agreed to.

    `halts`: it brings variants, which `traffic halt` takes back.
    """
    if many and not dry_run and not yes:
        _agree(session(context).run(lambda api: change(api, True)))
    done = session(context).run(lambda api: change(api, dry_run))
    if output is Format.JSON:
        show_json(done)
    else:
        tell(done)
        if halts and done.changed and not dry_run:
            say(f"to take it back for ever: litefleet device traffic halt {done.change_id}")
    if done.refused:
        raise typer.Exit(EXIT_FAILED)


def tell(done: ChangeView) -> None:
    """Say what a change came to."""
    would = "would change" if done.dry_run else "changed"
    say(f"{would} {counted(done.changed, 'device')}; {done.unchanged} stay as they are, {done.refused} cannot")
    for refusal in done.refusals[:_SHOWN]:
        ERR.print(f"  {refusal.device_id}: {refusal.reason}", soft_wrap=True, markup=False)
    if done.refused > _SHOWN:
        ERR.print(f"  and {done.refused - _SHOWN} more", soft_wrap=True)
    if done.without_consent:
        where = counted(done.without_consent, "device")
        ERR.print(f"warning: {where} will write nothing down: no release there consents to it", soft_wrap=True)
        ERR.print("         roll out one made with `litefleet release create --log-consent`", soft_wrap=True)


def pairs_of(words: Sequence[str], *, option: str, form: str) -> Mapping[str, str]:
    """Read `name=value` words; ends the program on anything else, and on a name that comes twice."""
    found: dict[str, str] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not (name and mark and value):
            fail(f"{option} {word!r} is not {form}", code=EXIT_USAGE)
        if name in found:
            fail(f"{option} names {name!r} twice", code=EXIT_USAGE)
        found[name] = value
    return found


def _agree(planned: ChangeView) -> None:
    tell(planned)
    if not planned.changed:
        return
    if not sys.stdin.isatty():
        fail("nobody is here to agree to it", remedy="add --yes, or look first with --dry-run", code=EXIT_USAGE)
    if not typer.confirm(f"change {counted(planned.changed, 'device')}?", err=True):
        raise typer.Exit(EXIT_FAILED)
