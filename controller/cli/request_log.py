"""`litefleet device request-log`: what of a model's requests devices write down; each release says what it allows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli.output import Format, FormatOption
from controller.cli.scope import DryRunOption, NamesArgument, SelectorOption, YesOption, carry_out, scope_of
from controller.cli.session import session

if TYPE_CHECKING:
    from controller.client import Client
    from controller.traffic_views import ChangeView

app = typer.Typer(
    help="Samples of requests and answers, kept on devices: set, clear, show. `device traffic show` tells what is set.",
    no_args_is_help=True,
)


@app.command("set")
def set_log(
    context: typer.Context,
    names: NamesArgument,
    rate: Annotated[
        float, typer.Option("--rate", min=0.000001, max=1, metavar="SHARE", help="Of the requests: 0.01 = 1 %.")
    ],
    upstream: Annotated[
        bool, typer.Option("--upstream", help="Send them to the controller too; the release must consent.")
    ] = False,
    selector: SelectorOption = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Have devices write down a sample of a model's requests, as far as the release consents."""
    _set(context, names, selector, rate=rate, upstream=upstream, dry_run=dry_run, yes=yes, output=output)


@app.command()
def show(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name.")],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Of this model only.")] = "",
) -> None:
    """Print the requests that a device sent, oldest first: one CloudEvent a line, as JSON."""

    async def work(api: Client) -> None:
        async for each in api.request_log(device, model=model):
            sys.stdout.buffer.write(bytes(each.event) + b"\n")
        sys.stdout.flush()

    session(context).run(work)


@app.command()
def clear(
    context: typer.Context,
    names: NamesArgument,
    selector: SelectorOption = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Have devices write nothing down of a model's requests any more."""
    _set(context, names, selector, rate=0.0, upstream=False, dry_run=dry_run, yes=yes, output=output)


def _set(
    context: typer.Context,
    names: list[str],
    selector: str,
    *,
    rate: float,
    upstream: bool,
    dry_run: bool,
    yes: bool,
    output: Format,
) -> None:
    scope, model = scope_of(names, selector)

    async def change(api: Client, dry: bool) -> ChangeView:
        return await api.set_request_log(
            {"model": model, "sample_rate": rate, "upstream": upstream, "dry_run": dry, **scope}
        )

    carry_out(context, change, many=bool(selector), dry_run=dry_run, yes=yes, output=output)
